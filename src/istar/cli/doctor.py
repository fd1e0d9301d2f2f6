"""`istar doctor`: whether istar runs on this machine, and what to do if not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from istar.cli.console import print_lines, printable
from istar.cli.download_display import readable
from istar.cli.models import JsonOption
from istar.cli.remedies import with_remedies
from istar.doctor import Finding, Hub, Report, examine

_FITS = {True: "fits", False: "too much", None: "unknown"}


def doctor(
    as_json: JsonOption = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the Hub.")] = False,
) -> None:
    """Look at whether istar runs on this machine, and say what to do if not.

    Exit code 1 if something prevents generating with the released models; slow is no reason.
    """
    report = examine(ask=not offline)
    if as_json:
        problems = [
            {
                "text": finding.text,
                "advice": _advice(finding),
                "prevents_generating": finding.prevents_generating,
            }
            for finding in report.findings
        ]
        found = {"can_generate": report.can_generate, **asdict(report), "problems": problems}
        del found["findings"]
        print_lines([json.dumps(found, indent=2, default=str)])
    else:
        print_lines(_lines(report))
    if not report.can_generate:
        raise typer.Exit(1)


def _lines(report: Report) -> Iterator[str]:
    """The report for a person."""
    for title, facts in (
        ("software", _software(report)),
        ("machine", _machine(report)),
        ("the Hub", _hub(report.hub)),
    ):
        yield title
        yield from (printable(f"  {name:<15}  {text}") for name, text in facts)
        yield ""
    yield "models: weights alone; more is needed while generating"
    yield from _model_table(report)
    yield ""
    yield "problems" if report.findings else "no problems"
    shows_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    cross = "\x1b[31mx\x1b[0m" if shows_colour and os.environ.get("TERM") != "dumb" else "x"
    for finding in report.findings:
        yield f"  {cross if finding.prevents_generating else '-'} {printable(finding.text)}"
        if advice := _advice(finding):
            yield f"    {printable(advice)}"
    if not report.can_generate:
        yield "those marked x prevent generating with the released models"


def _advice(finding: Finding) -> str:
    return with_remedies(finding.advice, finding.remedies).removeprefix("; ")


def _software(report: Report) -> Iterator[tuple[str, str]]:
    found, codecs = report.software, report.codecs
    build = found["torch_build"]
    yield "istar", f"{found['istar']}"
    yield "Python", f"{found['python']}, {found['executable']}"
    yield "platform", f"{found['platform']}"
    for package in ("torch", "transformers", "huggingface-hub", "av"):
        name = "PyAV" if package == "av" else package
        built = f", built for {build}" if package == "torch" and build else ""
        yield name, f"{found[package] or 'not installed'}{built}"
    can = (f"{what}: {'yes' if codecs.get(what) else 'no'}" for what in ("written", "read"))
    yield "H.264", ", ".join(can)


def _machine(report: Report) -> Iterator[tuple[str, str]]:
    machine = report.machine
    for gpu in machine.gpus:
        room = f"{readable(gpu.free_bytes)} free of {readable(gpu.total_bytes)}"
        bf16 = "bf16" if gpu.has_bf16 else "slow bf16"
        yield f"GPU {gpu.index}", f"{gpu.name}, {room}, capability {gpu.capability}, {bf16}"
    if not machine.gpus:
        yield "GPU", "none"
    yield "CPU cores", f"{machine.cores or 'unknown'}"
    available, total = (
        "unknown" if size is None else readable(size)
        for size in (machine.available_bytes, machine.total_bytes)
    )
    yield "memory", f"{available} available of {total}"


def _hub(hub: Hub | None) -> Iterator[tuple[str, str]]:
    if hub is None:
        yield "client", "does not start"
        return
    answers = {"reached": "answers", "failed": "does not answer", "not asked": "not asked"}
    yield "cache", f"{hub.settings.cache}{'' if hub.is_writable else ', cannot be written'}"
    yield "free disk", readable(hub.free_bytes)
    yield "models in cache", readable(hub.model_bytes)
    offline = "not asked: HF_HUB_OFFLINE is set"
    yield "address", f"{hub.settings.endpoint}, {answers.get(hub.state, offline)}"
    yield "token", "present" if hub.settings.has_token else "none, and none is needed"


def _model_table(report: Report) -> Iterator[str]:
    rows = [("NAME", "ON A GPU, BF16", "", "ON THE CPU, FP32", "", "TO DOWNLOAD", "")]
    for model in report.models:
        missing = model.missing_bytes
        rows.append(
            (
                model.name,
                readable(model.gpu_bytes),
                _FITS[model.fits_gpu] if report.machine.gpus else "no GPU",
                readable(model.cpu_bytes),
                _FITS[model.fits_cpu],
                readable(missing) if missing else "unknown" if missing is None else "nothing",
                _FITS[model.fits_disk] if missing else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()
