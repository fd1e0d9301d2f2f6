"""`score`: how likely a take's bits are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from istar.cli.console import print_json, print_lines, print_path, printable
from istar.cli.option_groups import with_option_groups
from istar.cli.option_types import OverwriteOption
from istar.cli.take_options import TakeArgument, TakeOptions
from istar.generation.until import scale_name
from istar.output_names import output_path

if TYPE_CHECKING:
    from istar.generation.likelihood import Score
    from istar.score import TakeScore

_ROW = "{:>6} {:>4} {:>10} {:>10} {:>10} {:>12} {:>10}"


@with_option_groups
def score(
    take: TakeArgument,
    options: TakeOptions,
    heatmap: Annotated[
        str | None,
        typer.Option(
            "--heatmap",
            metavar="PATH",
            help="A picture to write: frames of the take, and below each where its bits were "
            "unlikely and where the prompt explains them.",
            show_default="not written",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="JSON on stdout, in nats, by scale and by latent frame too."),
    ] = False,
) -> None:
    """Say how likely a take's bits are, and how much of that the prompt explains.

    Log-likelihoods, in nats: of the bits as they were drawn; under the prompt alone, without
    guidance and temperature; and by how much that is more than without the prompt. They compare
    takes of one prompt, and say little of takes of two.

    Example: istar score waves.take --heatmap waves-score.png
    """
    from istar.cli.display import StepDisplay

    held, name = options.read(take)
    target = None
    if heatmap is not None:
        target = output_path(
            heatmap, default_stem="istar-score", suffix=".png", overwrite=overwrite
        )
    pipeline = options.load(held, name)
    with StepDisplay() as display:
        found = pipeline.score(held, on_step=display.show)
    if target is not None and found.frames:
        from istar.media import write_picture
        from istar.score import drawn_over_pictures

        shown = drawn_over_pictures(pipeline.networks, held, found)
        target = write_picture(shown, target, overwrite=overwrite, numbered=True)
    if as_json:
        written = {"heatmap": str(target)} if target is not None and found.frames else {}
        print_json({"file": str(take), "model": held.model.name, **found.as_json(), **written})
        return
    print_lines(_described(take, found))
    if target is not None and found.frames:
        print_path(target)


def _described(take: Path, found: TakeScore) -> Iterator[str]:
    """For a person, who counts from one."""
    yield printable(f"{take}: {found.bits:,} drawn bits")
    if not found.bits:
        return
    whole = found.total
    yield (
        f"in nats: {whole.drawn:,.1f} as drawn; {whole.conditional:,.1f} under the prompt, "
        f"{whole.explained:,.1f} more than without it"
    )
    yield "in nats a bit:"
    yield _ROW.format("window", "clip", "scale", "bits", "as drawn", "under prompt", "explained")
    for one in found.scales:
        place = (one.window + 1, one.clip + 1, scale_name(one.grid.width, one.grid.height))
        yield _ROW.format(*place, f"{one.bits:,}", *_per_bit(one.score, one.bits))
    yield _ROW.format("all", "", "", f"{found.bits:,}", *_per_bit(whole, found.bits))


def _per_bit(score: Score, bits: int) -> Iterator[str]:
    return (f"{nats / bits:.4f}" for nats in score)
