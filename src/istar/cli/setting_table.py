"""The one table of settings: the options, `istar config` and docs/settings.md go by it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from istar.cli.setting_checks import (
    aspect_check,
    clip_presets,
    crf_check,
    device_check,
    dtypes,
    guidance_check,
    memory_plans,
    output_check,
    resolutions,
    seconds_check,
    size_check,
    text_check,
    timeout_check,
    url_check,
)
from istar.errors import UsageError

_MAKING = ("t2i", "t2v", "i2v", "extend", "interact")
_VIDEO = ("t2v", "i2v", "extend")
_CONTINUING = ("finish", "vary")
_READING = ("render", "verify", "score", "bench", "eval")
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
_YES, _NO = ("1", "true", "yes", "on"), ("0", "false", "no", "off")


def _always(values: Mapping[str, Any]) -> bool:
    return True


def _without_file(values: Mapping[str, Any]) -> bool:
    """Nothing is named that settles it: `--from`, or a take or session to continue."""
    from istar.cli.inputs import settles

    clip = values.get("clip")
    return values.get("from_file") is None and (clip is None or not settles(clip))


def _without_from(values: Mapping[str, Any]) -> bool:
    return values.get("from_file") is None


def _where_auto(values: Mapping[str, Any]) -> bool:
    """The model is chosen by the resolution."""
    return values.get("model") == "auto" and _without_file(values)


def _without_draft(values: Mapping[str, Any]) -> bool:
    return not values.get("draft")


def _where_shown(values: Mapping[str, Any]) -> bool:
    """There is a terminal for previews; without one only a typed option is a fault."""
    return _without_draft(values) and sys.stderr is not None and sys.stderr.isatty()


def _where_encoded(values: Mapping[str, Any]) -> bool:
    """The output is of a format that is encoded with a rate factor: MP4 or WebM."""
    from istar.clip_format import CLIP_FORMATS, is_numbered

    target = Path(values.get("output") or "")
    known = CLIP_FORMATS.get(target.suffix.lower())
    if is_numbered(target) or (known is not None and known.worst_crf is None):
        return False
    return _without_draft(values)


def in_words(value: object) -> str:
    """A value as it is typed."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A value that a person can set once, for every run.

    Attributes:
        name: in the file; a dot stands between a table's name and a key of it.
        help: what it does.
        kind: `bool`, `int`, `float` or `str`.
        default: its value where it is not set; of an option what stands for that.
        commands: the commands that have an option of this name.
        check: refuses a value of the kind, for a command or, with an empty name, for all.
        choices: gives the only values.
        counts: whether it takes the place of the option's default, by the values of the command.
    """

    name: str
    help: str
    kind: type[bool] | type[int] | type[float] | type[str] = str
    default: str | float | None = None
    commands: tuple[str, ...] = ()
    check: Callable[[Any, str], object] = text_check
    choices: Callable[[], tuple[str, ...]] | None = None
    counts: Callable[[Mapping[str, Any]], bool] = _always

    @property
    def variable(self) -> str:
        """Of the environment."""
        return "ISTAR_" + self.name.upper().translate(str.maketrans("-.", "__"))

    @property
    def default_in_words(self) -> str:
        """What is used where it is not set."""
        return "none" if self.default is None else in_words(self.default)

    def parsed(self, text: str, command: str = "") -> Any:
        """The value that a text stands for, in a variable or typed.

        Raises:
            UsageError: none that is allowed.
        """
        try:
            if self.kind is bool:
                value: Any = {**dict.fromkeys(_YES, True), **dict.fromkeys(_NO, False)}[
                    text.lower()
                ]
            else:
                value = self.kind(text)
        except (KeyError, ValueError):
            raise self._mistyped(text) from None
        return self.checked(value, command)

    def checked(self, value: Any, command: str = "") -> Any:
        """A value of a TOML file, as the command line would take it.

        Raises:
            UsageError: it is of another kind, or not allowed.
        """
        if self.kind is float and type(value) is int:
            value = float(value)
        if type(value) is not self.kind:
            raise self._mistyped(value)
        if self.choices is not None and value not in self.choices():
            *first, last = self.choices()
            raise UsageError(f"{self.name} is {', '.join(first)} or {last}, not {value!r}")
        try:
            self.check(value, command)
        except UsageError as error:
            # What is set was not typed as an option.
            text = str(error).replace(f"--{self.name}", self.name)
            is_named = text.startswith(self.name)
            raise UsageError(
                text if is_named else f"{self.name}: {text}", remedies=error.remedies
            ) from error
        return value

    def _mistyped(self, value: object) -> UsageError:
        return UsageError(f"{self.name} is {_KINDS[self.kind]}, not {value!r:.80}")


SETTINGS = {
    setting.name: setting
    for setting in (
        Setting(
            name="model",
            help="The model, as `--model` names it.",
            default="auto",
            commands=(*_MAKING, *_CONTINUING, *_READING),
        ),
        Setting(
            name="res",
            help="Which of the models, where `model` is auto.",
            default="the best for the mode",
            commands=(*_MAKING, "eval"),
            choices=resolutions,
            counts=_where_auto,
        ),
        Setting(
            name="aspect",
            help="Width to height, such as 16:9.",
            default="the input's, else the model's",
            commands=_MAKING,
            check=aspect_check,
            counts=_without_file,
        ),
        Setting(
            name="seconds",
            help="Length of a video; for `extend` how much to add.",
            kind=float,
            default="5, or one clip of the model",
            commands=_VIDEO,
            check=seconds_check,
            counts=_without_from,
        ),
        Setting(
            name="guidance",
            help="Guidance scale; 1 means no guidance.",
            kind=float,
            default="the model's",
            commands=_MAKING,
            check=guidance_check,
            counts=_without_file,
        ),
        Setting(
            name="device",
            help="What computes: auto, cuda, cuda:N or cpu.",
            default="auto",
            commands=(*_MAKING, *_CONTINUING, *_READING, "prepare", "train", "rewrite"),
            check=device_check,
        ),
        Setting(
            name="dtype",
            help="Of the transformer.",
            default="bf16 on CUDA, fp32 on the CPU",
            commands=(*_MAKING, "eval"),
            choices=dtypes,
            counts=_without_file,
        ),
        Setting(
            name="memory",
            help="What lies where, as `--memory` says it.",
            default="auto",
            commands=(*_MAKING, *_CONTINUING, "verify", "score", "eval"),
            choices=memory_plans,
        ),
        Setting(
            name="output",
            help="Where results go: a directory, such as `~/Videos/`, or a name with fields.",
            default="a numbered name here",
            commands=(*_MAKING, *_CONTINUING),
            check=output_check,
            counts=_without_draft,
        ),
        Setting(
            name="preview",
            help="Show previews in the terminal.",
            kind=bool,
            default=False,
            commands=(*_MAKING, *_CONTINUING),
            counts=_where_shown,
        ),
        Setting(
            name="crf",
            help="Rate factor of MP4 and WebM: less is better and larger.",
            kind=int,
            default="16 for MP4, 20 for WebM",
            commands=_VIDEO,
            check=crf_check,
            counts=_where_encoded,
        ),
        Setting(
            name="preset",
            help="How long the encoder of MP4 or WebM looks for a smaller file.",
            default="medium",
            commands=_VIDEO,
            choices=clip_presets,
            counts=_where_encoded,
        ),
        Setting(
            name="keep-takes",
            help="Which takes stay here: all, or those of unfinished runs.",
            default="all",
            choices=lambda: ("all", "unfinished"),
        ),
        Setting(
            name="takes-size",
            help="The size of all takes together; the oldest go when it is passed.",
            default="2GB",
            check=size_check,
        ),
        Setting(
            name="debug",
            help="Show where in the code a command failed.",
            kind=bool,
            default=False,
        ),
        Setting(
            name="rewrite.url",
            help="The OpenAI-compatible endpoint that rewrites prompts.",
            check=url_check,
        ),
        Setting(name="rewrite.model", help="The name of its model, or a local model."),
        Setting(
            name="rewrite.prompts",
            help="A directory of system prompts, in place of istar's own.",
        ),
        Setting(
            name="rewrite.timeout",
            help="How many seconds to wait for its answer.",
            kind=float,
            default=60.0,
            check=timeout_check,
        ),
    )
}
"""All settings by name, in the order in which they are shown."""

COMMANDS = {command for setting in SETTINGS.values() for command in setting.commands}
"""The commands that have an option which a setting gives a value."""
