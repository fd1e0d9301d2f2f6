"""Making files one after the other with a model that is loaded once; a single one, too."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from istar.cli.chosen_model import ChosenModel
from istar.cli.console import emit, emit_error, say, say_failure, voice
from istar.cli.json_events import file_event, skipped_event, summary_event
from istar.cli.keep import TakeSettings, kept_take, take_settings
from istar.cli.left_takes import LeftTakes
from istar.cli.naming import OutputNames
from istar.cli.output import output_file
from istar.cli.output_writer import OutputFile
from istar.errors import IstarError

if TYPE_CHECKING:
    from istar.cli.options import CommonOptions
    from istar.cli.previews import PreviewOutput
    from istar.cli.tasks import Task
    from istar.events import Event
    from istar.inputs import Inputs
    from istar.job import Job
    from istar.pipeline import InfinityStarPipeline
    from istar.request import GenerationRequest


class Batch:
    """Counts what becomes of tasks; where there are several, one that fails ends no other.

    Args:
        several: a list may have one line, and is several all the same.
        resumes: names are predictable, so that the same command can go on.

    Attributes:
        made, skipped, failed: how many.
    """

    def __init__(self, *, several: bool, resumes: bool) -> None:
        self.made = self.skipped = self.failed = 0
        self._several = several
        self._resumes = resumes
        self._is_ended = False

    @contextmanager
    def attempt(self, label: str, *, files: int = 1) -> Iterator[None]:
        """Inside, one of several tasks may fail: it is said and counted.

        Args:
            label: what it is called; nothing is for all of them, and what fails then ends them.
            files: how many are missing then.
        """
        try:
            yield
        except IstarError as error:
            if not label or not self._several or self._is_ended:
                raise
            self.failed += files
            say_failure(label, error)
            # The next result has a take of its own.
            voice().take = voice().made = None

    @contextmanager
    def ending_it(self) -> Iterator[None]:
        """Inside, what fails would fail for every task, and ends them all."""
        try:
            yield
        except IstarError:
            self._is_ended = True
            raise

    @contextmanager
    def summary(self, total: int) -> Iterator[None]:
        """Inside, all tasks are done; then, or where something ends them, it is said how many are.

        Args:
            total: how many there are, those included that failed before.

        Raises:
            Exit: some failed.
        """
        try:
            yield
        except typer.Exit as end:  # of a dry run, after the plan
            raise typer.Exit(1 if self.failed else end.exit_code) from end
        except BaseException:
            if self._several and (done := self.made + self.skipped):
                others = "; the same command with --skip-existing makes the others"
                say(f"{done} of {total} made{others if self._resumes else ''}")
            raise
        if not self._several:
            return
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        failed = f", {self.failed} failed" if self.failed else ""
        text = f"{self.made} of {total} made{skipped}{failed}"
        if voice().as_json:
            emit(
                summary_event(made=self.made, skipped=self.skipped, failed=self.failed, total=total)
            )
        else:
            say(text)
        if self.failed:
            emit_error(text, 1)
            raise typer.Exit(1)


def make_all(
    options: CommonOptions,
    tasks: Sequence[Task],
    names: OutputNames,
    batch: Batch,
    *,
    seconds: float | None,
    rewrites: bool = False,
) -> None:
    """Make files with one model, which is loaded for the first that has to be made.

    Args:
        options: of the command.
        tasks: what is made.
        names: of the files.
        batch: counts them.
        seconds: how long each may take; None for as long as it takes.
        rewrites: a language model writes richer prompts first.

    Raises:
        IstarError: the model cannot be had; of a single task also that it failed.
        Exit: several were to be made, and some failed.
    """
    total = len(tasks) + batch.failed
    settings = take_settings(options)
    with batch.summary(total):
        if not tasks:
            return
        model = ChosenModel(options, [task.request for task in tasks])
        todo = _to_be_made(tasks, model, names, batch)
        requests = [task.request for task, _ in todo]
        if options.dry_run and total > 1:
            for task, target in todo:
                say(f"{task.number} of {total}, {task.label}: {target or 'a numbered name'}")
        if rewrites and requests:
            from istar.cli.rewrite import rewritten_requests

            requests = rewritten_requests(requests, options.device)
        pipeline: InfinityStarPipeline | None = None
        previews: PreviewOutput | None = None
        said: set[str] = set()
        left = LeftTakes(wanted=names.skips and not options.dry_run)
        for (task, target), request in zip(todo, requests, strict=True):
            with batch.attempt(task.label):
                with output_file(options, request, task.written_as, target) as output:
                    if total > 1 and not options.dry_run:
                        say(f"{task.number} of {total}, {task.label}: {request.prompts[0]:.80}")
                        emit(file_event(task.label, task.number, total))
                    if previews is None:
                        with batch.ending_it():
                            previews = options.previews(request, output.target)
                    inputs = model.read(request)
                    model.plan(request, inputs)
                    if pipeline is None:
                        with batch.ending_it():
                            pipeline = model.load(request, inputs, target=output.target)
                    if task.tiles:
                        _make_tiles(pipeline, (request, *task.tiles), inputs, output, said)
                    else:
                        with left.on_the_way_to(request, inputs, pipeline) as found:
                            make_file(
                                pipeline.job(found[1]) if found else pipeline.job(request, inputs),
                                pipeline,
                                output,
                                options,
                                settings,
                                previews,
                                seconds=seconds,
                                continued=found and found[0],
                                said=said,
                            )
                batch.made += 1


def _to_be_made(
    tasks: Sequence[Task], model: ChosenModel, names: OutputNames, batch: Batch
) -> list[tuple[Task, Path | None]]:
    """Those of some tasks that a model can do and whose files are not there, with their names."""
    found = []
    for task in tasks:
        with batch.attempt(task.label):
            # What is refused has its name too, so that others have the same once it is mended.
            target = names.target(task.request, task.number, task.output, model)
            model.spec.check_possible(task.request.mode, task.request.seconds)
            if names.is_there(target):
                batch.skipped += 1
                emit(skipped_event(task.label, target))
            else:
                found.append((task, target))
    return found


def _make_tiles(
    pipeline: InfinityStarPipeline,
    requests: Sequence[GenerationRequest],
    inputs: Inputs,
    output: OutputFile,
    said: set[str],
) -> None:
    """Write pictures as one, two in a row, with the settings of the first."""
    from istar.cli.display import StepDisplay
    from istar.media.sheet import page

    tiles = []
    with StepDisplay() as display:
        for request in requests:
            events = new_notes(pipeline.stream(request, inputs), said)
            tiles += [frames[0] for frames in display.pictures_of(events)]
    with output.writing(pipeline, requests[0]) as writer:
        writer.write(page(tiles, columns=2).unsqueeze(0))


def make_file(
    job: Job,
    pipeline: InfinityStarPipeline,
    output: OutputFile,
    options: CommonOptions,
    settings: TakeSettings | None,
    previews: PreviewOutput,
    *,
    seconds: float | None = None,
    continued: Path | None = None,
    said: set[str] | None = None,
) -> None:
    """Write what a job makes; meanwhile its take is kept.

    Args:
        job: a job.
        pipeline: the model.
        output: the file.
        options: of the command.
        settings: what becomes of the take.
        previews: where previews go.
        seconds: how long it may take.
        continued: the file of the take that the job continues, see `kept_take`.
        said: notes of other jobs, which are not said again; those of this one are added.
    """
    from istar.cli.display import StepDisplay

    start = job.take()
    words = [*options.take_words(start), *output.words]
    events = new_notes(_events(job, previews, seconds), set() if said is None else said)
    with (
        kept_take(job, words, settings, continued) as keeping,
        StepDisplay(previews) as display,
        output.writing(pipeline, start, deadline=seconds) as writer,
    ):
        for frames in display.pictures_of(keeping(events)):
            writer.write(frames)
        display.writing(output.target)


def _events(job: Job, previews: PreviewOutput, seconds: float | None) -> Iterator[Event]:
    """A job's events, to its end or for so many seconds."""
    if seconds is None:
        return job.run(preview=previews.wanted)
    from istar.deadline import run_in_time

    return run_in_time(job, seconds, preview=previews.wanted)


def new_notes(events: Iterator[Event], said: set[str]) -> Iterator[Event]:
    """Events without the notes that were said before; those of these are added."""
    from istar.events import Note

    for event in events:
        if not isinstance(event, Note):
            yield event
        elif event.text not in said:
            said.add(event.text)
            yield event
