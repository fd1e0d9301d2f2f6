"""Writing clips as numbered pictures in a directory of their own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from istar.clip_format import picture_name
from istar.errors import MediaError
from istar.files import PendingDirectory, writing_failed
from istar.media.picture_writer import clean_texts, save_picture


class NumberedPicturesWriter:
    """Writes a clip as numbered PNG pictures while it is made, each with the texts.

    A context manager. The directory appears under its name when the block ends cleanly; on any
    exception nothing remains.

    Args:
        target: a number in the name of a PNG, as in `boat/%04d.png`; the directory is theirs alone.
        metadata: texts to keep in every picture.
        overwrite: a directory that is there may be replaced with all that it holds.
        numbered: beside one it gets a numbered name.

    Raises:
        MediaError: wrong frames, no frames, the directory exists, or writing failed.
    """

    def __init__(
        self,
        target: Path,
        *,
        metadata: Mapping[str, str] | None = None,
        overwrite: bool = False,
        numbered: bool = False,
    ) -> None:
        self._target = target
        self._texts = clean_texts(metadata or {})
        self._pending = PendingDirectory(target.parent, overwrite=overwrite, numbered=numbered)
        self._count = 0

    @property
    def target(self) -> Path:
        """The directory: as given, or after the block a numbered one if that was taken."""
        return self._pending.target

    @property
    def sound(self) -> None:
        """Pictures have none."""
        return None

    def __enter__(self) -> NumberedPicturesWriter:
        self._pending.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: Any, trace: Any) -> None:
        if kind is None and not self._count:
            empty = MediaError(f"'{self.target}' would be empty: it was given no frames")
            self._pending.__exit__(MediaError, empty, None)
            raise empty
        self._pending.__exit__(kind, error, trace)

    def write(self, frames: Tensor) -> None:
        """Append `frames` `(F, H, W, 3)` uint8 RGB.

        Raises:
            MediaError: another shape or dtype, or writing failed.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise MediaError(
                f"frames must be (F, H, W, 3) uint8, not {tuple(frames.shape)} {frames.dtype}"
            )
        for pixels in frames:
            self._count += 1
            path = self._pending.temporary / picture_name(self._target, self._count)
            try:
                save_picture(pixels, path, self._texts)
            except (OSError, ValueError) as error:
                raise writing_failed(self.target, error) from error
