"""`istar doctor`: whether istar runs on this machine, and what to do if not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from istar.byte_size import readable_size
from istar.cli.console import print_json, print_lines, printable
from istar.cli.models import JsonOption
from istar.cli.remedies import with_remedies

if TYPE_CHECKING:
    from istar.doctor import HubReport, Report

_FITS = {True: "fits", False: "too much", None: "unknown"}


def doctor(
    as_json: JsonOption = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the Hub.")] = False,
) -> None:
    """Look at whether istar runs on this machine, and say what to do if not.

    Exit code 1 if something prevents generating with the released models; slow is no reason.
    """
    from istar.doctor import examine

    report = examine(ask=not offline)
    if as_json:
        found = {"can_generate": report.can_generate, **asdict(report)}
        print_json(found)
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
    if report.models:
        yield "models: memory for a clip by --memory, on a GPU in bf16, and of the host"
        yield from _model_table(report)
        yield ""
    yield "problems" if report.findings else "no problems"
    shows_colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    cross = "\x1b[31mx\x1b[0m" if shows_colour and os.environ.get("TERM") != "dumb" else "x"
    for finding in report.findings:
        yield f"  {cross if finding.prevents_generating else '-'} {printable(finding.text)}"
        if advice := with_remedies(finding.advice, finding.remedies).removeprefix("; "):
            yield f"    {printable(advice)}"
    if not report.can_generate:
        yield "those marked x prevent generating with the released models"


def _software(report: Report) -> Iterator[tuple[str, str]]:
    for name, value in report.software.items():
        yield name, value or "missing"
    can = ((what, report.codecs.get(what)) for what in ("written", "read"))
    yield "H.264", ", ".join(f"{what}: {'yes' if able else 'no'}" for what, able in can)


def _machine(report: Report) -> Iterator[tuple[str, str]]:
    for gpu in report.gpus:
        room = f"{readable_size(gpu.free_bytes)} free of {readable_size(gpu.total_bytes)}"
        bf16 = "bf16" if gpu.has_bf16 else "slow bf16"
        yield f"GPU {gpu.index}", f"{gpu.name}, {room}, capability {gpu.capability}, {bf16}"
    if not report.gpus:
        yield "GPU", "none"
    yield "CPU cores", f"{report.cores or 'unknown'}"
    available, total = (
        "unknown" if size is None else readable_size(size)
        for size in (report.available_bytes, report.memory_bytes)
    )
    yield "memory", f"{available} available of {total}"


def _hub(hub: HubReport | None) -> Iterator[tuple[str, str]]:
    if hub is None:
        yield "cache", "cannot be used"
        return
    answers = {"reached": "answers", "failed": "does not answer", "not asked": "not asked"}
    yield "cache", f"{hub.settings.cache}{'' if hub.is_writable else ', cannot be written'}"
    yield "free disk", readable_size(hub.free_bytes)
    yield "models in cache", readable_size(hub.model_bytes)
    offline = "not asked: HF_HUB_OFFLINE is set"
    yield "address", f"{hub.settings.endpoint}, {answers.get(hub.state, offline)}"
    yield "token", "present" if hub.settings.has_token else "none, and none is needed"


def _model_table(report: Report) -> Iterator[str]:
    names = [plan.name for plan in report.models[0].plans]
    titles = "".join(f"{name.upper():<10}" for name in names)
    yield f"  {'NAME':<10}{titles}{'HOST':<10}{'HERE':<10}{'ON THE CPU':<20}TO DOWNLOAD"
    for model in report.models:
        plans = "".join(f"{readable_size(plan.device_bytes):<10}" for plan in model.plans)
        # Of what streams, most waits in host memory.
        host, on_cpu = readable_size(model.plans[-1].host_bytes), readable_size(model.cpu_bytes)
        missing = model.missing_bytes
        download = (
            readable_size(missing) if missing else "unknown" if missing is None else "nothing"
        )
        disk = _FITS[model.fits_disk] if missing else ""
        here = next((name for name in model.gpu_plans if name), None) or (
            "too much" if report.gpus else "no GPU"
        )
        cells = f"  {model.name:<10}{plans}{host:<10}{here:<10}{on_cpu:<10}"
        yield f"{cells}{_FITS[model.fits_cpu]:<10}{download:<10}{disk}".rstrip()
