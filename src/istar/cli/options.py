"""The options that commands share, and what becomes of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.chosen_model import ChosenModel
from istar.cli.completion import aspects, model_names
from istar.cli.console import say
from istar.cli.option_types import (
    DeviceOption,
    DryRunOption,
    DtypeOption,
    EventsOption,
    Memory,
    MemoryOption,
    NoMetadataOption,
    NoTakeOption,
    OutputOption,
    OverwriteOption,
    PreviewFileOption,
    PreviewOption,
    QuietOption,
    Resolution,
    SidecarOption,
    VerboseOption,
    YesOption,
)
from istar.cli.parsing import parse_aspect, parse_tau
from istar.cli.reuse import Reused
from istar.cli.seeds import drawn_seed
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
    dry_run: DryRunOption = False
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
                reused.name, reused.settings, self.model, is_typed=is_typed
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

    def take_words(self, take: Take) -> list[str]:
        """What names the model in a command that continues a take.

        Args:
            take: of these options' model. It may name its commit on the Hub itself; what was typed
                may stand for another by then.
        """
        repository = take.model.repository
        is_named = re.split("[@:]", self.model)[0] == repository
        return [] if is_named else self.model_words

    def request(
        self,
        mode: Mode,
        prompt: str | tuple[str, ...] | None,
        *,
        image: Path | None = None,
        clip: Path | None = None,
        seconds: float | None = None,
        typed_prompt: str | tuple[str, ...] | None = None,
    ) -> GenerationRequest:
        """The request that the options make; a seed is drawn where it is left out.

        Args:
            mode: of the command.
            prompt: what to show; None for that of `--from`.
            image: the picture that a video begins with.
            clip: the clip that is continued.
            seconds: as typed; None for those of `--from`, or the model's own.
            typed_prompt: what was typed, where the prompt was rewritten from it.

        Raises:
            UsageError: a value that is not allowed, or no prompt where one is needed.
        """
        from istar.models.find import check_name

        check_name(self.model)
        if self.reused:
            seconds = self.reused.seconds(mode) if seconds is None else seconds
            if prompt is None:
                (prompt,) = self.reused.prompts(mode)
                (typed_prompt,) = self.reused.settings.typed_prompts
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
