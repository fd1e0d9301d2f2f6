"""Previews of what is being made: pictures on the terminal, a file that is replaced each time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.console import animated_console, say, warn
from istar.cli.remedies import message
from istar.cli.terminal_pictures import TerminalPicture, cell_size, picture_protocol
from istar.errors import IstarError, UsageError
from istar.output_names import CLIP_SUFFIXES, PICTURE_SUFFIXES, output_path

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from istar.events import Preview


class PreviewOutput:
    """Where previews go: the terminal, a file, both or nowhere.

    A terminal that cannot show them is no reason to fail: a command that is made for one may run
    without, and its result is the same. It is said once, and costs no decoding.

    Args:
        on_terminal: show them on stderr.
        file: write them there.
        others: files that the command reads or writes; None stands for none.

    Raises:
        UsageError: the file's suffix does not fit, or it is one of the others.
        MediaError: its directory is missing or not writable.
    """

    def __init__(
        self, *, on_terminal: bool, file: str | None, others: tuple[Path | None, ...] = ()
    ) -> None:
        console = animated_console() if on_terminal else None
        self._protocol = console and picture_protocol(console)
        self._file = None if file is None else _preview_path(file, others)
        if on_terminal and self._protocol is None:
            say(
                "no previews are shown: stderr is not a terminal with colours; "
                "--preview-file writes them to a file"
            )

    @property
    def wanted(self) -> bool:
        """Previews are shown or written."""
        return self._protocol is not None or self._file is not None

    def show(self, preview: Preview, console: Console | None) -> Path | None:
        """Draw a preview above the bar of a console, and write it to the file.

        Args:
            preview: what there is.
            console: of the bar; None without one.

        Returns:
            the file, if it was written.
        """
        if console and self._protocol:
            text = "the first picture"
            if not preview.final:
                text = f"scale {preview.scale + 1} of {preview.scales}"
            console.print(f"istar: preview, {text}", markup=False, highlight=False)
            picture = TerminalPicture(moments(preview.frames), self._protocol, cell_size(2))
            console.print(picture)
        if self._file:
            try:
                _write(preview.frames, self._file)
            except IstarError as error:
                warn(f"{message(error)}; no more previews are written")
                self._file = None
        return self._file


def _preview_path(wanted: str, others: tuple[Path | None, ...]) -> Path:
    """The file for previews, as typed; one that is there will be replaced."""
    suffix = Path(wanted).suffix.lower()
    if suffix not in (*PICTURE_SUFFIXES, *CLIP_SUFFIXES):
        names = ", ".join(dict.fromkeys((*PICTURE_SUFFIXES, *CLIP_SUFFIXES)))
        raise UsageError(f"--preview-file is a file's name that ends in one of {names}")
    file = output_path(wanted, default_stem="preview", suffix=suffix, overwrite=True)
    if any(other and os.path.realpath(other) == os.path.realpath(file) for other in others):
        raise UsageError(f"--preview-file '{file}' is the input or the output, too")
    return file


def moments(frames: Tensor) -> Tensor:
    """The first, the middle and the last of `(F, H, W, 3)` side by side, as one picture."""
    import torch

    count, height, width, _ = frames.shape
    gap = torch.zeros(height, max(1, width // 40), 3, dtype=torch.uint8)
    chosen = [frames[index] for index in sorted({0, count // 2, count - 1})]
    return torch.cat([part for one in chosen for part in (gap, one)][1:], dim=1)


def _write(frames: Tensor, file: Path) -> None:
    """Replace the file by the clip, or by the clip's middle picture."""
    from istar.media import write_clip, write_picture

    if file.suffix.lower() in PICTURE_SUFFIXES:
        write_picture(frames[len(frames) // 2], file, overwrite=True)
    else:
        write_clip(frames, file, overwrite=True)
