"""Options as typer declares them, each once, for the commands that have it."""

from __future__ import annotations

import re
from enum import Enum
from typing import Annotated

import typer

from istar.cli.completion import devices, model_names
from istar.errors import UsageError

_DEVICE = re.compile(r"auto|(cpu|cuda)(:\d+)?")


class Resolution(str, Enum):
    """The released pixel budgets, by the names people know."""

    P192 = "192p"
    P384 = "384p"
    P480 = "480p"
    P720 = "720p"


class NumberType(str, Enum):
    """What the networks compute in."""

    BF16 = "bf16"
    FP32 = "fp32"
    INT8 = "int8"
    FP8 = "fp8"


class Memory(str, Enum):
    """The memory plans, see `istar.memory_plan`."""

    AUTO = "auto"
    MAX = "max"
    BALANCED = "balanced"
    LOW = "low"
    STREAM = "stream"


def checked_device(name: str) -> str:
    """A device's name, refused without torch if there is no such kind.

    Raises:
        UsageError: another name.
    """
    if not _DEVICE.fullmatch(name):
        raise UsageError(f"--device is auto, cuda, cuda:N or cpu, not {name!r}")
    return name


OutputOption = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        metavar="PATH",
        help="A file, a directory, or - for stdout. An existing file is kept and a number added to "
        "the name, unless --overwrite.",
        show_default="a numbered name here",
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", metavar="auto|cuda|cpu", callback=checked_device, autocompletion=devices
    ),
]
ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, help="Of the CPU.", show_default="torch's choice"),
]
PromptArgument = Annotated[
    str | None,
    typer.Argument(
        help="What to show; - reads it from stdin, @FILE from a file. Needed without --from."
    ),
]
OptionalPromptArgument = Annotated[
    str | None, typer.Argument(help="What happens; - reads it from stdin, @FILE from a file.")
]
RewriteOption = Annotated[
    bool,
    typer.Option(
        "--rewrite",
        help="Let a language model write richer prompts first, see `istar rewrite`.",
    ),
]
SecondsOption = Annotated[
    float | None,
    typer.Option(
        "--seconds",
        help="Length of the video, a multiple of 0.25.",
        show_default="5, or one clip of the model",
    ),
]
DtypeOption = Annotated[
    NumberType | None,
    typer.Option(
        "--dtype",
        help="Of the transformer. int8 and fp8 hold its blocks' weights in 8 bits, to save "
        "memory and no time; of the two int8 is nearer to bf16.",
        show_default="bf16 on CUDA, fp32 on the CPU",
    ),
]
MemoryOption = Annotated[
    Memory,
    typer.Option(
        "--memory",
        help="What lies where: max keeps everything on the GPU, stream the transformer in host "
        "memory. auto takes the fastest that fits; when memory runs out the next smaller one "
        "continues.",
    ),
]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="NAME|DIR|REPO",
        autocompletion=model_names,
        help="A name (`istar models list`), a checkpoint directory, or owner/repo on the Hub.",
    ),
]
NoTakeOption = Annotated[
    bool,
    typer.Option("--no-take", help="Keep no take of the run, to continue it or to look at it."),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print what would be done: model, files to fetch, memory plan, steps, output.",
    ),
]
NoMetadataOption = Annotated[
    bool,
    typer.Option("--no-metadata", help="Keep prompt, seed and settings out of the file."),
]
SidecarOption = Annotated[
    bool,
    typer.Option(
        "--sidecar", help="Write prompt, seed and settings to a file beside the output, NAME.json."
    ),
]
PreviewOption = Annotated[
    bool,
    typer.Option(
        "--preview/--no-preview",
        help="Show previews in the terminal: the first picture, then the clip after some of "
        "its scales. Each costs a decode.",
    ),
]
PreviewFileOption = Annotated[
    str | None,
    typer.Option(
        "--preview-file",
        metavar="FILE",
        help="Write previews to a file, which each one replaces: a picture (.png, .jpg, "
        ".webp), or the clip (.mp4).",
        show_default="none",
    ),
]
YesOption = Annotated[
    bool,
    typer.Option("--yes", "-y", help="Fetch and run a model even if it does not fit this machine."),
]
QuietOption = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Say nothing on stderr but errors, warnings and questions."),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Say what is predicted to lie where, and how long each stage took."
    ),
]
EventsOption = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Events on stdout in place of the path, a line of JSON each; the last is the result.",
    ),
]
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        help="Stop at the last scale that is decoded so many seconds after the model is "
        "loaded, such as 20s, and leave a take that `istar finish` continues.",
    ),
]
