"""`t2i`, `t2v`, `i2v` and `extend`: a file for every prompt and seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from istar.cli.batch import Batch, make_all
from istar.cli.drafts import (
    DRAFTS_HOLD_ALL,
    MOST_DRAFTS,
    BestOption,
    DraftOption,
    UntilOption,
    drafts_directory,
    make_drafts,
    parse_until,
)
from istar.cli.encoding import (
    Audio,
    AudioOption,
    ClipOutput,
    EncodingOptions,
    refuse_encoding_of_drafts,
    refuse_speed_with_sound,
)
from istar.cli.inputs import STDIN, input_clip, input_file, is_take, read_prompt
from istar.cli.naming import OutputNames
from istar.cli.option_groups import with_option_groups
from istar.cli.option_types import (
    DeadlineOption,
    OptionalPromptArgument,
    PromptArgument,
    RewriteOption,
    SecondsOption,
)
from istar.cli.options import CommonOptions
from istar.cli.parsing import parse_deadline
from istar.cli.prompt_list import Asked
from istar.cli.rewrite import rewritten_requests
from istar.cli.seeds import (
    MOST_SEEDS,
    Seeds,
    SeedsOption,
    consecutive_seeds,
    drawn_seed,
    parse_seeds,
)
from istar.cli.tasks import request_for, tasks_of
from istar.errors import UsageError
from istar.request import GenerationRequest, Mode

_PLAIN = ClipOutput()

CountOption = Annotated[
    int | None,
    typer.Option(
        "-n",
        "--count",
        min=1,
        max=MOST_SEEDS,
        help="How many, with consecutive seeds.",
        show_default="1",
    ),
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        "--prompts",
        metavar="FILE",
        help="A list: a prompt a line, or a JSON object a line with a prompt and settings of its "
        "own; - is stdin.",
        show_default="none",
    ),
]
SkipExistingOption = Annotated[
    bool,
    typer.Option("--skip-existing", help="Make only those files that are not there yet."),
]


@dataclass(frozen=True, kw_only=True)
class GenerateOptions(CommonOptions):
    """The options of the commands that make a file for every prompt and seed, or drafts of one.

    Raises:
        UsageError: some do not go together.
    """

    seed: int | None = None
    """That of `--from`; no option of its own."""
    seeds: SeedsOption = None
    count: CountOption = None
    prompts: PromptsOption = None
    skip_existing: SkipExistingOption = False
    draft: DraftOption = False
    until: UntilOption = None
    best: BestOption = None
    deadline: DeadlineOption = None
    rewrite: RewriteOption = False

    def __post_init__(self) -> None:
        if self.draft and (self.no_metadata or self.sidecar):
            raise UsageError(DRAFTS_HOLD_ALL)
        if self.draft and self.deadline is not None:
            raise UsageError(
                "a draft stops at a scale or a share, so --deadline does not go with it"
            )
        if self.draft and (self.preview or self.preview_file is not None):
            raise UsageError("drafts are shown on their sheets, not by --preview")
        if self.draft and (self.prompts is not None or self.skip_existing):
            raise UsageError("drafts are of one prompt, and made anew: leave out --draft")
        if not self.draft and (self.until, self.best) != (None, None):
            raise UsageError("--until and --best are for drafts; add --draft")
        if self.count is not None and len(parse_seeds(self.seeds or "0")) > 1:
            raise UsageError("-n counts on from one seed; leave it out, or give one --seed")

    @property
    def is_batch(self) -> bool:
        """Several files may be made; a list is one, whatever its length."""
        seeds = self.count or len(parse_seeds(self.seeds or "0"))
        return self.prompts is not None or seeds > 1

    def all_seeds(self) -> Seeds:
        """The seeds of every prompt.

        Raises:
            UsageError: there are not so many.
        """
        if self.seeds is None:
            first = drawn_seed() if self.seed is None else self.seed
            return Seeds(consecutive_seeds(first, self.count or 1), are_typed=False)
        seeds = parse_seeds(self.seeds)
        numbers = consecutive_seeds(seeds[0], self.count) if self.count else seeds
        return Seeds(numbers, are_typed=True)


@with_option_groups
def t2i(options: GenerateOptions, prompt: PromptArgument = None) -> None:
    """Make a picture from a prompt.

    Example: istar t2i "a lighthouse at dusk" -o lighthouse.png
    """
    _generate(options, "t2i", Asked(prompt=read_prompt(prompt)))


@with_option_groups
def t2v(
    options: GenerateOptions,
    encoding: EncodingOptions,
    prompt: PromptArgument = None,
    seconds: SecondsOption = None,
) -> None:
    """Make a video from a prompt.

    Example: istar t2v "waves roll onto a beach" --seconds 5
    """
    asked = Asked(prompt=read_prompt(prompt), seconds=seconds)
    _generate(options, "t2v", asked, _clip_output(options, encoding))


@with_option_groups
def i2v(
    options: GenerateOptions,
    encoding: EncodingOptions,
    image: Annotated[
        Path | None,
        typer.Argument(
            help="The first picture: PNG, JPEG, WebP and others; - is stdin. A line of --prompts "
            "may name its own."
        ),
    ] = None,
    prompt: OptionalPromptArgument = None,
    seconds: SecondsOption = None,
) -> None:
    """Make a video that begins with a picture.

    Example: istar i2v boat.jpg "the boat leaves the harbour"
    """
    source = None if image is None else input_file(image)
    asked = Asked(prompt=read_prompt(prompt, source), image=source, seconds=seconds)
    _generate(options, "i2v", asked, _clip_output(options, encoding))


@with_option_groups
def extend(
    options: GenerateOptions,
    encoding: EncodingOptions,
    clip: Annotated[
        Path | None,
        typer.Argument(
            help="The video to continue, of a second or more: MP4, MOV, MKV, WebM, GIF and others, "
            "a directory of numbered pictures, or a take; - is stdin. A line of --prompts may name "
            "its own."
        ),
    ] = None,
    prompt: OptionalPromptArgument = None,
    seconds: Annotated[
        float | None,
        typer.Option(
            "--seconds",
            help="How much to add, a multiple of 0.25.",
            show_default="5, or one clip of the model",
        ),
    ] = None,
    audio: AudioOption = Audio.DROP,
) -> None:
    """Add new seconds to the end of a video.

    A finished take is continued by its own tokens, which are exact where a video's pictures have to
    be encoded again.

    Example: istar extend clip.mp4 "the boat sails on" --seconds 10
    """
    source = None if clip is None else input_clip(clip)
    if source is not None and is_take(source):
        _, options = options.read_take(source)
    keeps_sound = audio is Audio.COPY
    if keeps_sound and source == STDIN:
        raise UsageError("stdin is read once, for the pictures; name a file for --audio copy")
    if keeps_sound:
        refuse_speed_with_sound(encoding)
    asked = Asked(prompt=read_prompt(prompt, source), clip=source, seconds=seconds)
    written_as = _clip_output(options, encoding, keeps_sound=keeps_sound)
    _generate(options, "extend", asked, written_as, keeps_sound=keeps_sound)


def _clip_output(
    options: GenerateOptions, encoding: EncodingOptions, *, keeps_sound: bool = False
) -> ClipOutput:
    """How a clip is written: as it was typed, and as fast as `--from` plays.

    Raises:
        UsageError: a speed that no clip has, or an encoding of drafts.
    """
    if options.draft:
        refuse_encoding_of_drafts(encoding)
    then = options.reused.fps_for(options.output) if options.reused and not keeps_sound else None
    return ClipOutput(encoding=encoding.settled(then))


def _generate(
    options: GenerateOptions,
    mode: Mode,
    asked: Asked,
    written_as: ClipOutput = _PLAIN,
    *,
    keeps_sound: bool = False,
) -> None:
    """Make the files of a command, or drafts.

    Args:
        options: as typed.
        mode: of the command.
        asked: what is made; the lines of a list say more.
        written_as: how clips are.
        keeps_sound: they have the sound of the clip that they continue.
    """
    seconds = parse_deadline(options.deadline)
    if options.draft:
        if keeps_sound:
            raise UsageError("a draft writes no video, so --audio does not go with it")
        seeds = options.all_seeds()
        requests = [request_for(options, mode, asked, seed) for seed in seeds.numbers]
        seeds.say()
        _draft(options, requests)
        return
    if options.reused and seconds is None:
        options.reused.say_end()
    several = options.is_batch
    names = OutputNames(options, mode, several=several, skips=options.skip_existing)
    same_names = options.seeds is not None or not names.tells_seed(None)
    resumes = names.template is not None and same_names and not options.overwrite
    batch = Batch(several=several, resumes=resumes)
    tasks = tasks_of(options, mode, asked, written_as, names, batch, keeps_sound=keeps_sound)
    rewrites = options.rewrite and not options.dry_run
    make_all(options, tasks, names, batch, seconds=seconds, rewrites=rewrites)


def _draft(options: GenerateOptions, requests: Sequence[GenerationRequest]) -> None:
    """Make drafts of requests that differ in their seeds alone.

    Raises:
        UsageError: they are too many, or more are kept than there are.
    """
    from istar.generation.until import check_until

    count = len(requests)
    if count > MOST_DRAFTS:
        raise UsageError(f"there are at most {MOST_DRAFTS} drafts, not {count}")
    if options.best is not None and options.best > count:
        raise UsageError(
            f"--best keeps some of the drafts: it is at most {count}, not {options.best}"
        )
    until = parse_until(options.until)
    with drafts_directory(options.output) as directory:
        if options.rewrite and not options.dry_run:
            requests = rewritten_requests(requests, options.device)
        pipeline, inputs = options.load(
            requests[0],
            target=directory,
            check=lambda plan: check_until(plan.steps(0), until),
        )
        make_drafts(
            pipeline,
            requests,
            inputs,
            directory,
            until=until,
            overwrite=options.overwrite,
            best=options.best,
        )
