"""`istar bench`: what a generation takes, stage by stage."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.console import print_json, print_lines, printable
from istar.cli.memory_check import check_memory
from istar.cli.option_types import (
    DeviceOption,
    DtypeOption,
    Memory,
    MemoryOption,
    ModelOption,
    Resolution,
    SecondsOption,
    ThreadsOption,
    YesOption,
)
from istar.errors import UsageError
from istar.request import SECONDS_STEP, check_seconds

if TYPE_CHECKING:
    from istar.bench.report import BenchReport


class BenchMode(str, Enum):
    """What can be generated."""

    T2I = "t2i"
    T2V = "t2v"
    I2V = "i2v"
    EXTEND = "extend"
    INTERACT = "interact"


def bench(
    model: ModelOption = "auto",
    mode: Annotated[BenchMode, typer.Option("--mode", help="What is made.")] = BenchMode.T2V,
    res: Annotated[
        Resolution | None,
        typer.Option("--res", help="Which of the models.", show_default="the best for the mode"),
    ] = None,
    seconds: SecondsOption = None,
    random: Annotated[
        bool, typer.Option("--random", help="Random weights of the model's sizes; no files.")
    ] = False,
    fake: Annotated[
        bool,
        typer.Option(
            "--fake",
            help="Compute nothing: count operations and memory of a run on CUDA, on tensors "
            "without values. Needs neither weights nor a GPU.",
        ),
    ] = False,
    warm_up: Annotated[
        int, typer.Option("--warm-up", help="Runs before the measured ones, after a counted one.")
    ] = 1,
    repeats: Annotated[
        int, typer.Option("--repeats", help="Measured runs; the median of their seconds counts.")
    ] = 3,
    device: DeviceOption = "auto",
    dtype: DtypeOption = None,
    memory: MemoryOption = Memory.AUTO,
    threads: ThreadsOption = None,
    yes: YesOption = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout, sizes in bytes, in place of the table.")
    ] = False,
) -> None:
    """Measure what a generation takes: seconds and memory by stage, operations, traffic.

    Stages are loading, encoding what is given, text, every scale of every clip, decoding, writing.
    Element-wise is the bytes that all operations move but matrix products, convolutions and
    attention. Inputs are grey.

    Example: istar bench --fake --res 720p
    """
    if fake and random:
        raise UsageError("--fake has no weights, and so none to be --random")
    if fake and device.partition(":")[0] == "cpu":
        raise UsageError("--fake counts a run on CUDA; leave out --device")
    if warm_up < 0 or repeats < 1:
        raise UsageError("--warm-up is 0 or more, and --repeats 1 or more")
    if seconds is not None:
        check_seconds(seconds, least=SECONDS_STEP)
    from istar.models.find import check_name

    check_name(model)

    import torch

    from istar.bench.benchmark import Repeats, counted, measured
    from istar.bench.run import Workload
    from istar.cli.display import DownloadDisplay
    from istar.models.find import find_model
    from istar.placement import Placement

    if threads is not None:
        torch.set_num_threads(threads)
    workload = Workload(mode=mode.value, seconds=seconds)
    chosen = dtype.value if dtype else None
    placement = None if fake else Placement.choose(device, chosen)
    with DownloadDisplay() as downloads:
        found = find_model(
            model,
            mode=workload.mode,
            resolution=res.value if res else None,
            seconds=seconds,
            dtype=None if placement is None else placement.precision,
            on_event=downloads,
        )
        if placement is None:
            report = counted(
                found,
                workload,
                chosen,
                memory="max" if memory is Memory.AUTO else memory.value,
                on_event=downloads,
            )
        else:
            anyway = yes
            if not random:
                work = workload.work(found.spec)
                anyway = check_memory(found, placement, work, memory.value, yes=yes)
            report = measured(
                found,
                workload,
                placement,
                Repeats(warm_up=warm_up, measured=repeats),
                is_random=random,
                memory=memory.value,
                anyway=anyway,
                on_event=downloads,
            )
    _print(report, as_json=as_json)


def _print(report: BenchReport, *, as_json: bool) -> None:
    if as_json:
        print_json(report.as_json())
    else:
        print_lines(printable(line) for line in report.lines())
