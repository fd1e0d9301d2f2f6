"""Run the ablations and write the tables of `docs/ablations.md`; what is done is not done again.

Every run (`ablation_runs.py`) is a process of its own on a core of its own. Its result is kept in
`docs/ablations.json` as soon as it is there, and a run that was stopped continues from its last
checkpoint.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock
from typing import Any

import torch

from ablation_runs import CEILINGS, KINDS, OUTPUT, Scope, prepared, settings_of, tiny_parts
from ablation_tables import Measures, difference_rows, level_rows
from istar.files import replace_text
from istar.training.log import LOG_NAME, read_log

RESULTS = Path(__file__).with_name("ablations.json")
TARGET = RESULTS.with_suffix(".md")
RESULT_NAME = "result.json"

Results = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""By kind of run, variant and seed: settings, parts and measures."""


@dataclass(frozen=True, kw_only=True)
class AblationRun:
    """One run of one variant with one seed."""

    kind: str
    name: str
    seed: int

    @property
    def settings(self) -> str:
        """All settings that its result depends on, in a few letters, but for its seed."""
        return settings_of(self.kind, KINDS[self.kind].variants[self.name])

    @property
    def directory(self) -> Path:
        """Where it trains, and leaves its result first."""
        parts = tiny_parts() if KINDS[self.kind].from_tiny else "new"
        return OUTPUT / f"{self.kind}-{self.settings}-{parts}-{self.seed}"

    def __str__(self) -> str:
        return f"{self.kind}, {self.name}, seed {self.seed}"


def all_runs() -> tuple[AblationRun, ...]:
    """Every run, all variants of a seed before the next seed."""
    return tuple(
        AblationRun(kind=kind, name=name, seed=seed)
        for kind, own in KINDS.items()
        for seed in own.seeds
        for name, variant in own.variants.items()
        if seed in variant.seeds
    )


def known_results() -> Results:
    """The results that are kept."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def missing_runs(found: Results) -> tuple[AblationRun, ...]:
    """The runs without a result of these settings.

    Runs are compared with each other, so all of a kind must begin with the same parts of
    istar-tiny: until the last is done, results of other parts than today's do not count.
    """
    missing: list[AblationRun] = []
    for kind, own in KINDS.items():
        runs = [run for run in all_runs() if run.kind == kind]
        kept = {run: _kept(found, run) for run in runs}
        parts = {one["parts"] for one in kept.values() if one}
        if all(kept.values()) and len(parts) == 1:
            continue
        today = tiny_parts() if own.from_tiny else "new"
        missing += [run for run, one in kept.items() if not one or one["parts"] != today]
    return tuple(missing)


def _kept(found: Results, run: AblationRun) -> dict[str, Any] | None:
    """A run's result, if it is of the settings of today."""
    one = found.get(run.kind, {}).get(run.name, {}).get(str(run.seed))
    return one if one and one["settings"] == run.settings else None


def keep(found: Results, run: AblationRun, result: Mapping[str, Any]) -> None:
    """Add a result and write all of them, in order and without those it does not compare with."""
    found.setdefault(run.kind, {}).setdefault(run.name, {})[str(run.seed)] = dict(result)
    ordered: Results = {}
    for one in all_runs():
        kept = _kept(found, one)
        if kept and (one.kind != run.kind or kept["parts"] == result["parts"]):
            ordered.setdefault(one.kind, {}).setdefault(one.name, {})[str(one.seed)] = kept
    found.clear()
    found.update(ordered)
    replace_text(RESULTS, json.dumps(found, indent=2) + "\n")


def result_of(
    run: AblationRun, *, scope: Scope | None = None, steps: int | None = None
) -> dict[str, Any]:
    """What a run comes to, with all that it comes of; a result that it left is not made again."""
    target = run.directory / RESULT_NAME
    if not target.exists():
        kind = KINDS[run.kind]
        measures = kind.run(
            kind.variants[run.name], run.seed, run.directory, scope or Scope(), steps
        )
        run.directory.mkdir(parents=True, exist_ok=True)
        parts = tiny_parts() if kind.from_tiny else "new"
        result = {"settings": run.settings, "parts": parts, "measures": measures}
        replace_text(target, json.dumps(result, indent=2) + "\n")
    return left_result(run)


def left_result(run: AblationRun) -> dict[str, Any]:
    """The result that a run has left.

    Raises:
        SystemExit: it has left none: istar-tiny or the settings have changed since it was begun.
    """
    target = run.directory / RESULT_NAME
    if not target.exists():
        raise SystemExit(f"{run}: something it begins with has changed; start again")
    result = json.loads(target.read_text(encoding="utf-8"))
    assert isinstance(result, dict)
    return result


def progress(run: AblationRun) -> str:
    """How far a run without a kept result is."""
    if (run.directory / RESULT_NAME).exists():
        return "done, but not kept yet"
    log = run.directory / LOG_NAME
    last = read_log(log)[-1:] if log.exists() else []
    return f"step {last[0]['step']}" if last else "not begun"


def run_all(cores: Sequence[int]) -> None:
    """Run what is missing, a process on each core at a time."""
    found, lock, stopped = known_results(), Lock(), Event()
    waiting: SimpleQueue[AblationRun] = SimpleQueue()
    missing = missing_runs(found)
    for run in missing:
        waiting.put(run)
    if any(run.kind == "transformer" for run in missing):
        prepared()  # now, so that no two runs at once write it

    def work(core: int) -> None:
        while not stopped.is_set():
            try:
                run = waiting.get_nowait()
            except Empty:
                return
            print(f"core {core}: {run}", flush=True)
            one = [run.kind, run.name, str(run.seed)]
            subprocess.run(
                [sys.executable, __file__, "--run", *one, "--core", str(core)], check=True
            )
            with lock:
                keep(found, run, left_result(run))
                write_page(found)

    with ThreadPoolExecutor(len(cores)) as pool:
        try:
            for done in as_completed([pool.submit(work, core) for core in cores]):
                done.result()
        except BaseException:
            stopped.set()
            raise


def own_cores() -> Sequence[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def write_page(found: Results) -> None:
    """Write the tables."""
    text = generated(TARGET.read_text(encoding="utf-8"), found)
    replace_text(TARGET, text)


def generated(text: str, found: Results) -> str:
    """The page with all tables as the results have them."""
    for kind in ("transformer", "tokenizer"):
        own = KINDS[kind]
        rows = {name: measures_of(found, kind, name) for name in own.variants}
        other_bits = {name for name, variant in own.variants.items() if variant.other_bits}
        incomparable = {(name, "loss") for name in other_bits}
        above: dict[str, Measures] = {}
        if kind == "transformer":
            above = {name: measures_of(found, "ceiling", name) for name in CEILINGS}
        tables = {
            kind: level_rows(own.columns, {**above, **rows}),
            f"{kind} differences": difference_rows(own.columns, rows, incomparable),
        }
        for name, lines in tables.items():
            start, end = f"<!-- results: {name} -->\n", "<!-- end -->"
            before, marker, rest = text.partition(start)
            assert marker, f"no table {name}"
            body = "\n".join(["", *lines, "", ""])
            text = before + start + body + end + rest.partition(end)[2]
    return text


def measures_of(found: Results, kind: str, name: str) -> Measures:
    """The measures of a variant, by seed."""
    seeds = found.get(kind, {}).get(name, {})
    return {int(seed): one["measures"] for seed, one in seeds.items()}


def main() -> None:
    """Run, say how far the runs are, or be one of the runs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--list", action="store_true", help="only say how far every run is")
    parser.add_argument("--cores", default="", help="numbers of the cores to use: 0,1")
    parser.add_argument("--run", nargs=3, metavar=("KIND", "NAME", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--core", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        if hasattr(os, "sched_setaffinity"):  # only Linux pins processes to cores
            os.sched_setaffinity(0, {asked.core})
        torch.set_num_threads(1)
        kind, name, seed = asked.run
        result_of(AblationRun(kind=kind, name=name, seed=int(seed)))
    elif asked.list:
        runs, missing = all_runs(), missing_runs(known_results())
        for run in runs:
            print(f"{run}: {progress(run) if run in missing else 'done'}")
        print(f"{len(runs) - len(missing)} of {len(runs)} are done")
    else:
        named = [int(core) for core in asked.cores.split(",") if core]
        run_all(named or own_cores())
        write_page(known_results())


if __name__ == "__main__":
    main()
