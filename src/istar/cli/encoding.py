"""How a command writes its clip: rate factor, preset, speed, and the sound beside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from istar.clip_format import ClipEncoding, Preset
from istar.errors import UsageError


class Audio(str, Enum):
    """What becomes of the sound of a video that is continued."""

    DROP = "drop"
    COPY = "copy"


_AUDIO_HELP = (
    "The sound of the video that is continued: copy keeps it, in MP4 and WebM; it is cut where the "
    "pictures end; if it ends earlier, players are silent from there."
)
AudioOption = Annotated[Audio, typer.Option("--audio", help=_AUDIO_HELP)]


@dataclass(frozen=True, kw_only=True)
class EncodingOptions:
    """The options of every command that writes a clip, as they were typed."""

    crf: Annotated[
        int | None,
        typer.Option(
            "--crf",
            help="Rate factor of MP4 (1 to 51) and WebM (1 to 63): less is better and larger.",
            show_default="16 for MP4, 20 for WebM",
        ),
    ] = None
    preset: Annotated[
        Preset | None,
        typer.Option(
            "--preset",
            help="How long the encoder of MP4 or WebM looks for a smaller file.",
            show_default="medium",
        ),
    ] = None
    fps: Annotated[
        float | None,
        typer.Option(
            "--fps",
            help="Pictures a second when it is played; the pictures are the same.",
            show_default="16, as they are made",
        ),
    ] = None

    def settled(self, fps_of_then: float | None = None) -> ClipEncoding:
        """The same, checked.

        Args:
            fps_of_then: the speed where none was typed.

        Raises:
            UsageError: a speed that no clip has.
        """
        fps = fps_of_then if self.fps is None else self.fps
        return ClipEncoding(crf=self.crf, preset=self.preset, fps=fps)


@dataclass(frozen=True, kw_only=True)
class TakeEncodingOptions(EncodingOptions):
    """The same of the commands that continue takes, and what becomes of sound."""

    audio: Annotated[
        Audio | None, typer.Option("--audio", help=_AUDIO_HELP, show_default="the take's")
    ] = None


@dataclass(frozen=True, kw_only=True)
class ClipOutput:
    """How a clip is written.

    Attributes:
        encoding: what its encoder is asked for.
        sound: the video whose sound is copied beside it.
        grows: it is continued again and again.
    """

    encoding: ClipEncoding = field(default_factory=ClipEncoding)
    sound: Path | None = None
    grows: bool = False

    @property
    def words(self) -> list[str]:
        """What is typed for the same encoding in a command that continues this one."""
        crf, preset, fps = self.encoding.crf, self.encoding.preset, self.encoding.fps
        words = [] if self.sound is None else ["--audio", Audio.COPY.value]
        words += [] if crf is None else ["--crf", str(crf)]
        words += [] if preset is None else ["--preset", preset.value]
        return words if fps is None else [*words, "--fps", repr(fps).removesuffix(".0")]


def refuse_speed_with_sound(encoding: EncodingOptions) -> None:
    """Refuse a speed where the sound is kept.

    Raises:
        UsageError: one was typed.
    """
    if encoding.fps is not None:
        raise UsageError(
            "--fps changes the pictures' times and not the sound's; leave it out, or the sound "
            "with --audio drop"
        )


def refuse_encoding_of_drafts(encoding: EncodingOptions) -> None:
    """Refuse how a clip is encoded where drafts are made.

    Raises:
        UsageError: something was typed.
    """
    if encoding != type(encoding)():
        raise UsageError("a draft writes no video, so how it is encoded does not go with it")
