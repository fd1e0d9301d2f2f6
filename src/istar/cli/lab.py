"""`istar eval`: how good a model is, measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.console import print_json, print_lines, print_path, say
from istar.cli.eval_prompts import prompts
from istar.cli.memory_check import check_memory
from istar.cli.option_types import (
    DeviceOption,
    DtypeOption,
    Memory,
    MemoryOption,
    ModelOption,
    NumberType,
    ThreadsOption,
    YesOption,
)
from istar.errors import IstarError, MediaError, UsageError
from istar.files import expanded
from istar.plurals import counted

if TYPE_CHECKING:
    from istar.lab.score import Outcome, ShapesTest
    from istar.model_spec import Precision
    from istar.pipeline import InfinityStarPipeline

evaluate = typer.Typer(
    no_args_is_help=True,
    help="Measure how good a model is.",
)

evaluate.command()(prompts)

_REPORT, _SHEET = "report.json", "sheet.png"


@evaluate.callback()
def choose() -> None:
    """Measure how good a model is."""


@evaluate.command()
def shapes(
    model: ModelOption = "auto",
    count: Annotated[int, typer.Option("--count", help="How many clips of every mode.")] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Of the first clip; others follow.")] = 0,
    modes: Annotated[
        str,
        typer.Option(
            "--modes",
            metavar="MODE,…|all",
            help="What to test, in this order. Also: wide, tall, diversity, two, unprompted, "
            "interact, t2i.",
        ),
    ] = "t2v,wording,i2v,extend,tokenizer",
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds", help="Length of a clip: 1.75 to 4, in quarters; with extend to 2."
        ),
    ] = 2.0,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="DIRECTORY",
            help="Where report.json and sheet.png go; made if need be.",
        ),
    ] = "eval-shapes",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = Memory.AUTO,
    yes: YesOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The report on stdout, in place of the paths.")
    ] = False,
) -> None:
    """Test a model of moving shapes on combinations it has not seen.

    Clips are made and measured by plain image analysis: colour, shape, motion, background. Exit
    code 0 whatever the quality. The report's and the sheet's path go to stdout, or the report.
    Stopped early, it reports on the clips that it has.

    Example: istar eval shapes --model ./shapes --count 50
    """
    from istar.models.find import check_name

    check_name(model)
    report_file, sheet_file = _targets(output, overwrite=overwrite)

    import torch

    from istar.cli.display import StepDisplay
    from istar.lab.report import ShapesReport
    from istar.lab.score import evaluate_shapes
    from istar.lab.sheet import contact_sheet
    from istar.media import write_picture

    test = _test(count, seed, modes, seconds)
    if threads is not None:
        torch.set_num_threads(threads)
    pipeline = _load(model, device, dtype, memory, seconds=seconds, yes=yes)
    found: list[Outcome] = []

    def write_results() -> None:
        report = ShapesReport(
            model=pipeline.spec.name,
            device=str(pipeline.device),
            dtype=pipeline.networks.precision,
            test=test,
            records=tuple(outcome.record for outcome in found),
        )
        written = report.write(report_file, overwrite=overwrite)
        sheet = write_picture(contact_sheet(found), sheet_file, overwrite=overwrite, numbered=True)
        for line in report.lines():
            say(line)
        if as_json:
            print_json(report.as_json())
            return
        print_path(written)
        print_path(sheet)

    try:
        with StepDisplay() as display:
            for outcome in evaluate_shapes(pipeline, test):
                found.append(outcome)
                display.show(len(found), test.clips)
    except (KeyboardInterrupt, SystemExit, IstarError):
        if found:
            say(f"stopped after {len(found)} of {counted(test.clips, 'clip')}")
            write_results()
        raise
    write_results()


@evaluate.command()
def precision(
    model: ModelOption = "auto",
    dtypes: Annotated[
        list[NumberType] | None,
        typer.Option(
            "--dtype", help="To measure; may be given several times.", show_default="int8 and fp8"
        ),
    ] = None,
    count: Annotated[int, typer.Option("--count", help="How many videos.")] = 1,
    seed: Annotated[int, typer.Option("--seed", help="Of the first video; others follow.")] = 0,
    seconds: Annotated[
        float | None,
        typer.Option("--seconds", help="Length of a video.", show_default="one clip of the model"),
    ] = None,
    device: DeviceOption = "auto",
    memory: MemoryOption = Memory.AUTO,
    yes: YesOption = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout.")] = False,
) -> None:
    """Measure what computing in 8 bits, or in bf16, changes.

    Videos are made in fp32, and then again in every other type of number with the same bits given
    step by step: by how much the logits differ, and which share of the bits drawn from them with
    the same random numbers. The model is loaded once for every type.

    Example: istar eval precision --model tiny
    """
    if count < 1:
        raise UsageError(f"--count is 1 or more, not {count}")
    from istar.models.find import check_name

    check_name(model)

    from istar.cli.display import StepDisplay
    from istar.lab.held_out import held_out_scenes
    from istar.lab.precision import PrecisionReport, StepDeviation, deviations, traced
    from istar.request import GenerationRequest

    kinds = list(dict.fromkeys(dtypes or (NumberType.INT8, NumberType.FP8)))
    requests = tuple(
        GenerationRequest(
            mode="t2v",
            prompt=scene.caption(seed + number, content="all"),
            seconds=seconds,
            seed=seed + number,
        )
        for number, scene in enumerate(held_out_scenes(seed, count))
    )
    pipeline = _load(model, device, NumberType.FP32, memory, seconds=seconds, yes=yes)
    name, where = pipeline.spec.name, str(pipeline.device)
    with StepDisplay() as display:
        total, done = count * (1 + len(kinds)), 0
        exact = []
        for request in requests:
            exact.append(list(traced(pipeline.networks, request)))
            done += 1
            display.show(done, total)
        steps: dict[Precision, list[StepDeviation]] = {}
        for kind in kinds:
            # The GPU may have no room for two.
            del pipeline
            pipeline = _load(model, device, kind, memory, seconds=seconds, yes=yes)
            own = steps.setdefault(kind.value, [])
            for run, request in zip(exact, requests, strict=True):
                own += deviations(run, pipeline.networks, request)
                done += 1
                display.show(done, total)
    report = PrecisionReport(model=name, device=where, requests=requests, steps=steps)
    if as_json:
        print_json(report.as_json())
    else:
        print_lines(report.lines())


def _load(
    model: str,
    device: str,
    dtype: NumberType | None,
    memory: Memory,
    *,
    seconds: float | None,
    yes: bool,
) -> InfinityStarPipeline:
    """A model for videos of a length, as options say; see `InfinityStarPipeline.load`."""
    from istar.cli.display import DownloadDisplay
    from istar.memory_use import Work
    from istar.models.find import find_model
    from istar.pipeline import InfinityStarPipeline
    from istar.placement import Placement

    placement = Placement.choose(device, dtype.value if dtype else None)
    with DownloadDisplay() as display:
        found = find_model(model, seconds=seconds, dtype=placement.precision, on_event=display)
        work = Work.usual(found.spec, "t2v", seconds)
        anyway = check_memory(found, placement, work, memory.value, yes=yes)
        return InfinityStarPipeline.load(
            found, placement, work, memory=memory.value, anyway=anyway, on_event=display
        )


def _targets(output: str, *, overwrite: bool) -> tuple[Path, Path]:
    """The files to write, refused early.

    Raises:
        UsageError: the directory has no name.
        MediaError: one exists and may not be replaced, or the directory cannot be made.
    """
    if not output:
        raise UsageError("the output path is empty")
    directory = expanded(output)
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise MediaError(f"cannot make the directory '{directory}': {error.strerror}") from error
    report, sheet = directory / _REPORT, directory / _SHEET
    for target in (report, sheet):
        if target.exists() and not overwrite:
            raise MediaError(
                f"'{target}' exists; choose another --output, or replace it with --overwrite"
            )
    return report, sheet


def _test(count: int, seed: int, modes: str, seconds: float) -> ShapesTest:
    """The test that was asked for.

    Raises:
        UsageError: something in it makes no sense.
    """
    from istar.lab.score import ShapesTest
    from istar.lab.trials import MODES

    names = list(MODES) if modes == "all" else [name.strip() for name in modes.split(",")]
    if unknown := [name for name in names if name not in MODES]:
        raise UsageError(f"--modes are of {', '.join(MODES)}, not {', '.join(unknown)}")
    chosen = tuple(mode for name in names for mode in MODES if mode == name)
    return ShapesTest(count=count, seed=seed, modes=chosen, seconds=seconds)
