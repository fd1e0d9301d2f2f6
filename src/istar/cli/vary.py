"""`vary`: a take made anew in part."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from istar.cli.console import say, warn
from istar.cli.drafts import (
    DRAFTS_HOLD_ALL,
    MOST_DRAFTS,
    DraftOption,
    UntilOption,
    drafts_directory,
    make_drafts,
    parse_scale,
    parse_until,
)
from istar.cli.encoding import TakeEncodingOptions, refuse_encoding_of_drafts
from istar.cli.finish import ContinueOptions, make_takes
from istar.cli.inputs import read_prompt, take_file
from istar.cli.option_groups import with_option_groups
from istar.cli.seeds import consecutive_seeds, drawn_seed
from istar.cli.take_options import TakeArgument
from istar.errors import UsageError

_TIMES = re.compile(r"([0-9]{1,6}(?:\.[0-9]*)?)s?-([0-9]{1,6}(?:\.[0-9]*)?)s?")
_REGION = re.compile(r"([0-9]{1,6}),([0-9]{1,6}),([0-9]{1,6}),([0-9]{1,6})")


@with_option_groups
def vary(
    take: TakeArgument,
    options: ContinueOptions,
    encoding: TakeEncodingOptions,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep",
            metavar="SCALE",
            help="The scale, by its size in tokens such as 9x5, up to which everything stays.",
            show_default="no scale",
        ),
    ] = None,
    count: Annotated[
        int,
        typer.Option(
            "-n", "--count", min=1, max=MOST_DRAFTS, help="How many, with consecutive seeds."
        ),
    ] = 1,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="TEXT", help="Another prompt.", show_default="the take's"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", help="Of the first variation's draws.", show_default="drawn and printed"
        ),
    ] = None,
    frames: Annotated[
        str | None,
        typer.Option(
            "--frames",
            metavar="FROM-TO",
            help="Keep everything outside a time, such as 2s-3s.",
            show_default="all",
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(
            "--region",
            metavar="X,Y,W,H",
            help="Keep everything outside a region: its left, top, width and height in pixels.",
            show_default="all",
        ),
    ] = None,
    draft: DraftOption = False,
    until: UntilOption = None,
) -> None:
    """Make variations of a take that keep its layout, or all but a part of it.

    Tokens of the scales up to --keep stay, and of the finer ones those outside --frames and
    --region; the others are drawn anew. Pixels near what is drawn anew can change. Of a video of
    several windows only the first stays.

    Example: istar vary waves.take --keep 9x5 -n 4 --prompt "waves at night"
    """
    from istar.generation.until import check_until
    from istar.take import Take

    if draft and (options.preview or options.preview_file is not None):
        raise UsageError("drafts are shown on their sheets, not by --preview")
    if draft and (options.no_metadata or options.sidecar):
        raise UsageError(DRAFTS_HOLD_ALL)
    if draft:
        refuse_encoding_of_drafts(encoding)
    if until is not None and not draft:
        raise UsageError("--until is for drafts; add --draft")
    if keep is None and frames is None and region is None:
        raise UsageError("say what stays: name a scale with --keep, or use --frames or --region")
    how_far = parse_until(until)
    kept = keep and parse_scale(keep)
    if keep is not None and not kept:
        raise UsageError(f"--keep is a scale such as 9x5, not {keep!r}")
    times, place = _parsed_times(frames), _parsed_region(region)
    path = take_file(take)
    held = Take.load(path)
    text = read_prompt(prompt)
    first = drawn_seed() if seed is None else seed
    starts = [
        held.varied(keep=kept or None, seed=one, prompt=text, seconds=times, region=place)
        for one in consecutive_seeds(first, count)
    ]
    if draft:
        check_until(starts[0].windows[0].schedule.steps, how_far)
    if seed is None:
        say(f"seed {first}")
    if held.total > 1:
        warn("only the first window of the take is kept; the rest of the video is made anew")
    if draft:
        model = options.common(path, held).model
        with drafts_directory(options.output) as directory:
            if options.dry_run:
                options.print_plan(starts[0], model, directory)
                return
            make_drafts(
                options.load(held, model),
                starts,
                None,
                directory,
                until=how_far,
                overwrite=options.overwrite,
            )
        return
    make_takes([(path, start) for start in starts], options, encoding)


def _parsed_times(text: str | None) -> tuple[float, float] | None:
    if text is None:
        return None
    if (found := _TIMES.fullmatch(text)) is None:
        raise UsageError(f"--frames is from when to when, such as 2s-3s, not {text!r}")
    return float(found[1]), float(found[2])


def _parsed_region(text: str | None) -> tuple[int, int, int, int] | None:
    if text is None:
        return None
    if (found := _REGION.fullmatch(text)) is None:
        raise UsageError(
            f"--region is left, top, width and height in pixels, such as 0,0,640,360, not {text!r}"
        )
    left, top, width, height = map(int, found.groups())
    return left, top, width, height
