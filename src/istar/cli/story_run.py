"""A story is made: the clips that are there stay, the others follow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.chosen_model import ChosenModel, find_chosen
from istar.cli.console import print_path, say, warn
from istar.cli.conversation import Conversation
from istar.cli.encoding import ClipOutput
from istar.cli.inputs import input_file
from istar.cli.options import CommonOptions
from istar.cli.output import STDOUT, output_file
from istar.cli.rewrite import RewriteSettings, richer_prompts
from istar.cli.seeds import drawn_seed
from istar.cli.session import SESSION_SUFFIX, Session, held_alone, is_session
from istar.cli.session_start import in_its_dtype, new_session, video_of
from istar.cli.story import Story, StoryClip
from istar.errors import IstarError, UsageError
from istar.output_names import names_directory, output_path
from istar.output_templates import is_template
from istar.plurals import counted

if TYPE_CHECKING:
    from istar.cli.interact import InteractOptions
    from istar.cli.story_takes import HeldStory
    from istar.inputs import Inputs
    from istar.job import Job
    from istar.request import GenerationRequest, Mode
    from istar.take import Take


def make_story(options: InteractOptions, path: Path, again: int | None) -> None:
    """Make what is not there of a story.

    Args:
        options: as typed.
        path: of the story.
        again: a scene that is made anew, with another seed, counted from 1.

    Raises:
        IstarError: whatever ends it.
    """
    story = Story.read(input_file(path))
    plan = StoryPlan.of(options, story, again)
    if not (plan.stays and is_session(plan.directory)):
        _make_new(plan)
        return
    with held_alone(plan.directory):
        _continue(plan)


@dataclass(frozen=True, kw_only=True)
class StoryPlan:
    """A story as one model makes it.

    Attributes:
        story: its file.
        options: as typed, and as the story has them where nothing was typed.
        words: options of a command that continues it, as they were typed.
        model: the model.
        clips: the story's.
        request: of all clips; its seed does not count.
        inputs: the pictures.
        directory: of the story's session.
        stays: the session outlasts the command.
        again: the seed of the scene that is made anew; None without one.
        rewrites: a language model writes richer prompts.
    """

    story: Story
    options: CommonOptions
    words: Sequence[str]
    model: ChosenModel
    clips: tuple[StoryClip, ...]
    request: GenerationRequest
    inputs: Inputs
    directory: Path
    stays: bool
    again: int | None
    rewrites: bool

    @classmethod
    def of(cls, typed: InteractOptions, story: Story, again: int | None) -> StoryPlan:
        """The plan; the model is chosen, and nothing large of it is fetched or loaded.

        With `--rewrite` it has the richer prompts that the session knows, and asks for no others.

        Args:
            typed: the options.
            story: its file.
            again: a scene that is made anew, counted from 1.

        Raises:
            IstarError: a setting, a length or a picture does not fit.
        """
        # 1. The options.
        if typed.from_file is not None:
            raise UsageError("a story has its own prompts and settings; leave out --from")
        stays = typed.output not in STDOUT and not typed.no_take
        output = _output(typed, story.path.stem)
        options = replace(story.settings.under(typed), output=output)
        seeds = _seeds(options, story, again)
        # 2. The model, and what it makes of the scenes.
        found = find_chosen(options, "interact")
        clips = story.clips(found[0].spec.clip_seconds, seeds)
        request = replace(
            replace(options, seed=0).request("interact", tuple(clip.prompt.text for clip in clips)),
            images=tuple(clip.image for clip in clips),
        )
        model = ChosenModel(options, [request], found)
        inputs = model.read(request)
        directory = (
            output_path(output, default_stem="", suffix=".mp4", overwrite=True)
            if stays
            else Path(story.path.stem)
        ).with_suffix(SESSION_SUFFIX)
        plan = cls(
            story=story,
            options=options,
            words=typed.words,
            model=model,
            clips=clips,
            request=request,
            inputs=inputs,
            directory=directory,
            stays=stays,
            again=None if again is None else seeds[again],
            rewrites=typed.rewrite,
        )
        # 3. The richer prompts that are known.
        if not plan.rewrites:
            return plan
        RewriteSettings.settled()
        session = plan.session
        return plan if session is None else plan.with_prompts(session.rewritten())

    @property
    def session(self) -> Session | None:
        """What was made of it before, if that was kept.

        Raises:
            StateError: it cannot be read.
        """
        is_there = self.stays and is_session(self.directory)
        return Session.open(self.directory) if is_there else None

    def with_prompts(self, richer: Mapping[str, str]) -> StoryPlan:
        """The plan with richer prompts, by those in the file."""
        clips = tuple(replace(one, prompt=one.prompt.rewritten(richer)) for one in self.clips)
        request = replace(
            self.request,
            prompt=tuple(clip.prompt.text for clip in clips),
            typed_prompt=tuple(clip.prompt.typed_text for clip in clips),
        )
        return replace(self, clips=clips, request=request)

    def rewritten(self) -> StoryPlan:
        """The plan with richer prompts for what is not there, if it rewrites.

        What was made from the words in the file, as no answer came then, stays. Call this once
        nothing else can be wrong.

        Raises:
            UsageError: the settings of the rewriter cannot be used.
        """
        if not self.rewrites:
            return self
        session = self.session
        branches = () if session is None else self.branches(session)
        # 1. Prompts that were made as they are in the file; those that are alike stay alike.
        is_there = [
            any(one.places[number] is not None for one in branches)
            for number in range(len(self.clips))
        ]
        kept: dict[str, int] = {}
        for clip, there in zip(self.clips, is_there, strict=True):
            if clip.prompt.typed is None and there:
                kept.setdefault(clip.prompt.text, clip.scene)
        # 2. The others.
        missing: dict[str, Mode] = {}
        for number, clip in enumerate(self.clips):
            mode: Mode = "i2v" if clip.image is not None else "interact" if number else "t2v"
            if clip.prompt.typed is None and clip.prompt.text not in kept:
                missing.setdefault(clip.prompt.text, mode)
        if kept:
            scenes = ", ".join(map(str, kept.values()))
            say(f"kept with the words as typed: scene {scenes}; --scene N rewrites one")
        return self.with_prompts(richer_prompts(missing, self.options.device)) if missing else self

    def branches(self, session: Session) -> tuple[HeldStory, ...]:
        """The branches of a session that hold some of it, the best first."""
        from istar.cli.story_takes import branches_of

        return branches_of(session, self.clips, self.request, self.inputs, self.model.spec.name)


def _output(options: CommonOptions, stem: str) -> str:
    """The name of the video: by default that of the story, here or in a directory.

    Raises:
        UsageError: a template was typed.
    """
    output = options.output
    if output and is_template(output):
        if "output" in options.typed:
            raise UsageError(f"'{output}': a story makes one video; name it without fields")
        output = None
    if output in STDOUT:
        return str(output)
    if output and names_directory(output):
        return str(Path(output) / f"{stem}.mp4")
    return output or f"{stem}.mp4"


def _seeds(options: CommonOptions, story: Story, again: int | None) -> dict[int, int]:
    """The seeds that count more than those in the file: as typed, or of a scene made anew.

    Raises:
        UsageError: there is no such scene.
    """
    if again is not None and not 1 <= again <= len(story.scenes):
        raise UsageError(f"there is no scene {again}; '{story.path}' has {len(story.scenes)}")
    if options.seed is not None:
        return {again or 1: options.seed}
    return {} if again is None else {again: drawn_seed()}


def _make_new(plan: StoryPlan) -> None:
    """Make a story of which there is nothing."""
    with output_file(plan.options, plan.request, ClipOutput(grows=True)) as output:
        previews = plan.options.previews(plan.request, output.target)
        plan = plan.rewritten()
        pipeline = plan.model.load(plan.request, plan.inputs)
        job = pipeline.job(*_first(plan))
        with (
            new_session(plan.options, plan.words, output, plan.directory) as session,
            _kept_said(plan, session),
        ):
            _follow(plan, Conversation(pipeline, job, output, session, previews), 1, ())


def _continue(plan: StoryPlan) -> None:
    """Make what a session lacks of a story.

    Raises:
        IstarError: whatever ends it.
    """
    session = Session.open(plan.directory, words=plan.words)
    output = video_of(plan.options, session)
    previews = plan.options.previews(plan.request, output.target)
    plan = plan.rewritten()
    options, model, branches = plan.options, plan.model, plan.branches(session)
    best = branches[0] if branches else None
    if best is not None:
        options = in_its_dtype(options, best.take)
        if options is not plan.options:
            model = ChosenModel(options, [plan.request])
    if best is not None and best.branch == session.settings.branch and _is_complete(session, best):
        say("all scenes are already made")
        print_path(session.video)
        return
    pipeline = model.load(plan.request, plan.inputs)
    start: Job | Take
    if best is None or not best.leading:
        _keep(session, None)
        start, made = pipeline.job(*_first(plan)), 1
    else:
        _say_kept(plan.clips[0], len(best.leading))
        start, made = _started(session, best), len(best.leading)
    with _kept_said(plan, session):
        conversation = Conversation(pipeline, start, output, session, previews)
        _follow(plan, conversation, made, branches)
    print_path(output.target)


def _is_complete(session: Session, best: HeldStory) -> bool:
    """Whether there is nothing to make, and the video holds all of it."""
    from istar.cli.film import window_hash

    held, take = session.settings.held, best.take
    if held is None or not (best.is_all and take.finished and session.has_video()):
        return False
    return len(best.places) == take.total and held.windows == tuple(map(window_hash, take.windows))


def _started(session: Session, best: HeldStory) -> Take:
    """The take of the clips that are there before the first that is not; the branch goes there."""
    from istar.cli.story_takes import with_clips_of

    session.switch(best.branch)
    if best.leading == tuple(range(best.take.total)):
        return best.take
    _keep(session, best.take)
    return with_clips_of(None, best.take, best.leading)


def _keep(session: Session, take: Take | None) -> None:
    """Keep what the branch is about to lose: its take, by default as it is in its file."""
    if take is None:
        if not session.has(session.settings.branch):
            return
        take = session.take()
    say(f"the previous version is kept as branch {session.keep(take)}")


def _first(plan: StoryPlan) -> tuple[GenerationRequest, Inputs]:
    """The request of a story's first clip, and its picture."""
    clip = plan.clips[0]
    seed = drawn_seed() if clip.seed is None else clip.seed
    _say_scene(plan, replace(clip, seed=seed))
    request = replace(
        plan.request,
        prompt=(clip.prompt.text,),
        typed_prompt=(clip.prompt.typed_text,),
        images=plan.request.images[:1],
        seed=seed,
    )
    own = {0: plan.inputs.images[0]} if 0 in plan.inputs.images else {}
    return request, replace(plan.inputs, images=own, notes=())


def _follow(
    plan: StoryPlan, conversation: Conversation, made: int, branches: Sequence[HeldStory]
) -> None:
    """Make the clips of a story from one on, or take them from branches that hold them.

    A clip that begins a new shot looks at nothing before it, so that what a branch holds from
    there on can stay.

    Args:
        plan: the story.
        conversation: with the clips before.
        made: how many these are.
        branches: that hold some of the story, the best first.
    """
    from istar.cli.story_takes import with_clips_of

    for note in plan.inputs.notes:
        warn(note)
    conversation.make()
    number = made
    while number < len(plan.clips):
        clip = plan.clips[number]
        holder = next((one for one in branches if one.places[number] is not None), None)
        if clip.image is not None and holder is not None:
            places = holder.run_from(number)
            _say_kept(clip, len(places))
            conversation.go_to(with_clips_of(conversation.take(), holder.take, places))
            number += len(places)
            continue
        if clip.begins:
            _say_scene(plan, clip)
        conversation.add(clip.prompt, seed=clip.seed, image=clip.image)
        number += 1


def _say_kept(clip: StoryClip, count: int) -> None:
    say(f"kept from scene {clip.scene} on: {counted(count, 'clip')}")


def _say_scene(plan: StoryPlan, clip: StoryClip) -> None:
    seed = "" if clip.seed is None else f", seed {clip.seed}"
    say(f"scene {clip.scene} of {len(plan.story.scenes)}{seed}")
    in_file = plan.story.seed_of(clip.scene)
    if in_file is not None and clip.seed != in_file:
        say(f"the story has seed {in_file} there; write {clip.seed} into it to keep this one")


@contextmanager
def _kept_said(plan: StoryPlan, session: Session) -> Iterator[None]:
    """Say what helps where something ends a story before its end."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, IstarError):
        if session.stays and session.take_path.is_file():
            seed = "" if plan.again is None else f" with --seed {plan.again}"
            say(f"what is made is kept; the same command{seed} continues it")
        raise
