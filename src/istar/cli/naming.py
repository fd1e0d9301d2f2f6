"""What the files of a command are called."""

from __future__ import annotations

import os
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.output import STDOUT, check_clip, check_stdout, field_values, free_path
from istar.clip_format import is_numbered
from istar.errors import UsageError
from istar.files import numbered_names
from istar.output_names import (
    PICTURE_SUFFIXES,
    SLASHES,
    check_name,
    check_suffix,
    names_directory,
    usual_suffix,
)
from istar.output_templates import NameTemplate, is_template
from istar.request import GenerationRequest, Mode

if TYPE_CHECKING:
    from istar.cli.chosen_model import ChosenModel
    from istar.cli.encoding import ClipOutput
    from istar.cli.options import CommonOptions


class OutputNames:
    """Names of files, by a template or as they are free.

    Args:
        options: of the command.
        mode: of everything that is made.
        several: several files are made, or as many as a list has.
        skips: files that are there are not made again.

    Attributes:
        template: the names; None where they are not known before they are had.
        skips: files that are there are not made again.

    Raises:
        UsageError: the names cannot be those of files, or of several.
        MediaError: a directory is missing or not writable.
    """

    def __init__(
        self, options: CommonOptions, mode: Mode, *, several: bool, skips: bool = False
    ) -> None:
        self._mode = mode
        self._output = options.output
        self._overwrite = options.overwrite
        self.skips = skips
        self._had: set[Path] = set()
        output, suffix = options.output, usual_suffix(mode)
        self._suffix = suffix
        if skips and options.overwrite:
            raise UsageError("--overwrite and --skip-existing are opposites; leave one out")
        self.template = None
        if output in STDOUT:
            if several:
                raise UsageError("these are several files: name a directory or a template")
            check_stdout(options)
        elif output and is_template(output):
            self.template = NameTemplate.parse(output, suffix=suffix)
        elif output and several:
            if not names_directory(output) and Path(output).suffix:
                raise UsageError(
                    f"these are several files, and '{output}' is one: name a directory, or a "
                    "template such as '{number}-{prompt:.40}" + suffix + "'"
                )
            name = f"{output}{os.sep}istar-{mode}-{{number:04}}{suffix}"
            self.template = NameTemplate.parse(name, suffix=suffix)
        elif output and skips and not names_directory(output):
            self.template = NameTemplate.parse(output, suffix=suffix)
        if skips and self.template is None:
            raise UsageError(
                "--skip-existing goes by names: name a file, several by a directory or a template, "
                "with --output"
            )
        if self.template is not None:
            self._check_suffix(Path("x" + self.template.suffix))

    def tells_seed(self, output: str | None) -> bool:
        """Whether the name of a file, which its line may give, has the seed in it."""
        return output is None and self.template is not None and "seed" in self.template.fields

    def check(self, output: str | None, written_as: ClipOutput) -> None:
        """Refuse early what a file cannot be.

        Args:
            output: its name, where its line has one.
            written_as: how it is written, if it is a clip.

        Raises:
            UsageError: its format does not know what is asked for, or the name leads elsewhere.
            MediaError: the sound cannot be kept.
        """
        if output is not None:
            target = self._below_root(output)
            self._check_suffix(target)
        elif self.template is not None or self._has_no_name:
            target = Path("x" + (self.template.suffix if self.template else self._suffix))
        else:
            target = free_path(self._output, self._mode, overwrite=self._overwrite)
        if self._mode != "t2i":
            check_clip(target, written_as)

    def target(
        self,
        request: GenerationRequest,
        number: int,
        output: str | None,
        model: ChosenModel,
    ) -> Path | None:
        """The name of a file; None for a free one.

        What has the name of a file before it is numbered, in the same way in every run.

        Args:
            request: what it is made from.
            number: its place among all, from 1.
            output: its name, where its line has one.
            model: what makes it.

        Raises:
            UsageError: it leads out of the directory, or can be no file's.
            IstarError: as `ChosenModel.read`, where the name has the size of the pictures.
        """
        if output is not None:
            target = self._below_root(output)
        elif self.template is not None:
            target = self.template.path(field_values(request, number, lambda: model))
        else:
            return None
        # Numbered pictures have their directory for themselves.
        is_pictures = self._mode != "t2i" and is_numbered(target)
        wanted = target.parent if is_pictures else target
        own = next(one for one in chain((wanted,), numbered_names(wanted)) if one not in self._had)
        self._had.add(own)
        return own / target.name if is_pictures else own

    def is_there(self, target: Path | None) -> bool:
        """Whether a file is not made again."""
        if not self.skips or target is None:
            return False
        if self._mode != "t2i" and is_numbered(target):
            target = target.parent
        return os.path.lexists(target)

    def _below_root(self, output: str) -> Path:
        """The path of a file that a line of a list names."""
        check_name(output)
        path = Path(output)
        if not path.name or path.is_absolute() or ".." in path.parts or output.startswith("~"):
            raise UsageError(f"'{output}' must name a file inside the --output directory")
        if not path.suffix:
            path = path.with_name(path.name + self._suffix)
        root = self.template.root if self.template is not None else Path()
        return root / path

    @property
    def _has_no_name(self) -> bool:
        """Files go to stdout, or into a directory that need not be there."""
        return self._output in STDOUT or (self._output or "").endswith(SLASHES)

    def _check_suffix(self, target: Path) -> None:
        if self._mode == "t2i":
            check_suffix(target, PICTURE_SUFFIXES)
