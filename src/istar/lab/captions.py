"""Captions of scenes, in many wordings."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from istar.lab.subject import DIRECTIONS, Subject

_Item = TypeVar("_Item")

_CANONICAL_SHARE = 0.3
_SENTENCE_SHARE = 0.1
_MIDWAY_SECONDS = 2.0

_GOING = (
    ("moves", "moving"),
    ("slides", "sliding"),
    ("glides", "gliding"),
    ("drifts", "drifting"),
    ("travels", "travelling"),
    ("goes", "going"),
)

_WHERE = {
    "left": ("left", "to the left", "leftwards"),
    "right": ("right", "to the right", "rightwards"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
    "up-left": ("up and left", "up and to the left", "diagonally up to the left"),
    "up-right": ("up and right", "up and to the right", "diagonally up to the right"),
    "down-left": ("down and left", "down and to the left", "diagonally down to the left"),
    "down-right": ("down and right", "down and to the right", "diagonally down to the right"),
}

_DOING = {
    "grows": (("grows", "growing"), ("gets bigger", "getting bigger"), ("expands", "expanding")),
    "shrinks": (
        ("shrinks", "shrinking"),
        ("gets smaller", "getting smaller"),
        ("contracts", "contracting"),
    ),
    "spins": (
        ("spins", "spinning"),
        ("rotates", "rotating"),
        ("turns around", "turning around"),
    ),
    "bounces": (
        ("bounces", "bouncing"),
        ("bounces up and down", "bouncing up and down"),
        ("jumps up and down", "jumping up and down"),
    ),
    "stands": (
        ("stands still", "standing still"),
        ("stays in place", "staying in place"),
        ("rests", "resting"),
    ),
}

_ONE = (
    "{a_subject} {does} on {a_background}",
    "{a_subject} {doing} on {a_background}",
    "on {a_background}, {a_subject} {does}",
    "on {a_background}, {a_subject} is {doing}",
    "{subject} {doing}, {background}",
    "{background}, {subject} {doing}",
    "the {subject} {does} in front of {a_background}",
    "{a_subject} is {doing} before {a_background}",
    "a video of {a_subject} {doing} on {a_background}",
)
"""Wordings for one subject, the canonical one first."""

_TWO = (
    "{first} {does} {place} and {second} {second_does} {second_place} on {a_background}",
    "on {a_background}, {first} {does} and {second} {second_does}",
    "{first} {doing} {place}, {second} {second_doing} {second_place}, {background}",
    "{first} {does} and {second} {second_does} on {a_background}",
)
"""Wordings for two subjects, the canonical one first."""


def describe(background: str, subjects: Sequence[Subject], seed: int) -> str:
    """A caption of one or two subjects on a background.

    About three in ten are worded in the plainest way, "a red circle moves right on a blue
    background"; one in ten is a sentence with a capital and a full stop.
    """
    draw = Random(f"caption {seed}")
    plain = draw.random() < _CANONICAL_SHARE
    ground = f"{background} background"
    words = {"background": ground, "a_background": _with_article(ground)}
    for prefix, subject, place in zip(("", "second_"), subjects, _places(subjects), strict=False):
        does, doing = _action(subject.motion, draw, plain=plain)
        words |= {f"{prefix}does": does, f"{prefix}doing": doing, f"{prefix}place": place}
    names = [f"{subject.colour} {subject.shape}" for subject in subjects]
    if len(subjects) == 1:
        words |= {"subject": names[0], "a_subject": _with_article(names[0])}
    else:
        words |= {"first": _with_article(names[0]), "second": _with_article(names[1])}
    wordings = _ONE if len(subjects) == 1 else _TWO
    text = (wordings[0] if plain else choose(wordings, draw)).format(**words)
    if not plain and draw.random() < _SENTENCE_SHARE / (1 - _CANONICAL_SHARE):
        text = f"{text[0].upper()}{text[1:]}."
    return text


def canonical(background: str, subjects: Sequence[Subject]) -> str:
    """The plainest caption, "a red circle moves right on a blue background"."""
    seed = 0
    while Random(f"caption {seed}").random() >= _CANONICAL_SHARE:
        seed += 1
    return describe(background, subjects, seed)


def choose(items: Sequence[_Item], draw: Random) -> _Item:
    """One of some items, each as likely.

    Only `random()` is promised to give the same values in every version of Python.
    """
    return items[int(draw.random() * len(items))]


def _action(motion: str, draw: Random, *, plain: bool) -> tuple[str, str]:
    """What a subject does, and what it is doing."""
    if motion in DIRECTIONS:
        verbs = _GOING[0] if plain else choose(_GOING, draw)
        where = _WHERE[motion][0] if plain else choose(_WHERE[motion], draw)
        return f"{verbs[0]} {where}", f"{verbs[1]} {where}"
    return _DOING[motion][0] if plain else choose(_DOING[motion], draw)


def _places(subjects: Sequence[Subject]) -> tuple[str, ...]:
    """Where each of two subjects is while it does what it does, in words."""
    if len(subjects) == 1:
        return ("",)
    first, second = (subject.pose(_MIDWAY_SECONDS) for subject in subjects)
    if abs(first.x - second.x) > abs(first.y - second.y):
        places = ("on the left", "on the right")
        return places if first.x < second.x else places[::-1]
    places = ("at the top", "at the bottom")
    return places if first.y < second.y else places[::-1]


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
