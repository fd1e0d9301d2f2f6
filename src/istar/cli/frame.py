"""`frame`: one picture of a clip."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Annotated

import typer

from istar.cli.console import print_path, printable, say
from istar.cli.inputs import input_clip
from istar.errors import UsageError
from istar.output_names import output_path

_MOMENTS = ("first", "last")
_TEXTS = ("title", "comment")  # where istar writes how a file was made


def frame(
    clip: Annotated[Path, typer.Argument(help="A video, or numbered pictures; - is stdin.")],
    at: Annotated[
        str,
        typer.Option(
            "--at",
            metavar="first|last|SECONDS",
            help="Which picture; seconds count from the first one.",
        ),
    ] = "last",
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="A picture's name, .png, .jpg or .webp, or a directory.",
            show_default="a numbered name here",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = (
        False
    ),
) -> None:
    """Take one picture out of a video, upright, in its own size, with the video's settings.

    Example: istar frame clip.mp4 --at last -o last.png
    """
    seconds = _seconds(at)
    source = input_clip(clip)
    target = output_path(output, default_stem="istar-frame", suffix=".png", overwrite=overwrite)
    from istar.media import open_clip, probe_file, write_picture

    with open_clip(source) as video:
        if seconds is None:
            picture = video.read_last()
        else:
            picture = video.read_piece(begin=seconds, pictures=1)[0]
        notes = video.info.notes
    for note in notes:
        say(printable(note))
    texts: dict[str, str] = {}
    if source.is_file():
        held = probe_file(source).texts
        texts = {key: held[key] for key in _TEXTS if key in held}
    path = write_picture(picture, target, overwrite=overwrite, numbered=True, metadata=texts)
    print_path(path)


def _seconds(moment: str) -> float | None:
    """Seconds from the first picture; None for the last one.

    Raises:
        UsageError: neither a word for it nor a time.
    """
    if moment in _MOMENTS:
        return 0.0 if moment == "first" else None
    try:
        seconds = float(moment)
    except ValueError:
        seconds = -1.0
    if not (isfinite(seconds) and seconds >= 0):
        raise UsageError(f"--at is first, last or seconds from 0 on, not {moment!r}")
    return seconds
