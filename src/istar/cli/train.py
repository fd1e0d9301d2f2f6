"""`istar prepare` and `istar train`: from clips to your own model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.console import print_path, said_when_stopped, say
from istar.cli.option_types import DeviceOption, ThreadsOption
from istar.plurals import counted

if TYPE_CHECKING:
    import torch

    from istar.training.config import RunConfig
    from istar.training.task import Task

train = typer.Typer(
    no_args_is_help=True,
    help="Train a tokenizer or a transformer.",
)

_CONTINUES = "the same command continues from it"

ConfigArgument = Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The settings.")]


def prepare(
    config: ConfigArgument, device: DeviceOption = "auto", threads: ThreadsOption = None
) -> None:
    """Encode clips once, so that a transformer can be trained on their latents.

    Existing shards are kept: an interrupted command continues where it stopped. torchrun divides
    the work among several processes, of which the first prints the path on stdout.

    Example: istar prepare configs/tiny-latents.toml
    """
    chosen = _device(device, threads)

    from istar.cli.display import ClipsDisplay
    from istar.training.distributed import Share, use_device
    from istar.training.prepare import prepare as prepared
    from istar.training.prepare_config import PrepareConfig
    from istar.training.run_file import read_config

    settings = read_config(config, PrepareConfig)
    use_device(chosen)
    share = Share.by_torchrun()
    each = f" of process {share.rank + 1}" if share.processes > 1 else ""
    kept = "the shards that are whole are kept; the same command continues with the next"
    with said_when_stopped(lambda: "" if share.rank else kept), ClipsDisplay() as display:
        for event in prepared(settings, chosen, share):
            skipped = f", {event.skipped} skipped" if event.skipped else ""
            line = f"{event.clips} of {counted(event.total, 'clip')}{each}{skipped}"
            for note in event.notes:
                say(note)
            display.show(event.clips, event.total, line)
    if share.rank == 0:
        print_path(settings.output)


@train.command()
def tokenizer(
    config: ConfigArgument, device: DeviceOption = "auto", threads: ThreadsOption = None
) -> None:
    """Train a video tokenizer: pictures to bits and back.

    A run whose directory holds a checkpoint continues from it. torchrun shards the run over several
    devices. The model's path goes to stdout.

    Example: istar train tokenizer configs/tiny-tokenizer.toml
    """
    chosen = _device(device, threads)

    from istar.training.config import TokenizerTraining
    from istar.training.run_file import read_config
    from istar.training.tokenizer import TokenizerTask

    settings = read_config(config, TokenizerTraining)
    _run(TokenizerTask(settings), settings.run, chosen)


@train.command()
def transformer(
    config: ConfigArgument, device: DeviceOption = "auto", threads: ThreadsOption = None
) -> None:
    """Train a transformer and its text encoder on prepared latents.

    A run whose directory holds a checkpoint continues from it. torchrun shards the run over several
    devices. The model's path goes to stdout.

    Example: istar train transformer configs/tiny-transformer.toml
    """
    chosen = _device(device, threads)

    from istar.training.config import TransformerTraining
    from istar.training.run_file import read_config
    from istar.training.transformer import TransformerTask

    settings = read_config(config, TransformerTraining)
    _run(TransformerTask(settings), settings.run, chosen)


@train.command()
def pack(
    model: Annotated[Path, typer.Argument(help="A checkpoint directory with an istar.json.")],
    target: Annotated[Path, typer.Argument(help="The directory to make.")],
) -> None:
    """Make a trained model small, to give it to others.

    Its numbers become float16, and hashes are added.

    Example: istar train pack out/tiny-transformer/model out/tiny
    """
    from istar.checkpoint.pack import pack as packed

    print_path(packed(model, target))


def _device(device: str, threads: int | None) -> torch.device:
    import torch

    from istar.placement import choose_device

    if threads is not None:
        torch.set_num_threads(threads)
    return choose_device(device)


def _run(task: Task, run: RunConfig, device: torch.device) -> None:
    """Run a task to its end; only the first of several processes prints."""
    from istar.cli.display import TrainingDisplay, listed
    from istar.training.distributed import Share, process_group
    from istar.training.events import Remarked, Resumed, Saved, StepDone, Validated
    from istar.training.trainer import train as trained

    with process_group(device):
        prints = Share.of_this_process().rank == 0
        kept = ""
        with said_when_stopped(lambda: kept), TrainingDisplay() as display:
            for event in trained(task, run, device):
                if isinstance(event, StepDone) and prints:
                    display.show(event)
                elif isinstance(event, Remarked) and prints:
                    for note in event.notes:
                        say(note)
                elif isinstance(event, Validated) and prints:
                    say(f"validation after step {event.step}: {listed(event.measures)}")
                elif isinstance(event, Resumed) and prints:
                    say(f"continuing from step {event.step}")
                    kept = f"step {event.step} is kept; {_CONTINUES}"
                elif isinstance(event, Saved) and event.what == "samples" and prints:
                    say(f"samples: {event.path}")
                elif isinstance(event, Saved) and event.what == "checkpoint" and prints:
                    kept = f"{event.path} is kept; {_CONTINUES}"
        if prints:
            print_path(run.output / "model")
