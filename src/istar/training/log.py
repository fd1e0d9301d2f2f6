"""The log of a run: lines of JSON, TensorBoard files, contact sheets."""

from __future__ import annotations

import json
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from torch import Tensor

from istar.files import write_text
from istar.media import write_picture

LOG_NAME = "log.jsonl"


class RunLog:
    """The log of a run; entering it removes the lines of steps after `done`.

    `log.jsonl` has a line a step, `tensorboard/` the same for TensorBoard where that package is
    installed, `samples/` the contact sheets.
    """

    def __init__(self, directory: Path, done: int, *, enabled: bool = True) -> None:
        self._directory = directory
        self._done = done
        self._enabled = enabled
        self._lines: TextIO | None = None
        self._board: Any = None

    def __enter__(self) -> RunLog:
        if self._enabled:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._remove_later_lines()
            self._lines = (self._directory / LOG_NAME).open("a", encoding="utf-8")
            self._board = _board(self._directory / "tensorboard", self._done)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._lines:
            self._lines.close()
        if self._board:
            self._board.close()

    def write(self, step: int, measures: dict[str, float]) -> None:
        """A line for a step."""
        if self._lines is None:
            return
        rounded = {name: float(f"{value:.6g}") for name, value in measures.items()}
        self._lines.write(json.dumps({"step": step, **rounded}) + "\n")
        self._lines.flush()
        if self._board:
            for name, value in measures.items():
                self._board.add_scalar(name, value, step)

    def picture(self, name: str, step: int, sheet: Tensor) -> Path:
        """Write a contact sheet `(H, W, 3)`, uint8."""
        path = self._directory / "samples" / f"{name}-{step:08d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_picture(sheet, path, overwrite=True)
        if self._board:
            self._board.add_image(f"samples/{name}", sheet, step, dataformats="HWC")
        return path

    def _remove_later_lines(self) -> None:
        path = self._directory / LOG_NAME
        if not path.exists():
            return
        kept = [line for line in read_log(path) if line["step"] <= self._done]
        write_text(path, "".join(json.dumps(line) + "\n" for line in kept), overwrite=True)


def read_log(path: Path) -> list[dict[str, float]]:
    """The lines of a log, without one that a kill cut off."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def _board(directory: Path, done: int) -> Any:
    """A TensorBoard writer, if the package is there."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(directory), purge_step=done + 1)
