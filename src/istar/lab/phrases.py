"""Phrases of captions: the background, the subjects and what they do, worded at random."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

from istar.lab.subject import BOUNCE_HEIGHT, DIRECTIONS, Subject
from istar.lab.words import (
    BULK_WORDS,
    DOING,
    GOING,
    PACE_WORDS,
    ROLLING,
    SHAPE_WORDS,
    WHERE,
    Verb,
    choose,
)

_OTHER_SHAPE_WORD_SHARE = 0.25
_BULK_SHARE = _PACE_SHARE = 0.5
_START_SHARE = 0.25
"""How often a phrase has such a word where it could."""

_USUAL_SIZE, _USUAL_SPEED = 0.19, 0.12
_CLIP_SECONDS = 2.0
_LEAST_APART = 0.15
_EDGE, _MIDDLE = 1 / 3, 0.08


def ground_parts(background: str, them: str, draw: Random) -> dict[str, str]:
    """The background in the places that frames have for it."""
    noun = choose((*["background"] * 5, "backdrop"), draw)
    plain = choose((*[""] * 5, "plain "), draw)
    ground = with_article(f"{plain}{background} {noun}")
    place = choose(("on", "on", "on", "against", "in front of", "over", "before"), draw)
    return {
        "colour": background,
        "ground": ground,
        "on": f"{place} {choose((ground, ground, background), draw)}",
        "with": choose(
            (f"with {ground}", f"with {background} in the background", f"with {background} behind"),
            draw,
        ),
        "label": choose(
            (
                ground,
                f"{plain}{background} {noun}",
                f"{noun}: {background}",
                f"{plain}{background} {noun}",
            ),
            draw,
        ),
        "behind": choose(
            (
                f"the {noun} is {background}",
                f"the {noun} is {background}",
                f"it is {background} behind {them}",
                f"everything behind {them} is {background}",
                f"behind {them} is {ground}",
            ),
            draw,
        ),
    }


def parts_of_one(
    subject: Subject, clip: int | None, draw: Random, *, details: bool = True
) -> dict[str, str]:
    """One subject in the places that frames have for it.

    Args:
        subject: it.
        clip: as `istar.lab.captions.describe` takes it.
        draw: of the words.
        details: its size, pace and place may be named.
    """
    if not details:
        subject = replace(subject, size=_USUAL_SIZE, speed=_USUAL_SPEED, then_speed=_USUAL_SPEED)
    name = name_of(subject, draw)
    thing = choose((*[with_article(name)] * 5, name, name, f"the {name}", f"one {name}"), draw)
    start = _start(subject, clip, draw) if draw.random() < _START_SHARE and details else ""
    action = action_of(subject, clip, draw, start)
    it = choose(("it", "it", f"the {_word(subject, draw)}"), draw)
    return {
        "thing": thing,
        "does": f"{thing} {action.does}",
        "is_doing": f"{thing} is {action.doing}",
        "doing": f"{thing} {action.doing}",
        "do": f"{thing} {action.do}",
        "moves": action.does,
        "moving": action.doing,
        "tells": f"{it} {choose((action.does, f'is {action.doing}'), draw)}",
    }


def parts_of_two(subjects: Sequence[Subject], clip: int | None, draw: Random) -> dict[str, str]:
    """Two subjects in the places that frames have for them.

    The place of each is named after what it does, after its name, before it, or not at all; of two
    without motion also how they lie to each other.
    """
    names = [name_of(one, draw) for one in subjects]
    names = [with_article(name) for name in names] if draw.random() < 0.8 else names
    places = places_of(subjects, clip)
    named = choose(("after", "after", "of thing", "first", ""), draw) if any(places) else ""
    things = [
        f"{name} {place}" if named == "of thing" else name
        for name, place in zip(names, places, strict=True)
    ]
    alike = _pace_and_motions(subjects[0], clip) == _pace_and_motions(subjects[1], clip)
    if alike:  # in the words of one that no verb for circles fits
        (*_, one) = (subject for subject in subjects if subject.shape != "circle")
        actions = [action_of(one, clip, draw)] * 2
    else:
        actions = [action_of(one, clip, draw) for one in subjects]
    join = choose((" and ", " and ", ", "), draw)

    def together(words: Sequence[str], *, sentence: bool = True) -> str:
        """Every subject with its own words; only a sentence may begin with the place."""
        before = named == "first" and sentence
        after = named == "after" or (named == "first" and not sentence)
        return join.join(
            f"{f'{place} ' if before else ''}{thing} {own}{f' {place}' if after else ''}"
            for place, thing, own in zip(places, things, words, strict=True)
        )

    the = [f"the {_word(one, draw)}" for one in subjects]
    parts = {
        "thing": _beside(names, places, draw),
        "does": together([action.does for action in actions]),
        "is_doing": together([f"is {action.doing}" for action in actions]),
        "doing": together([action.doing for action in actions], sentence=False),
        "do": together([action.do for action in actions], sentence=False),
        "moving": f"{the[0]} {actions[0].doing}{join}{the[1]} {actions[1].doing}",
        "tells": f"{the[0]} {actions[0].does}{join}{the[1]} {actions[1].does}",
    }
    if alike and named in ("of thing", "") and draw.random() < 0.7:
        pair, action = f"{things[0]} and {things[1]}", actions[0]
        both = choose(("", "both "), draw)
        parts |= {
            "does": f"{pair} {action.do.replace('not move', 'do not move')}",
            "is_doing": f"{pair} are {both}{action.doing}",
            "doing": f"{pair} {both}{action.doing}",
            "do": f"{pair} {action.do}",
            "moving": f"both {action.doing}",
            "tells": f"{choose(('both', 'they'), draw)} are {action.doing}",
        }
    return parts


def _beside(names: Sequence[str], places: Sequence[str], draw: Random) -> str:
    """Two subjects without what they do, with how they lie to each other or without."""
    first, second = names
    plain = f"{first} and {second}"
    if not any(places):
        return plain
    relation = {
        "on the left": choose(("left of", "to the left of"), draw),
        "on the right": choose(("right of", "to the right of"), draw),
        "at the top": "above",
        "at the bottom": "below",
    }[places[0]]
    with_places = f"{first} {places[0]} and {second} {places[1]}"
    near = f"{first} next to {second}" if "the left" in " ".join(places) else plain
    return choose((plain, plain, f"{first} {relation} {second}", with_places, near), draw)


def _motions(subject: Subject, clip: int | None) -> tuple[str, ...]:
    """The motions that a caption of a clip, or of all of it, names in order."""
    if not subject.then:
        return (subject.motion,)
    both = (subject.motion, subject.then)
    return both if clip is None else both[clip : clip + 1]


def _pace(subject: Subject, clip: int | None) -> str:
    """The pace of the first of `_motions`."""
    return subject.paces[-1 if clip == 1 else 0]


def _pace_and_motions(subject: Subject, clip: int | None) -> tuple[str, ...]:
    return (_pace(subject, clip), *_motions(subject, clip))


def action_of(
    subject: Subject, clip: int | None, draw: Random | None = None, start: str = ""
) -> Verb:
    """What a subject does, from a start in words; without random draws in the plainest words."""
    motions = _motions(subject, clip)
    result = _one_motion(motions[0], subject.shape, draw, start)
    pace = _pace(subject, clip)
    if draw and pace and draw.random() < _PACE_SHARE:
        adverb = choose(PACE_WORDS[pace], draw)
        if adverb == "fast" or draw.random() < 0.5:
            result = _each(result, adverb)
        else:
            result = Verb(*(f"{adverb} {form}" for form in result))
    if start:
        result = _each(result, start)
    if len(motions) == 1:
        return result
    then = choose((", then ", " and then ", ", and then "), draw) if draw else ", then "
    if {*motions} <= {*DIRECTIONS} and (not draw or draw.random() < 0.5):
        where = choose(WHERE[motions[1]][:3], draw) if draw else WHERE[motions[1]][0]
        result = _each(result, where, between=then)
    else:
        second = _one_motion(motions[1], subject.shape, draw)
        result = Verb(*(f"{a}{then}{b}" for a, b in zip(result, second, strict=True)))
    if draw and draw.random() < 0.2:
        result = Verb(*(f"first {form}" for form in result))
    return result


def _one_motion(motion: str, shape: str, draw: Random | None, start: str = "") -> Verb:
    """One motion in words."""
    if motion not in DIRECTIONS:
        return choose(DOING[motion], draw) if draw else DOING[motion][0]
    if not draw:
        return _each(GOING[0], WHERE[motion][0])
    if motion in DOING and draw.random() < 0.2:
        return choose(DOING[motion], draw)
    rolls = shape == "circle" and motion in ("left", "right")
    # The plainest verb is as frequent as all others together: users have it in mind first.
    verb = choose((*[GOING[0]] * len(GOING), *GOING[1:], *([ROLLING] if rolls else [])), draw)
    # "from left to right" would contradict a start in the middle
    where = [words for words in WHERE[motion] if not (start and words.startswith("from"))]
    return _each(verb, choose(where, draw))


def _start(subject: Subject, clip: int | None, draw: Random) -> str:
    """Where one subject begins, in words; empty where there are no good ones."""
    pose = subject.pose(_CLIP_SECONDS if clip == 1 else 0.0)
    (motion, *_) = _motions(subject, clip)
    if motion == "bounces":
        ground = pose.y if subject.then == motion else subject.y
        pose = pose._replace(y=ground - BOUNCE_HEIGHT / 2)
    across = "left" if pose.x < _EDGE else "right" if pose.x > 1 - _EDGE else ""
    down = "top" if pose.y < _EDGE else "bottom" if pose.y > 1 - _EDGE else ""
    if across and down:
        place = f"in the {down} {across} corner"
    elif across:
        place = choose((f"on the {across}", f"on the {across} side"), draw)
    elif down:
        place = f"at the {down}"
    elif max(abs(pose.x - 0.5), abs(pose.y - 0.5)) < _MIDDLE:
        place = choose(("in the middle", "in the center"), draw)
    else:
        return ""
    if motion not in DIRECTIONS:
        return place
    origins = [f"starting {place}", f"beginning {place}"]
    if not place.startswith(("in the middle", "in the center")):
        origins.append(f"from the {place.split(' the ')[1]}")
    return choose(origins, draw)


def places_of(subjects: Sequence[Subject], clip: int | None) -> tuple[str, ...]:
    """Where each of two subjects is all the time; empty words where that changes."""
    if len(subjects) == 1:
        return ("",)
    first = _CLIP_SECONDS if clip == 1 else 0.0
    length = 2 * _CLIP_SECONDS if clip is None else _CLIP_SECONDS
    poses = [tuple(one.pose(first + length * part / 2) for one in subjects) for part in range(3)]
    sides = [a.x - b.x for a, b in poses], ("on the left", "on the right")
    heights = [a.y - b.y for a, b in poses], ("at the top", "at the bottom")
    for apart, places in sorted((sides, heights), key=lambda axis: -abs(axis[0][1])):
        if max(apart) <= -_LEAST_APART:
            return places
        if min(apart) >= _LEAST_APART:
            return places[::-1]
    return ("", "")


def name_of(subject: Subject, draw: Random | None = None) -> str:
    """A subject's colour and shape, sometimes its size; without random draws in plain words."""
    if not draw:
        return f"{subject.colour} {subject.shape}"
    bulk = ""
    if subject.bulk and draw.random() < _BULK_SHARE:
        bulk = f"{choose(BULK_WORDS[subject.bulk], draw)} "
    return f"{bulk}{subject.colour} {_word(subject, draw)}"


def _word(subject: Subject, draw: Random) -> str:
    """A word for a subject's shape."""
    if draw.random() < _OTHER_SHAPE_WORD_SHARE:
        return choose(SHAPE_WORDS[subject.shape], draw)
    return subject.shape


def _each(verb: Verb, after: str, *, between: str = " ") -> Verb:
    """A verb with the same words after each of its forms."""
    return Verb(*(f"{form}{between}{after}" for form in verb))


def with_article(noun: str) -> str:
    """A noun after "a" or "an"."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
