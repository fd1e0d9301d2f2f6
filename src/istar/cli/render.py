"""`render` and `verify`: what a take holds, and whether its bits are those that it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from istar.cli.console import print_json, print_lines, printable
from istar.cli.encoding import ClipOutput, EncodingOptions
from istar.cli.option_groups import with_option_groups
from istar.cli.option_types import EventsOption, NoMetadataOption, OverwriteOption, SidecarOption
from istar.cli.options import CommonOptions
from istar.cli.output import output_file, take_values, template_path
from istar.cli.output_writer import OutputFile
from istar.cli.take_model import load_for_take
from istar.cli.take_options import DecodeOptions, TakeArgument, TakeOptions
from istar.generation.until import scale_name
from istar.output_templates import is_template

if TYPE_CHECKING:
    from istar.generation.schedule import Step
    from istar.pipeline import InfinityStarPipeline
    from istar.replay import StepCheck
    from istar.take import Take
    from istar.take_file import ModelIdentity

_ROW = "{:>6} {:>4} {:>5} {:>8} {:>6} {:>11} {:>19} {:>7}"


@with_option_groups
def render(
    take: TakeArgument,
    options: DecodeOptions,
    encoding: EncodingOptions,
    output: Annotated[
        str | None,
        typer.Option(
            "-o",
            "--output",
            metavar="PATH",
            help="A file, a directory, or - for stdout; its suffix is its format.",
            show_default="a numbered name here",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    no_metadata: NoMetadataOption = False,
    sidecar: SidecarOption = False,
    as_events: EventsOption = False,
) -> None:
    """Decode a take's picture or video again; of a clip under way what there is of it.

    Nothing is drawn, so this takes little time and memory.

    Example: istar render waves.take -o waves.mp4
    """
    held, name = options.read(take)
    common = CommonOptions(
        output=output, overwrite=overwrite, no_metadata=no_metadata, sidecar=sidecar
    )
    written_as = ClipOutput(encoding=encoding.settled())
    named = None
    if output and is_template(output):
        named = template_path(output, held.request.mode, take_values(held, 1))
    with output_file(common, held.request, written_as, named) as target:
        pipeline = load_for_take(held, name, device=options.device, decodes_only=True)
        write_rendered(pipeline, held, target)


def write_rendered(pipeline: InfinityStarPipeline, take: Take, output: OutputFile) -> None:
    """Write what a take holds, decoded.

    Args:
        pipeline: the model.
        take: what is decoded.
        output: the file.
    """
    from istar.cli.display import StepDisplay

    unfinished = not take.finished
    with StepDisplay() as display, output.writing(pipeline, take, unfinished=unfinished) as writer:
        for frames in display.pictures_of(pipeline.rendering(take)):
            writer.write(frames)
        display.writing(output.target)


@with_option_groups
def verify(
    take: TakeArgument,
    options: TakeOptions,
    as_json: Annotated[
        bool, typer.Option("--json", help="JSON on stdout, with every step.")
    ] = False,
) -> None:
    """Draw every bit of a take again, and name the first that would be another here.

    Every step looks at the take's own bits before it and uses its random
    numbers, so steps are compared one by one. The exit code is 0 if all bits
    are the same, and 1 if not.

    Example: istar verify waves.take --dtype fp32
    """
    from istar.cli.display import StepDisplay

    held, name = options.read(take)
    pipeline = options.load(held, name)
    total = sum(len(window.seconds) - len(window.given) for window in held.windows)
    checks = []
    with StepDisplay() as display:
        for check in pipeline.verify(held):
            checks.append(check)
            display.show(len(checks), max(total, len(checks)))
    networks = pipeline.networks
    report = _Report(
        file=str(take),
        made_by=held.model,
        dtype=networks.precision,
        device=networks.device.type,
        checks=tuple(checks),
    )
    if as_json:
        print_json(report.as_json())
    else:
        print_lines(report.lines())
    if report.first is not None:
        raise typer.Exit(1)


@dataclass(frozen=True, kw_only=True)
class _Report:
    """How a take compares with what is drawn here.

    Attributes:
        file: the take's name.
        made_by: what made it.
        dtype, device: in what and where its bits were drawn again.
        checks: of every step that was drawn.
    """

    file: str
    made_by: ModelIdentity
    dtype: str
    device: str
    checks: tuple[StepCheck, ...]

    @property
    def first(self) -> StepCheck | None:
        """The first step with a bit that would be another."""
        return next((check for check in self.checks if check.changed), None)

    @property
    def bits(self) -> int:
        """How many bits were drawn."""
        return sum(check.bits for check in self.checks)

    @property
    def changed(self) -> int:
        """How many of them would be others."""
        return sum(check.changed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """The report as JSON values; windows, steps, clips and scales count from 0."""
        steps = [_as_json(check) for check in self.checks]
        return {
            "file": self.file,
            "model": self.made_by.name,
            "made_in": {"dtype": self.made_by.dtype, "device": self.made_by.device},
            "verified_in": {"dtype": self.dtype, "device": self.device},
            "bits": self.bits,
            "changed": self.changed,
            "first": _as_json(self.first) if self.first else None,
            "steps": steps,
        }

    def lines(self) -> Iterator[str]:
        """For a person, who counts from one."""
        made = f"{self.made_by.dtype} on {self.made_by.device}"
        yield printable(f"{self.file}: made in {made}, verified in {self.dtype} on {self.device}")
        if self.first is None:
            yield f"all {self.bits:,} drawn bits are as they would be here"
            return
        first, step = self.first, self.first.step
        share = f"{self.changed:,} of {self.bits:,} drawn bits ({self.changed / self.bits:.3%})"
        yield f"{share} would be others here"
        yield (
            f"the first: step {step.index + 1} of window {first.window + 1}, clip {step.clip + 1}, "
            f"scale {_scale(step)}, by a margin of {first.margin:.2g}"
        )
        names = ("window", "clip", "step", "scale", "frames", "bits", "others", "margin")
        yield _ROW.format(*names)
        for check in self.checks:
            if check.changed:
                yield _ROW.format(
                    check.window + 1,
                    check.step.clip + 1,
                    check.step.index + 1,
                    _scale(check.step),
                    check.step.grid.frames,
                    f"{check.bits:,}",
                    f"{check.changed:,} ({check.changed / check.bits:.2%})",
                    f"{check.margin:.2g}",
                )


def _scale(step: Step) -> str:
    return scale_name(step.grid.width, step.grid.height)


def _as_json(check: StepCheck) -> dict[str, Any]:
    step = check.step
    return {
        "window": check.window,
        "step": step.index,
        "clip": step.clip,
        "scale": step.scale,
        "grid": step.grid._asdict(),
        "bits": check.bits,
        "changed": check.changed,
        "share": check.changed / check.bits if check.bits else 0.0,
        "margin": check.margin,
    }
