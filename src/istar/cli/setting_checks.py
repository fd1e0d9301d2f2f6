"""What values settings may have: the rules of the options, each looked up where it is."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

from istar.errors import UsageError


def text_check(value: object, command: str) -> None:
    """Refuse an empty text, and one with a NUL."""
    if isinstance(value, str) and (not value.strip() or "\0" in value):
        raise UsageError("the text is empty" if not value.strip() else "it holds a NUL character")


def aspect_check(value: str, command: str) -> None:
    """Refuse a text other than a ratio."""
    from istar.cli.parsing import parse_aspect

    parse_aspect(value)


def seconds_check(value: float, command: str) -> None:
    """Refuse a length that a command cannot make."""
    from istar.request import SECONDS_STEP, check_seconds

    check_seconds(value, least=SECONDS_STEP if command == "extend" else 1)


def guidance_check(value: float, command: str) -> None:
    """Refuse a guidance scale out of range."""
    from istar.request import GenerationRequest

    GenerationRequest(mode="i2v", image=Path("picture"), guidance_scale=value)


def device_check(value: str, command: str) -> None:
    """Refuse a name of no kind of device."""
    from istar.cli.option_types import checked_device

    checked_device(value)


def crf_check(value: int, command: str) -> None:
    """Refuse a rate factor that every format refuses."""
    from istar.clip_format import ClipEncoding

    ClipEncoding(crf=value).check(Path("clip.webm"))


def output_check(value: str, command: str) -> None:
    """Refuse the name of one file: every run would ask for it."""
    from istar.output_names import SLASHES
    from istar.output_templates import is_template

    text_check(value, command)
    if not (value.endswith(SLASHES) or is_template(value) or Path(value).expanduser().is_dir()):
        raise UsageError(
            f"output is a directory, such as '{value}{SLASHES[0]}', or a name with fields, such as "
            f"'{{seed}}.mp4'; {value!r} is one file"
        )


def size_check(value: str, command: str) -> None:
    """Refuse a text other than a size."""
    from istar.byte_size import bytes_of

    if bytes_of(value) is None:
        raise UsageError(f"takes-size is a size such as 500MB or 2GB, not {value!r}")


def url_check(value: str, command: str) -> None:
    """Refuse an address that an endpoint cannot have, and one that carries credentials."""
    from istar.models.chat import ChatEndpoint

    ChatEndpoint(url=value)


def timeout_check(value: float, command: str) -> None:
    """Refuse a time to wait that is out of range."""
    from istar.models.chat import ChatEndpoint

    ChatEndpoint(url="http://localhost", timeout=value)


def resolutions() -> tuple[str, ...]:
    """Those of `--res`."""
    from istar.cli.option_types import Resolution

    return _values(Resolution)


def dtypes() -> tuple[str, ...]:
    """Those of `--dtype`."""
    from istar.cli.option_types import NumberType

    return _values(NumberType)


def memory_plans() -> tuple[str, ...]:
    """Those of `--memory`."""
    from istar.cli.option_types import Memory

    return _values(Memory)


def clip_presets() -> tuple[str, ...]:
    """Those of `--preset`."""
    from istar.clip_format import Preset

    return _values(Preset)


def _values(kind: type[Enum]) -> tuple[str, ...]:
    return tuple(one.value for one in kind)
