"""`info`: what a file holds, and how it was made."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from istar.byte_size import readable_size
from istar.cli.console import print_lines, printable, say_failure
from istar.cli.inputs import is_take, take_input
from istar.cli.reuse import settings_of_take, whole_settings
from istar.errors import IstarError
from istar.file_settings import FileSettings, UsedSampling
from istar.generation.sampling import Temperature
from istar.generation.schedule import Grid
from istar.generation.until import scale_name
from istar.plurals import counted

if TYPE_CHECKING:
    from istar.take import Take

_LABEL_WIDTH = 12
_NARROWEST = 40
_NO_SETTINGS = "was not written by istar"


def info(
    files: Annotated[
        list[Path],
        typer.Argument(help="Pictures, videos and takes, by istar or not; - is stdin."),
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout, a line for every file.")
    ] = False,
) -> None:
    """Say how files were made: prompt, seed, model and settings; of a take also how far it is.

    Example: istar info istar-t2v-0001.mp4
    """
    code, lines = 0, list[str]()
    for path in files:
        try:
            source = take_input(path)
            read = _Found.of_take if is_take(source) else _Found.of_media
            found = read(source, os.fsdecode(path))
        except IstarError as error:
            say_failure("", error)
            code = max(code, error.exit_code)
            continue
        former = lines
        lines = [json.dumps(found.table)] if as_json else list(found.lines())
        are_apart = former and max(len(former), len(lines)) > 1
        print_lines(["", *lines] if are_apart else lines)
    if code:
        raise typer.Exit(code)


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What there is to say of a file.

    Attributes:
        heading: its name and what it is.
        rows: labels and values.
        table: the same as JSON values.
    """

    heading: str
    rows: list[tuple[str, str]]
    table: dict[str, Any]

    @classmethod
    def of_media(cls, source: Path, name: str) -> _Found:
        """Of a picture or a video, under the name that was typed.

        Raises:
            IstarError: it is not there, damaged, or neither.
        """
        from istar.media import probe_file
        from istar.media.sheet import take_names

        info = probe_file(source)
        settings = whole_settings(source, info)
        is_cut = settings is None and info.is_cut
        if is_cut:
            settings = FileSettings.read(info.texts, f"'{name}'")
        takes = take_names(info.texts)
        what = (
            info.kind if takes is None else f"sheet of {counted(len(takes), 'take')}, {info.kind}"
        )
        parts = [what, f"{info.width}×{info.height}"]
        if info.seconds:
            parts.append(f"{round(info.seconds, 2):g} s")
        if info.frames > 1:
            parts.append(counted(info.frames, "picture"))
        rows = [] if settings is None else list(_described(settings))
        if settings is not None and settings.unfinished:
            rows.append(("reached", "not the end: it is decoded from a take under way"))
        rows += [("take", f"{number}: {name}") for number, name in enumerate(takes or (), 1)]
        if is_cut:
            rows.append(("note", "the longest of these are cut: a JPEG has no room for more"))
        table = asdict(info)
        del table["texts"]
        return cls(
            heading=f"{name}{'' if rows else f' {_NO_SETTINGS}'}: {', '.join(parts)}",
            rows=rows,
            table={
                "file": name,
                **table,
                **({} if takes is None else {"takes": takes}),
                "istar": None if settings is None else settings.as_json(),
            },
        )

    @classmethod
    def of_take(cls, source: Path, name: str) -> _Found:
        """Of a take, likewise.

        Raises:
            IstarError: it is not there, damaged, or of another version.
        """
        from istar.take import Take

        take, size = Take.load(source), source.stat().st_size
        settings, progress = settings_of_take(take), _Progress.of(take)
        parts = ["take", *progress.size(), readable_size(size)]
        return cls(
            heading=f"{name}: {', '.join(parts)}",
            rows=[*_described(settings), *progress.rows()],
            table={
                "file": name,
                "kind": "take",
                "bytes": size,
                **progress.as_json(),
                "model": asdict(take.model),
                "istar": settings.as_json(),
            },
        )

    def lines(self) -> Iterator[str]:
        """For a person."""
        yield printable(self.heading)
        for label, value in self.rows:
            yield from _row(label, value)


@dataclass(frozen=True, kw_only=True)
class _Progress:
    """How far a take is.

    Attributes:
        width, height: of its pictures, in pixels; 0 before its first window.
        finished: every step is taken.
        windows: how many are begun.
        windows_total: how many there are.
        taken: how many steps of the last window are taken.
        steps: how many it has.
        clip: that of the last step taken, from 0; None before the first.
        scale: likewise.
        grid: of that step's tokens.
        drawn: bits that were drawn.
        given: bits that were given by the input, or kept as whole steps.
        kept: bits that were kept beside others of their step.
        seconds: how long drawing took.
    """

    width: int
    height: int
    finished: bool
    windows: int
    windows_total: int
    taken: int
    steps: int
    clip: int | None
    scale: int | None
    grid: Grid | None
    drawn: int
    given: int
    kept: int
    seconds: float

    @classmethod
    def of(cls, take: Take) -> _Progress:
        """Of a take, from its tokens alone."""
        last, schedule = take.last_step, take.windows[-1].schedule if take.windows else None
        height, width = take.size or (0, 0)
        drawn = given = kept = 0
        for window in take.windows:
            for index in range(len(window.seconds)):
                bits, mask = window.bits[index], window.masks.get(index)
                if index in window.given:
                    given += bits.numel()
                    continue
                anew = bits.numel() if mask is None else int(mask.sum()) * bits.shape[1]
                drawn += anew
                kept += bits.numel() - anew
        return cls(
            width=width,
            height=height,
            finished=take.finished,
            windows=len(take.windows),
            windows_total=take.total,
            taken=take.taken,
            steps=len(schedule.steps) if schedule else 0,
            clip=last.clip if last else None,
            scale=last.scale if last else None,
            grid=last.grid if last else None,
            drawn=drawn,
            given=given,
            kept=kept,
            seconds=round(sum(sum(window.seconds) for window in take.windows), 6),
        )

    def size(self) -> tuple[str, ...]:
        """In pixels, if it is known."""
        return (f"{self.width}×{self.height}",) if self.width else ()

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        grid = None if self.grid is None else self.grid._asdict()
        return {**asdict(self), "grid": grid}

    def rows(self) -> Iterator[tuple[str, str]]:
        """Labels and values, for a person, who counts from one."""
        parts = [f"step {self.taken} of {self.steps}"]
        if self.grid is not None:
            assert self.clip is not None
            frames, height, width = self.grid
            parts.append(
                f"clip {self.clip + 1}, scale {scale_name(width, height)} "
                f"of {counted(frames, 'frame')}"
            )
        if self.windows_total > 1:
            parts.append(f"window {self.windows} of {self.windows_total}")
        reached = "not begun" if not self.windows else ", ".join(parts)
        yield "reached", "the end" if self.finished else reached
        whole = self.drawn + self.given + self.kept
        shares = [f"{self.drawn:,} drawn"]
        shares += [
            f"{count / whole:.1%} {name}"
            for name, count in (("given", self.given), ("kept", self.kept))
            if count
        ]
        yield "bits", f"{', '.join(shares)}, in {self.seconds:.3g} s"


def _described(settings: FileSettings) -> Iterator[tuple[str, str]]:
    """Label and value of everything that made a file."""
    for prompt, typed in zip(settings.prompts, settings.typed_prompts, strict=True):
        yield "prompt", prompt
        if typed != prompt:
            yield "typed", typed
    if settings.negative_prompt:
        yield "negative", settings.negative_prompt
    yield "mode", settings.mode
    yield "seed", str(settings.seed)
    if settings.seeds is not None:
        yield "seeds", f"{' '.join(map(str, settings.seeds))} (one a prompt)"
    if settings.cuts is not None:
        yield "cuts", f"prompt {', '.join(map(str, settings.cuts))} began with a picture"
    if settings.deadline is not None:
        yield "deadline", f"{settings.deadline:g} s: it may end early, or as a draft"
    if settings.varied:
        yield "varied", "some tokens are another take's"
    yield "model", settings.model + (f" ({settings.place})" if settings.place else "")
    if settings.seconds:
        each = " a prompt" if settings.mode == "interact" else ""
        yield "length", f"{settings.seconds:g} s{' added' * (settings.mode == 'extend')}{each}"
    if settings.aspect is not None:
        yield "aspect", f"{settings.aspect:.4g} (height to width)"
    if settings.sampling is not None:
        yield from _sampling(settings.sampling, "")
        if settings.start not in (None, settings.sampling):
            yield from _sampling(settings.start, " of the first clip")
    if not settings.suffix:
        yield "suffix", "left off"
    encoding = {
        "crf": settings.crf,
        "preset": settings.preset,
        "fps": settings.fps and f"{settings.fps:g}",
    }
    if asked := [f"{name} {value}" for name, value in encoding.items() if value is not None]:
        yield "encoding", ", ".join(asked)
    version = f" {settings.version}" if settings.version else ""
    yield "made by", f"istar{version} in {settings.dtype} on {settings.device}"


def _sampling(used: UsedSampling, of_what: str) -> Iterator[tuple[str, str]]:
    yield "guidance", f"{used.guidance.scale:g} ({used.guidance.kind}){of_what}"
    image, video = map(_temperature, used.tau)
    yield "tau", f"{image if image == video else f'{image} (pictures), {video} (video)'}{of_what}"


def _temperature(tau: Temperature) -> str:
    """One number, or one for each scale."""
    return " ".join(f"{value:g}" for value in tau) if isinstance(tau, tuple) else f"{tau:g}"


def _row(label: str, value: str) -> Iterator[str]:
    """A label and a value; a terminal's lines are kept from breaking within words."""
    text = printable(value)
    start = f"  {label:{_LABEL_WIDTH - 2}}"
    columns = shutil.get_terminal_size().columns - _LABEL_WIDTH
    if not sys.stdout.isatty() or columns < _NARROWEST:
        yield start + text
        return
    for line in textwrap.wrap(text, columns) or [""]:
        yield start + line
        start = " " * _LABEL_WIDTH
