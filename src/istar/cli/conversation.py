"""An interactive session under way: prompt after prompt, forward and back."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from istar.cli.console import say, warn
from istar.cli.display import StepDisplay
from istar.cli.film import Film
from istar.cli.keep import TakeKeeper
from istar.cli.remedies import message
from istar.cli.seeds import consecutive_seeds, drawn_seed
from istar.cli.session_drafts import draft_prompt
from istar.cli.session_lines import (
    Command,
    Line,
    Prompt,
    TypedLines,
    parse_count,
    parse_seed,
    place_words,
    say_help,
)
from istar.cli.session_script import ScriptLines
from istar.errors import IstarError, MediaError, StateError, UsageError
from istar.files import PendingFile, writing_failed
from istar.output_names import output_path
from istar.plurals import counted

if TYPE_CHECKING:
    from istar.cli.output_writer import OutputFile
    from istar.cli.previews import PreviewOutput
    from istar.cli.session import Session
    from istar.events import Event
    from istar.job import Job
    from istar.pipeline import InfinityStarPipeline
    from istar.take import Take


class Conversation:
    """Does what the lines of a session say.

    After every line the session's take and the video hold all that was asked for.

    Args:
        pipeline: the model.
        start: what the session begins with: a new job, or its take.
        output: the video's file.
        session: the session's directory.
        previews: where previews go.
    """

    def __init__(
        self,
        pipeline: InfinityStarPipeline,
        start: Job | Take,
        output: OutputFile,
        session: Session,
        previews: PreviewOutput,
    ) -> None:
        from istar.job import Job

        self._pipeline = pipeline
        self._session = session
        self._previews = previews
        self._film = Film(pipeline, output, session)
        # Drafts of the next prompt: how many are wanted, and those that are there to choose from.
        self._wanted = 0
        self._drafts: list[Take] = []
        if isinstance(start, Job):
            self._job = start
        else:
            self._job = self._job_after(start, self._film.holds(start))

    def run(self, lines: Iterator[Line]) -> None:
        """Finish what is under way, then do what the lines say.

        Args:
            lines: prompts and commands; somebody who types them hears what cannot be done.
        """
        try:
            self.make()
            for line in lines:
                try:
                    self._do(line)
                except (UsageError, MediaError, StateError) as error:
                    if isinstance(lines, ScriptLines):
                        raise lines.named(error) from error
                    if not isinstance(lines, TypedLines):
                        raise
                    warn(message(error))
                if isinstance(lines, TypedLines):
                    lines.drafts = len(self._drafts)
        except (KeyboardInterrupt, SystemExit, IstarError):
            if self._session.stays and self._session.take_path.is_file():
                name = str(self._session.directory)
                path = f"./{name}" if name.startswith("-") else name
                command = shlex.join(["istar", "interact", path, *self._session.words])
                say(f"the session is kept; `{command}` continues it")
            raise

    def _do(self, line: Line) -> None:
        if self._drafts:
            self._choose(line)
            return
        match line:
            case Prompt() if self._wanted:
                self._draft(line)
            case Prompt():
                self.add(line, seed=self._session.settings.seed)
            case Command(name="draft"):
                self._wanted = parse_count(line.argument)
                say(f"the next prompt gets {counted(self._wanted, 'draft')}")
            case Command(name="undo"):
                self._undo()
            case Command(name="again"):
                self._again()
            case Command(name="seed"):
                self._session.update(seed=parse_seed(line.argument))
                say(f"the next clip is drawn from seed {self._session.settings.seed}")
            case Command(name="branch"):
                self._branch(line.argument)
            case Command(name="save"):
                self._save(line.argument)
            case Command(name="help"):
                say_help()

    def _undo(self) -> None:
        former = self._job.take()
        take = former.without_last_prompt()
        kept = self._session.keep(former)
        self.go_to(take)
        say(self._place())
        say(f"/branch {kept} goes back to what there was")

    def take(self) -> Take:
        """All that was asked for so far."""
        return self._job.take()

    def add(self, prompt: Prompt, *, seed: int | None, image: Path | None = None) -> None:
        """Make one more clip, see `istar.job.Job.add_prompt`."""
        self._job.add_prompt(prompt.text, typed=prompt.typed, seed=seed, image=image)
        self._session.save(self._job.take())
        if self._session.settings.seed is not None:
            self._session.update(seed=None)
        self.make()

    def _draft(self, prompt: Prompt) -> None:
        """Draft a prompt with the seed that was set, or one that is drawn, and those after it."""
        first = self._session.settings.seed
        if first is None:
            first = drawn_seed()
        sheet = self._session.directory / "drafts.png"
        seeds = consecutive_seeds(first, self._wanted)
        self._drafts = draft_prompt(self._job, prompt, seeds, sheet)
        self._wanted = 0
        say(f"{sheet} shows {counted(len(seeds), 'draft')}: type the number of one, 0 for none")

    def _choose(self, line: Line) -> None:
        """Finish one of the drafts.

        Raises:
            UsageError: the line is not the number of one.
        """
        numbers = [str(number) for number in range(len(self._drafts) + 1)]
        chosen = line.text if isinstance(line, Prompt) else ""
        if chosen not in numbers:
            raise UsageError(f"type the number of a draft, 1 to {numbers[-1]}, or 0 for none")
        drafts, self._drafts = self._drafts, []
        if chosen == "0":
            say(f"none of the drafts is used: {self._place()}")
            return
        self._session.update(seed=None)
        self.go_to(drafts[int(chosen) - 1])
        say(f"draft {chosen} is finished: {self._place()}")

    def _place(self) -> str:
        """Where the session is, in words."""
        return place_words(self._session.settings.branch, self._job.request.typed_prompts)

    def _again(self) -> None:
        """The last prompt with the seed that was set, or one that is drawn and said."""
        seed, request = self._session.settings.seed, self._job.request
        if seed is None:
            seed = drawn_seed()
            say(f"seed {seed}")
        former = self._job
        try:
            if len(request.prompts) > 1:
                take = former.take().without_last_prompt()
                self._job = self._job_after(take, len(take.windows))
                for _ in self._job.run():
                    pass
                last = len(request.prompts) - 1
                image = request.image_of(last)
                prompt, typed = request.prompts[last], request.typed_prompts[last]
                self._job.add_prompt(prompt, typed=typed, seed=seed, image=image)
            else:
                self._job = self._pipeline.job(replace(request, seed=seed), former.inputs)
            kept = self._make_in_place_of(former.take())
        except IstarError:
            self._job = former
            raise
        self._session.update(seed=None)
        say(f"/branch {kept} goes back to the former clip")

    def _branch(self, name: str) -> None:
        now = self._session.settings.branch
        if not name:
            names = ", ".join(one for one in self._session.branches if one != now)
            say(f"on {now}" + (f"; the other branches: {names}" if names else ""))
        elif name == now:
            say(f"this is {name} already")
        elif self._session.has(name):
            self._session.switch(name)
            try:
                take = self._session.take()
                self.go_to(take)
            except IstarError:
                self._session.switch(now)
                raise
            say(self._place())
        else:
            self._session.switch(name)
            self._session.save(self._job.take())
            say(f"on {name}; /branch {now} goes back to here")

    def _save(self, name: str) -> None:
        """Copy the video to a file, by default with a number beside it.

        Raises:
            UsageError: the file's name does not fit.
            MediaError: it cannot be written.
        """
        target = output_path(
            name or str(self._film.path),
            default_stem=self._film.path.stem,
            suffix=".mp4",
            overwrite=False,
        )
        with PendingFile(target, overwrite=False, numbered=True) as pending:
            try:
                shutil.copyfile(self._film.path, pending.temporary)
            except OSError as error:
                raise writing_failed(target, error) from error
        say(f"the video so far is in {pending.target}")

    def go_to(self, take: Take) -> None:
        """Continue from another take, and let the video hold what it holds."""
        self._job = self._job_after(take, self._film.holds(take))
        self.make()

    def _job_after(self, take: Take, made: int) -> Job:
        """The job of a take of which the video holds so many windows."""
        from istar.job import Job

        return Job.from_take(self._pipeline.networks, take, hidden=made)

    def make(self) -> None:
        """Make all that is asked for; meanwhile its take is written."""
        take = self._job.take()
        self._session.save(take)
        events = self._events_after(take)
        keeper = TakeKeeper(self._job, None, path=self._session.take_path)
        try:
            self._follow(keeper.keeping(events))
        finally:
            keeper.write(synced=True)

    def _make_in_place_of(self, former: Take) -> str:
        """Make all that is asked for, in place of what stays until this is there.

        Args:
            former: the take of the branch.

        Returns:
            the name of the branch that has it afterwards.
        """
        self._follow(self._events_after(self._job.take()))
        kept = self._session.keep(former)
        self._session.save(self._job.take())
        return kept

    def _events_after(self, take: Take) -> Iterator[Event]:
        """The events of the job, whose take is given: pictures of all that the video lacks."""
        # The file may have been taken away, or be as it was before an error or a crash.
        held, is_under_way = self._film.holds(take), self._job.state.generation is not None
        if is_under_way or held != self._job.windows_shown:
            self._job = self._job_after(take, held)
        return self._job.run(preview=self._previews.wanted)

    def _follow(self, events: Iterator[Event]) -> None:
        with StepDisplay(self._previews) as display:
            self._film.follow(self._job, display.pictures_of(events))
