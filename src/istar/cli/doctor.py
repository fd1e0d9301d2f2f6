"""`istar doctor`: whether istar runs on this machine, and what to do if not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import Annotated

import typer

from istar.cli.console import print_lines, printable, say
from istar.cli.download_display import readable
from istar.cli.models import JsonOption
from istar.doctor import Cache, Cuda, Gpus, ModelNeeds, Report, Software, Token, examine
from istar.errors import IstarError
from istar.models.released import RELEASED_MODELS
from istar.models.store import state_of

_RED, _PLAIN = "\x1b[31m", "\x1b[0m"
_UNKNOWN = "unknown"
_FITS = {"yes": "fits", "no": "too much", "none": "no GPU", "unknown": "unknown"}

Line = tuple[str, str]


def doctor(
    as_json: JsonOption = False,
    gpu: Annotated[
        bool, typer.Option("--gpu", help="Ask torch about the GPU too, which takes seconds.")
    ] = False,
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the Hub.")] = False,
) -> None:
    """Look at whether istar runs on this machine, and say what to do if not.

    Exit code 1 if something prevents generating with the released models; slow is no reason.

    Example: istar doctor --gpu
    """
    report = examine(gpu_details=gpu, offline=offline, bytes_to_fetch=_bytes_to_fetch())
    if as_json:
        found = {"can_generate": report.can_generate, **asdict(report)}
        print_lines([json.dumps(found, indent=2, default=str)])
    else:
        print_lines(_told(report))
    if not report.can_generate:
        raise typer.Exit(1)


def _bytes_to_fetch() -> dict[str, int]:
    """What is still to be fetched of each model, by its name."""
    missing, damage = {}, set()
    for spec in RELEASED_MODELS:
        try:
            state = state_of(spec)
        except IstarError as error:
            damage.add(str(error))
            continue
        if state.state == "ready" or state.copies:
            missing[spec.name] = 0
        elif spec.source:
            total = state.bytes_total or spec.source.expected_bytes
            # Something is missing, even where the Hub has less than was expected.
            missing[spec.name] = max(1, total - state.bytes_here)
    for text in sorted(damage):
        say(f"what is here of some models cannot be told: {text}")
    return missing


def _told(report: Report) -> Iterator[str]:
    """The report in lines for a person."""
    sections: tuple[tuple[str, list[Line]], ...] = (
        ("software", list(_software(report))),
        ("machine", list(_machine(report))),
        ("the Hub", list(_hub(report))),
    )
    width = max(len(name) for _, lines in sections for name, _ in lines)
    for title, lines in sections:
        yield title
        yield from (printable(f"  {name:{width}}  {text}") for name, text in lines)
        yield ""
    yield "models: weights alone; more is needed while generating"
    yield from _model_table(report.models)
    yield ""
    yield from _problems(report)


def _software(report: Report) -> Iterator[Line]:
    software, codecs = report.software, report.codecs
    missing = "not installed"
    yield "istar", software.istar
    yield "Python", f"{software.python}, {software.executable}"
    yield "platform", software.platform
    yield "torch", f"{software.torch}, built for {_build(software)}" if software.torch else missing
    yield "transformers", software.transformers or missing
    yield "huggingface-hub", software.huggingface_hub or missing
    yield "PyAV", software.av or missing
    if codecs.importable:
        can = [
            f"{what}: {'yes' if able else 'no'}"
            for what, able in (("written", codecs.encoder), ("read", codecs.decoder))
        ]
        yield "H.264", ", ".join(can)
    else:
        yield "H.264", f"PyAV cannot be imported: {codecs.problem}"


def _build(software: Software) -> str:
    names = {"cpu": "the CPU", "cuda": "CUDA", "rocm": "ROCm", "xpu": "XPU"}
    name = names.get(software.torch_build or "", "an unknown device")
    return " ".join(filter(None, (name, software.torch_build_version)))


def _machine(report: Report) -> Iterator[Line]:
    gpus, host = report.gpus, report.host
    yield from _gpus(gpus)
    if report.cuda:
        yield from _cuda(report.cuda)
    yield "CPU cores", str(host.cores or _UNKNOWN)
    yield "memory", _room(host.available_bytes, host.total_bytes, "available")


def _gpus(gpus: Gpus) -> Iterator[Line]:
    for gpu in gpus.found:
        room = _room(gpu.free_bytes, gpu.total_bytes, "free")
        yield f"GPU {gpu.index}", f"{gpu.name}, {room}, driver {gpu.driver}"
    if not gpus.found:
        yield "GPU", gpus.problem or ("none" if gpus.installed else "none (no nvidia-smi)")
    if gpus.visible is not None:
        yield "CUDA_VISIBLE_DEVICES", gpus.visible or "empty"


def _cuda(cuda: Cuda) -> Iterator[Line]:
    if not cuda.available:
        yield "CUDA in torch", cuda.problem or "none"
        return
    for device in cuda.devices:
        room = _room(device.free_bytes, device.total_bytes, "free")
        bf16 = "bf16" if device.bf16 else "no bf16"
        yield f"cuda:{device.index}", f"{device.name}, {room}, {device.capability}, {bf16}"
    yield "cuDNN", _UNKNOWN if cuda.cudnn is None else str(cuda.cudnn)


def _hub(report: Report) -> Iterator[Line]:
    hub = report.hub
    yield "cache", _cache(report.cache)
    free = report.cache.free_bytes
    yield "free disk", _UNKNOWN if free is None else readable(free)
    yield "models in cache", readable(report.cache.model_bytes)
    answers = {
        "reached": f"{hub.endpoint} answers",
        "failed": hub.problem or "",
        "not asked": f"{hub.endpoint}, not asked",
        "offline": f"{hub.endpoint}, not asked: HF_HUB_OFFLINE is set",
    }
    yield "reachable", answers[hub.state]
    yield "token", _token(report.token)


def _cache(cache: Cache) -> str:
    setting = f", by {cache.setting}" if cache.setting else ""
    made = "" if cache.exists or cache.problem else ", not made yet"
    state = "" if cache.state == "writable" else f", {cache.state}"
    return f"{cache.path}{setting}{made}{state}"


def _token(token: Token) -> str:
    if token.problem:
        return token.problem
    return f"present, in {token.source}" if token.present else "none, and none is needed"


def _model_table(models: tuple[ModelNeeds, ...]) -> Iterator[str]:
    rows = [("NAME", "ON A GPU, BF16", "", "ON THE CPU, FP32", "", "TO FETCH", "")]
    rows += [
        (
            model.name,
            readable(model.gpu_bytes),
            _FITS[model.fits_gpu],
            readable(model.host_bytes),
            _FITS[model.fits_host],
            "nothing" if model.is_here else readable(model.fetch_bytes),
            "" if model.is_here else _FITS[model.fits_disk],
        )
        for model in models
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield f"  {'  '.join(cells)}".rstrip()


def _problems(report: Report) -> Iterator[str]:
    if not report.problems:
        yield "no problems"
        return
    yield "problems"
    red, plain = (_RED, _PLAIN) if _shows_colour() else ("", "")
    for problem in report.problems:
        mark = f"{red}x{plain}" if problem.prevents_generating else "-"
        yield f"  {mark} {printable(problem.text)}"
        yield f"    {printable(problem.advice)}"
    if not report.can_generate:
        yield "those marked x prevent generating with the released models"


def _shows_colour() -> bool:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return sys.stdout.isatty() and not plain


def _room(free: int | None, total: int | None, word: str) -> str:
    parts = (_UNKNOWN if size is None else readable(size) for size in (free, total))
    return f" {word} of ".join(parts)
