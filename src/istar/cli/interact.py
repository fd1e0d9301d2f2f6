"""`interact`: a video that continues prompt by prompt."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.chosen_model import ChosenModel
from istar.cli.console import print_path, say, warn
from istar.cli.encoding import ClipOutput
from istar.cli.inputs import input_clip, input_file, is_stdin, is_take, read_stdin
from istar.cli.option_groups import with_option_groups
from istar.cli.option_types import RewriteOption
from istar.cli.options import CommonOptions
from istar.cli.output import output_file
from istar.cli.output_writer import OutputFile
from istar.cli.rewrite import (
    check_rewriting_as_typed,
    rewriting_as_typed,
    rewritten_prompts,
)
from istar.cli.session import FIRST_BRANCH, Session, held_alone, is_session
from istar.cli.session_lines import (
    Command,
    Line,
    Prompt,
    TypedLines,
    parse_seed,
    place_words,
    say_help,
)
from istar.cli.session_script import ScriptLines
from istar.cli.session_start import in_its_dtype, new_session, video_of
from istar.cli.story import STORY_SUFFIX
from istar.errors import UsageError
from istar.request import GenerationRequest
from istar.text_files import read_text

if TYPE_CHECKING:
    from istar.cli.previews import PreviewOutput
    from istar.job import Job
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take


@dataclass(frozen=True, kw_only=True)
class InteractOptions(CommonOptions):
    """The options of `interact`."""

    rewrite: RewriteOption = False

    @property
    def rewrites(self) -> bool:
        """A language model writes richer prompts."""
        return self.rewrite and not self.dry_run

    @property
    def words(self) -> list[str]:
        """What is typed again in a command that continues this one.

        There prompts are typed one by one, which only an endpoint rewrites.
        """
        from istar.cli.settings import setting

        rewrites = self.rewrites and setting("rewrite.url")
        return [*self.model_words, *(["--rewrite"] if rewrites else [])]


@with_option_groups
def interact(
    options: InteractOptions,
    clip: Annotated[
        Path | None,
        typer.Argument(
            help="The video to continue, of five seconds or more (one clip of the model); a take; "
            "or the directory of a session. - is stdin.",
            show_default="the first prompt starts one",
        ),
    ] = None,
    script: Annotated[
        Path | None,
        typer.Option(
            "--script",
            metavar="FILE",
            help="Prompts and commands, one a line; - is stdin. Or a story, FILE.toml.",
            show_default="those of --from, else asks",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Check a story, and say what it would take; nothing is made."),
    ] = False,
    scene: Annotated[
        int | None,
        typer.Option(
            "--scene",
            metavar="N",
            help="Make this scene of a story anew, with another seed, and what continues it.",
            show_default="what is not there yet",
        ),
    ] = None,
) -> None:
    """Make a video prompt by prompt, five seconds (one clip of the model) each.

    The file grows with every prompt. An empty line, or the end of the input, ends it. /undo,
    /again, /branch and other commands go back; /help lists them. Takes of it all lie in a
    directory beside the file: story.session of story.mp4. With it, interact continues where the
    session was, whatever ended it.

    Example: istar interact --script story.toml --check
    """
    if script is not None and script.suffix.lower() == STORY_SUFFIX:
        if clip is not None:
            raise UsageError("a story begins by itself, or with a picture; leave out the video")
        from istar.cli.story_check import check_story
        from istar.cli.story_run import make_story

        if check or options.dry_run:
            check_story(options, script, scene)
        else:
            make_story(options, script, scene)
        return
    if check or scene is not None:
        raise UsageError("--check and --scene are for a story: --script FILE.toml")
    if clip is not None and is_session(clip):
        with held_alone(clip.expanduser()):
            _reopen(options, clip.expanduser(), script)
        return
    source = None if clip is None else input_clip(clip)
    lines = _lines(script, source, options)
    start: GenerationRequest | Take | None = None
    inputs, words, prompts = None, options.words, 0
    if source is not None and is_take(source):
        from istar.inputs import Inputs

        take, options = options.read_take(source)
        if take.request.mode == "interact":
            prompts = len(take.request.prompts)
            _check_settings(options)
            options = in_its_dtype(options, take)
            start, inputs = take, Inputs.of_take(take)
    if isinstance(lines, ScriptLines):
        lines.check(FIRST_BRANCH, {FIRST_BRANCH: prompts})
    first: Prompt | None = None
    if start is None:
        first, options = _first_prompt(lines, options)
        options = options.with_seed()
        start = options.request(
            "interact", (first.text,), clip=source, typed_prompt=(first.typed_text,)
        )
    request = start if isinstance(start, GenerationRequest) else start.request
    with output_file(options, request, ClipOutput(grows=True)) as output:
        previews = options.previews(request, output.target)
        model = ChosenModel(options, [request])
        inputs = inputs or model.read(request)
        model.plan(request, inputs)
        # A language model is asked once nothing else can be wrong.
        first, lines = _rewritten(first, lines, options, is_new=source is None)
        if first is not None:
            request = replace(request, prompt=(first.text,), typed_prompt=(first.typed_text,))
        pipeline = model.load(request, inputs, target=output.target)
        job = pipeline.job(start if first is None else request, inputs)
        with new_session(options, words, output) as session:
            if first is None:
                session.update(seed=options.seed)
            _converse(pipeline, job, output, session, previews, lines)


def _reopen(options: InteractOptions, directory: Path, script: Path | None) -> None:
    """Continue a session where it was.

    Raises:
        UsageError: an option does not fit what is there.
        StateError: the session or its take cannot be read.
    """
    from istar.inputs import Inputs

    session = Session.open(directory, words=options.words)
    _check_settings(options)
    if "output" in options.typed:
        raise UsageError(f"the video of '{directory}' is {session.video}; /save FILE copies it")
    # Without anybody to ask, what is under way is finished.
    is_terminal = sys.stdin is not None and sys.stdin.isatty()
    lines: Iterator[Line] = iter(())
    if script is not None or is_terminal:
        lines = _lines(script, None, options)
    take, options = options.read_take(session.take_path)
    branch = session.settings.branch
    if isinstance(lines, ScriptLines):
        lines.check(branch, session.prompts())
    say(place_words(branch, take.request.typed_prompts))
    options = in_its_dtype(options, take)
    if options.seed is not None:
        session.update(seed=options.seed)
    output = video_of(options, session)
    previews = options.previews(take.request, output.target)
    model, inputs = ChosenModel(options, [take.request]), Inputs.of_take(take)
    model.plan(take.request, inputs)
    _, lines = _rewritten(None, lines, options, is_new=False)
    pipeline = model.load(take.request, inputs, target=output.target)
    _converse(pipeline, take, output, session, previews, lines)
    print_path(output.target)


def _converse(
    pipeline: InfinityStarPipeline,
    start: Job | Take,
    output: OutputFile,
    session: Session,
    previews: PreviewOutput,
    lines: Iterator[Line],
) -> None:
    from istar.cli.conversation import Conversation

    Conversation(pipeline, start, output, session, previews).run(lines)


def _check_settings(options: CommonOptions) -> None:
    """Refuse options that a session has settled.

    Raises:
        UsageError: one of them was typed.
    """
    settled = {
        "from_file": "--from",
        "res": "--res",
        "aspect": "--aspect",
        "guidance": "--guidance",
        "tau": "--tau",
        "negative": "--negative",
        "no_suffix": "--no-suffix",
    }
    for name, option in settled.items():
        if name in options.typed:
            raise UsageError(f"the video keeps the settings that it has; leave out {option}")


def _first_prompt(
    lines: Iterator[Line], options: InteractOptions
) -> tuple[Prompt, InteractOptions]:
    """The first prompt, and the options with the seed that was set before it.

    Raises:
        UsageError: no prompt comes, or a command that needs one before it.
    """
    for line in lines:
        match line:
            case Prompt():
                return line, options
            case Command(name="help"):
                say_help()
            case Command(name="seed"):
                options = replace(options, seed=parse_seed(line.argument))
                say(f"the first clip is drawn from seed {options.seed}")
            case Command():
                text = f"there is no clip yet for /{line.name}"
                if not isinstance(lines, TypedLines):
                    raise UsageError(text)
                warn(text)
    raise UsageError("no prompt was given, so there is nothing to make")


def _lines(script: Path | None, source: Path | None, options: InteractOptions) -> Iterator[Line]:
    if script is not None:
        return _read_script(script, source)
    if options.reused is None:
        if options.rewrites:
            check_rewriting_as_typed()
        return TypedLines()
    then = options.reused.settings
    prompts = [
        Prompt(text=text, typed=None if typed == text else typed)
        for text, typed in zip(then.prompts, then.typed_prompts, strict=True)
    ]
    return iter(prompts)


def _rewritten(
    first: Prompt | None, lines: Iterator[Line], options: InteractOptions, *, is_new: bool
) -> tuple[Prompt | None, Iterator[Line]]:
    """The first prompt and the lines after it with richer prompts, where these are asked for.

    Args:
        first: the first prompt, taken from the lines; None where none is.
        lines: the others.
        options: as typed.
        is_new: as `rewritten_prompts` takes it.
    """
    if not options.rewrites:
        return first, lines
    if isinstance(lines, TypedLines):
        lines.rewriting = rewriting_as_typed(options.device, is_new=is_new)
        return first and lines.rewriting(first), lines
    if isinstance(lines, ScriptLines):
        richer = rewritten_prompts(lines.prompts, options.device, is_new=is_new)
        lines.rewrite(richer)
        return first and richer[0], lines
    given = [line for line in (first, *lines) if isinstance(line, Prompt)]
    richer = rewritten_prompts(given, options.device, is_new=is_new)
    return (None, iter(richer)) if first is None else (richer[0], iter(richer[1:]))


def _read_script(path: Path, source: Path | None) -> ScriptLines:
    """The lines of a script.

    Raises:
        MediaError: it is not there.
        UsageError: it is not a UTF-8 text, or a line can be neither a prompt nor a command.
    """
    text = read_stdin("the script", source) if is_stdin(path) else read_text(input_file(path))
    return ScriptLines(text)
