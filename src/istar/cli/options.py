"""The options that commands share, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.chosen_model import ChosenModel
from istar.cli.completion import aspects, devices, model_names
from istar.cli.console import say
from istar.cli.parsing import parse_aspect, parse_tau
from istar.cli.reuse import Reused
from istar.cli.take_model import model_of_file, read_take
from istar.errors import UsageError
from istar.request import AUTO_MODEL, GenerationRequest, Mode

if TYPE_CHECKING:
    from typing_extensions import Self

    from istar.cli.previews import PreviewOutput
    from istar.inputs import Inputs
    from istar.pipeline import InfinityStarPipeline
    from istar.plan import Plan
    from istar.take import Take

RANDOM_SEED_BITS = 32
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
PromptArgument = Annotated[
    str | None,
    typer.Argument(
        help="What to show; - reads it from stdin, @FILE from a file. Needed without --from."
    ),
]
OptionalPromptArgument = Annotated[
    str | None, typer.Argument(help="What happens; - reads it from stdin, @FILE from a file.")
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
    bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors and questions.")
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


def drawn_seed() -> int:
    """A seed by chance."""
    import secrets

    return secrets.randbits(RANDOM_SEED_BITS)


@dataclass(frozen=True, kw_only=True)
class CommonOptions:
    """The options of every command that makes something, as they were typed."""

    output: OutputOption = None
    overwrite: OverwriteOption = False
    model: Annotated[
        str,
        typer.Option(
            "--model",
            metavar="NAME|DIR|REPO",
            autocompletion=model_names,
            help="A name (`istar models list`), a checkpoint directory, or owner/repo on the Hub. "
            "auto chooses by the mode, --res and --seconds. What is missing is fetched.",
        ),
    ] = AUTO_MODEL
    res: Annotated[
        Resolution | None,
        typer.Option("--res", help="Which of the models.", show_default="the best for the mode"),
    ] = None
    aspect: Annotated[
        str | None,
        typer.Option(
            "--aspect",
            metavar="W:H",
            autocompletion=aspects,
            help="Width to height; the nearest of 15 ratios is taken.",
            show_default="the input's, else the model's",
        ),
    ] = None
    seed: Annotated[
        int | None,
        typer.Option("--seed", help="Same seed, same result.", show_default="drawn and printed"),
    ] = None
    device: DeviceOption = "auto"
    dtype: DtypeOption = None
    memory: MemoryOption = Memory.AUTO
    guidance: Annotated[
        float | None,
        typer.Option(
            "--guidance",
            help="Guidance scale; 1 means no guidance. An empty prompt is not guided, unless there "
            "is --negative.",
            show_default="the model's",
        ),
    ] = None
    tau: Annotated[
        str | None,
        typer.Option(
            "--tau",
            metavar="IMAGE,VIDEO",
            help="Sampling temperatures of the first picture and of the video, or one for both.",
            show_default="the model's",
        ),
    ] = None
    from_file: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Reuse the prompt, seed, model and settings of a file that istar wrote; what is "
            "typed here counts more.",
        ),
    ] = None
    negative: Annotated[
        str,
        typer.Option(
            "--negative", metavar="TEXT", help="What to steer away from.", show_default=False
        ),
    ] = ""
    no_suffix: Annotated[
        bool, typer.Option("--no-suffix", help="Leave the model's own suffix off the prompt.")
    ] = False
    no_metadata: NoMetadataOption = False
    sidecar: SidecarOption = False
    no_take: NoTakeOption = False
    preview: PreviewOption = False
    preview_file: PreviewFileOption = None
    yes: YesOption = False
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what would be done: model, files to fetch, memory plan, steps, output.",
        ),
    ] = False
    quiet: QuietOption = False
    verbose: VerboseOption = False
    as_events: EventsOption = False
    reused: Reused | None = None
    """What `--from` names, read; no option of its own."""
    typed: Set[str] = frozenset()
    """The names of those that were typed; no option of its own."""
    model_is_typed: bool = False
    """`--model` is neither a setting nor of `--from`; no option of its own."""

    def completed(self, typed: Set[str]) -> Self:
        """The options with the settings of `--from` for those that were not typed.

        Args:
            typed: the names of those that were.

        Raises:
            IstarError: as `Reused.read`.
        """
        is_typed = "model" in typed
        if self.from_file is None:
            return replace(self, typed=typed, model_is_typed=is_typed)
        reused = Reused.read(self.from_file)
        values = {name: value for name, value in reused.as_typed().items() if name not in typed}
        if "res" not in typed:
            values["model"] = model_of_file(
                reused.name, reused.settings.model, self.model, is_typed=is_typed
            )
        return replace(self, **values, reused=reused, typed=typed, model_is_typed=is_typed)

    def with_seed(self) -> Self:
        """The options with a seed, which is printed if it was not typed for this."""
        seed = drawn_seed() if self.seed is None else self.seed
        if self.seed is None or self.reused:
            say(f"seed {seed}")
        return replace(self, seed=seed)

    def read_take(self, path: Path) -> tuple[Take, Self]:
        """A take that is continued, and the options with its model.

        Raises:
            IstarError: as `istar.cli.take_model.read_take`.
        """
        take, model = read_take(path, self.model, is_typed=self.model_is_typed)
        return take, replace(self, model=model)

    @property
    def model_words(self) -> list[str]:
        """What names the model in a command that continues this one."""
        return [] if self.model == AUTO_MODEL else ["--model", self.model]

    def request(
        self,
        mode: Mode,
        prompt: str | tuple[str, ...] | None,
        *,
        image: Path | None = None,
        clip: Path | None = None,
        seconds: float | None = None,
    ) -> GenerationRequest:
        """The request that the options make; a seed is drawn if there is none.

        Args:
            mode: of the command.
            prompt: as typed; None for that of `--from`.
            image: the picture that a video begins with.
            clip: the clip that is continued.
            seconds: as typed; None for those of `--from`, or the model's own.

        Raises:
            UsageError: a value that is not allowed, or no prompt where one is needed.
        """
        from istar.models.find import check_name

        check_name(self.model)
        typed_prompt = None
        if self.reused:
            seconds = self.reused.seconds(mode) if seconds is None else seconds
            if prompt is None:
                prompts = self.reused.prompts(mode)
                prompt = prompts if mode == "interact" else prompts[0]
                typed_prompt = self.reused.settings.typed_prompt if mode != "interact" else None
        elif prompt is None and mode in ("t2i", "t2v"):
            raise UsageError(
                "there is no prompt: type one, or name a file that has one with --from"
            )
        tau_image, tau_video = parse_tau(self.tau)
        return GenerationRequest(
            mode=mode,
            prompt=prompt or "",
            image=image,
            clip=clip,
            seconds=seconds,
            aspect=parse_aspect(self.aspect),
            seed=drawn_seed() if self.seed is None else self.seed,
            negative_prompt=self.negative,
            guidance_scale=self.guidance,
            tau_image=tau_image,
            tau_video=tau_video,
            suffix=not self.no_suffix,
            typed_prompt=typed_prompt,
        )

    def previews(self, request: GenerationRequest, target: Path) -> PreviewOutput:
        """Where the previews of a request go.

        Args:
            request: what is made.
            target: the output.

        Raises:
            UsageError: the previews' file cannot be that.
            MediaError: its directory is missing or not writable.
        """
        from istar.cli.previews import PreviewOutput

        inputs = (one if isinstance(one, Path) else None for one in (request.image, request.clip))
        return PreviewOutput(
            on_terminal=self.preview, file=self.preview_file, others=(target, *inputs)
        )

    def load(
        self,
        request: GenerationRequest,
        inputs: Inputs | None = None,
        *,
        target: Path | None = None,
        check: Callable[[Plan], None] = lambda plan: None,
    ) -> tuple[InfinityStarPipeline, Inputs]:
        """The pipeline for a request, and the request's input.

        The model is chosen once; the input is read once, before anything large is fetched or
        loaded.

        Args:
            request: what is made.
            inputs: its input, where that was read before.
            target: the output, as `--dry-run` names it.
            check: receives the request's plan before anything large is fetched or loaded, and may
                refuse it.

        Raises:
            Exit: with `--dry-run`, once the plan is printed.
            IstarError: as `check`, `find_model`, `read_inputs` and `InfinityStarPipeline.load`.
        """
        model = ChosenModel(self, [request])
        inputs = inputs or model.read(request)
        check(model.plan(request, inputs))
        return model.load(request, inputs, target=target), inputs
