"""Captions of scenes: a small grammar with thousands of wordings for any scene.

A caption is a frame, such as "{does} {on}", whose parts are worded independently of each other:
the subjects, what they do, and the background. `FRAMES` are those of training; `NEW_FRAMES` say the
same in sentences that training never has, with no other words, to measure how much a model
understands beyond the sentences that it has read.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Literal

from istar.lab.phrases import (
    action_of,
    ground_parts,
    name_of,
    parts_of_one,
    parts_of_two,
    places_of,
    with_article,
)
from istar.lab.subject import Subject
from istar.lab.words import choose

Wording = Literal["trained", "new"]
"""Whether a caption is worded as in training, or as never in training."""

Content = Literal["any", "all", "picture"]
"""What a caption names: sometimes not all, always all, or all but motion."""

LONGEST_CAPTION = 170
"""Bytes in the longest caption."""

FRAMES: tuple[str, ...] = (
    "{does} {on}",
    "{is_doing} {on}",
    "{doing} {on}",
    "{does}, {on}",
    "{on} {does}",
    "{on}, {does}",
    "{on}, {is_doing}",
    "{on}, {doing}",
    "{doing} {with}",
    "{does} {with}",
    "{is_doing} {with}",
    "{does}, {label}",
    "{doing}, {label}",
    "{label}, {doing}",
    "{label}: {doing}",
    "{label}. {does}",
    "{does}. {behind}",
    "{is_doing}. {behind}",
    "{does}, {behind}",
    "{behind}. {does}",
    "{behind}, {does}",
    "{thing}. {tells}. {behind}",
    "{thing} {on}. {tells}",
    "{thing} {on}, {moving}",
    "{thing} {with}, {moving}",
    "{thing}, {label}. {tells}",
    "let {do} {on}",
)
"""The sentences of training; `istar.lab.phrases` words their parts."""

NEW_FRAMES: tuple[str, ...] = (
    "{thing} {on} {moves}",
    "the background is {colour} and {does}",
    "{does} and the background is {colour}",
    "background {colour}, {doing}",
    "{does}, background {colour}",
    "{ground} with {doing}",
    "{thing} that {moves} {on}",
    "{moving} {on}: {thing}",
    "{thing}. {moving}. {label}",
    "make {do} {on}",
)
"""Sentences that training never has, for the same content."""

_NEW_FRAMES_OF_TWO = tuple(
    frame for frame in NEW_FRAMES if "{thing}" not in frame and "{moves}" not in frame
)

_WITHOUT_MOTION = (
    "{thing} {on}",
    "{thing} {with}",
    "{thing}, {label}",
    "{label}, {thing}",
    "{on}, {thing}",
    "{thing}. {behind}",
)
_WITHOUT_BACKGROUND = ("{does}", "{is_doing}", "{doing}", "{thing}. {tells}", "{thing}, {moving}")
_NOW = ("now {tells}", "{tells} now", "{tells}", "then {tells}", "now {does} {on}", "now {does}")
"""Sentences for the second clip only, of one who has seen the first."""

_BEFORE_THINGS = (
    "a video of ",
    "an animation of ",
    "a clip of ",
    "video of ",
    "a video that shows ",
    "show ",
    "show me ",
    "draw ",
    "animate ",
    "make a video of ",
    "create an animation of ",
    "there is ",
    "we see ",
)
_BEFORE_PICTURES = ("a picture of ", "an image of ", "a drawing of ", "a picture with ")
_BEFORE_SENTENCES = ("an animation: ", "video: ", "a video: ", "in this video, ")
_BEFORE_THINGS_SHARE, _BEFORE_SENTENCES_SHARE = 0.35, 0.12

_CANONICAL_SHARE = 0.25
_WITHOUT_MOTION_SHARE = {None: 0.1, 0: 0.03, 1: 0.02}
_WITHOUT_BACKGROUND_SHARE = 0.04
_NOW_SHARE = 0.12
"""Shares of the captions of training that are not canonical; by clip where it matters."""


def describe(
    background: str,
    subjects: Sequence[Subject],
    seed: int,
    *,
    clip: int | None = None,
    wording: Wording = "trained",
    content: Content = "any",
    details: bool = True,
) -> str:
    """A caption of one or two subjects on a background.

    One in four is worded in the plainest way, "a red circle moves right on a blue background".
    Some others leave out the motion or the background, so that it is free.

    Args:
        background: a colour's name.
        subjects: one or two.
        seed: of the wording.
        clip: which two seconds it describes, 0 or 1; None for all of them, "moves right, then up".
        wording: `new` for sentences that training never has; they name all.
        content: what it names.
        details: the size, pace and place of a single subject may be named, too.

    Returns:
        ASCII, at most `LONGEST_CAPTION` bytes.
    """
    draw = Random(f"{wording} caption {seed}, clip {clip}")
    if wording == "trained" and draw.random() < _CANONICAL_SHARE:
        return canonical(background, subjects, clip=clip, content=content)
    while True:
        if wording == "new":
            frame = choose(NEW_FRAMES if len(subjects) == 1 else _NEW_FRAMES_OF_TWO, draw)
        else:
            frame = _frame(clip, draw, content)
        parts = ground_parts(background, "it" if len(subjects) == 1 else "them", draw)
        if len(subjects) == 1:
            parts |= parts_of_one(subjects[0], clip, draw, details=details)
        else:
            parts |= parts_of_two(subjects, clip, draw)
        text = _punctuated(frame.format_map(parts), draw)
        if len(text) <= LONGEST_CAPTION:
            return text


def canonical(
    background: str,
    subjects: Sequence[Subject],
    *,
    clip: int | None = None,
    content: Content = "all",
) -> str:
    """The plainest caption, "a red circle moves right on a blue background".

    Of two subjects it names the places: "a red circle moves up on the left and a white square
    stands still on the right on a blue background".
    """
    clauses = []
    for one, place in zip(subjects, places_of(subjects, clip), strict=True):
        does = "" if content == "picture" else action_of(one, clip).does
        clauses.append(" ".join(filter(None, (with_article(name_of(one)), does, place))))
    return f"{' and '.join(clauses)} on {with_article(f'{background} background')}"


def _frame(clip: int | None, draw: Random, content: Content) -> str:
    """A frame of training, with what may come before it."""
    frames: tuple[str, ...] = FRAMES
    before: tuple[str, ...] = _BEFORE_THINGS
    left_out = draw.random() if content == "any" else 1.0
    without_motion = _WITHOUT_MOTION_SHARE[clip]
    without_background = without_motion + _WITHOUT_BACKGROUND_SHARE
    if content == "picture" or left_out < without_motion:
        frames, before = _WITHOUT_MOTION, _BEFORE_THINGS + _BEFORE_PICTURES
    elif left_out < without_background:
        frames = _WITHOUT_BACKGROUND
    elif clip == 1 and left_out < without_background + _NOW_SHARE:
        frames = _NOW
    frame = choose(frames, draw)
    if frame.startswith(("{doing}", "{thing}")) and draw.random() < _BEFORE_THINGS_SHARE:
        return choose(before, draw) + frame
    if frame.startswith(("{does}", "{is_doing}")) and draw.random() < _BEFORE_SENTENCES_SHARE:
        return choose(_BEFORE_SENTENCES, draw) + frame
    return frame


def _punctuated(text: str, draw: Random) -> str:
    """A text with the capitals and the full stop that a person may write or leave out."""
    parts = text.split(". ")
    kind = draw.random()
    written = 0.7 if len(parts) > 1 else 0.2
    if kind < written:
        return ". ".join(_with_capital(part) for part in parts) + "."
    if kind < written + 0.05:
        return _with_capital(text)
    return text + "." if kind > 0.92 else text


def _with_capital(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}"
