"""Captions: true, of very many forms, and some forms kept from training."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import combinations

import pytest

from istar.lab.captions import FRAMES, LONGEST_CAPTION, NEW_FRAMES, Content, canonical, describe
from istar.lab.subject import COLOURS, DIRECTIONS, MOTIONS, SHAPES, Subject
from istar.lab.words import (
    BULK_WORDS,
    DOING,
    GOING,
    PACE_WORDS,
    ROLLING,
    SHAPE_WORDS,
    WHERE,
    Verb,
)
from istar.lab.world import random_scene

CIRCLE = Subject(shape="circle", colour="red", motion="right", x=0.2, y=0.5, size=0.2, speed=0.13)
STAR = Subject(shape="star", colour="orange", motion="spins", x=0.8, y=0.5, size=0.15, speed=0.3)


def many(*subjects: Subject, count: int = 2000, **settings: object) -> list[str]:
    return [describe("blue", subjects, seed, **settings) for seed in range(count)]


def words_of(caption: str) -> list[str]:
    return re.findall(r"[a-z-]+", caption.lower())


def said(words: tuple[str, ...], caption: str) -> bool:
    return any(re.search(rf"\b{re.escape(word)}\b", caption.lower()) for word in words)


def forms(verbs: tuple[Verb, ...]) -> tuple[str, ...]:
    return tuple(form for verb in verbs for form in verb)


def shape_words(shape: str) -> tuple[str, ...]:
    return shape, *SHAPE_WORDS[shape]


def says_motion(caption: str, motion: str) -> bool:
    """Whether a caption of one subject has words of a motion."""
    if motion in DIRECTIONS and said(forms((*GOING, ROLLING)), caption):
        ends = (f"{where}(?! side| edge)" for where in WHERE[motion])
        return any(re.search(rf"\b{end}\b", caption.lower()) for end in (*ends, *WHERE[motion]))
    return said(forms(DOING.get(motion, ())), caption)


def test_whole_captions_name_what_is_shown() -> None:
    for seed in range(500):
        scene = random_scene(seed)
        for wording in ("trained", "new"):
            caption = describe(
                scene.background, scene.subjects, seed, wording=wording, content="all"
            )
            assert said((scene.background,), caption), caption
            for one in scene.subjects:
                assert said((one.colour,), caption), caption
                assert said(shape_words(one.shape), caption), caption
                if len(scene.subjects) == 1 and not one.then:
                    assert says_motion(caption, one.motion), caption
            others = {*COLOURS} - {scene.background, *(one.colour for one in scene.subjects)}
            assert not said(tuple(others), caption), caption
            shapes = {*SHAPES} - {one.shape for one in scene.subjects}
            assert not said(tuple(shapes), caption.replace("square shape", "")), caption


@pytest.mark.parametrize("wording", ["trained", "new"])
@pytest.mark.parametrize("clip", [None, 0, 1])
def test_captions_are_short_and_well_formed(wording: str, clip: int | None) -> None:
    for seed in range(300):
        scene = random_scene(seed)
        subjects = tuple(replace(one, then="up") for one in scene.subjects)
        for cast in (scene.subjects, subjects):
            caption = describe(scene.background, cast, seed, clip=clip, wording=wording)
            assert caption.isascii()
            assert len(caption) <= LONGEST_CAPTION
            assert "  " not in caption
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]|[.,:] *[.,:]| [.,:]", caption)
            assert caption.strip() == caption
            assert not re.search(r"[A-Z]", re.sub(r"(^|\. )[A-Z]", "", caption))
            assert len(canonical(scene.background, cast, clip=clip)) <= LONGEST_CAPTION


def test_training_has_thousands_of_captions_for_one_scene_and_many_are_plain() -> None:
    captions = many(CIRCLE, count=6000)
    plain = captions.count("a red circle moves right on a blue background")
    assert canonical("blue", (CIRCLE,)) == "a red circle moves right on a blue background"
    assert 0.23 < plain / len(captions) < 0.28
    assert len({*captions}) > 4000
    assert len({*many(CIRCLE, STAR)}) > 1400


def test_new_sentences_are_not_among_those_of_training() -> None:
    assert not {*FRAMES} & {*NEW_FRAMES}
    assert len(NEW_FRAMES) >= 8
    for subjects in ((CIRCLE,), (STAR,), (CIRCLE, STAR)):
        trained, new = (
            {text.lower().rstrip(".") for text in many(*subjects, wording=wording)}
            for wording in ("trained", "new")
        )
        assert not trained & new
        assert len(new) > 800


def test_new_sentences_have_only_words_that_training_has() -> None:
    casts = ((CIRCLE,), (STAR,), (CIRCLE, STAR))
    trained, new = (
        {
            word
            for subjects in casts
            for text in many(*subjects, count=count, wording=wording)
            for word in words_of(text)
        }
        for wording, count in (("trained", 6000), ("new", 2000))
    )
    assert new <= trained


def test_sentences_of_which_a_model_failed_before_are_new() -> None:
    new = {text.lower().rstrip(".") for text in many(CIRCLE, wording="new")}
    assert new >= {
        "a red circle on blue moves right",
        "the background is blue and a red circle moves right",
        "background blue, a red circle moving right",
    }


def test_captions_of_two_motions_differ() -> None:
    texts = {
        motion: {*many(replace(STAR, motion=motion), count=400, content="all")}
        for motion in MOTIONS
    }
    for one, other in combinations(MOTIONS, 2):
        assert not texts[one] & texts[other], (one, other)


@pytest.mark.parametrize(
    ("clip", "plain", "named"),
    [
        (None, "a red circle moves right, then up on a blue background", (True, True)),
        (0, "a red circle moves right on a blue background", (True, False)),
        (1, "a red circle moves up on a blue background", (False, True)),
    ],
)
def test_a_clip_has_its_own_motion(clip: int | None, plain: str, named: tuple[bool, bool]) -> None:
    turning = replace(CIRCLE, then="up", y=0.8, x=0.4)
    assert canonical("blue", (turning,), clip=clip) == plain
    ups = (*(word for word in WHERE["up"]), *forms(DOING["up"]))
    for caption in many(turning, count=500, clip=clip, content="all"):
        told = re.sub(r"starting .* (side|corner|left|bottom)|from the (bottom|left)", "", caption)
        assert (said(("right", "rightwards", "rightward"), told), said(ups, told)) == named, caption


@pytest.mark.parametrize(
    ("content", "clip", "motionless"),
    [("any", None, (0.05, 0.1)), ("any", 0, (0.01, 0.04)), ("all", None, (0, 0))],
)
def test_some_captions_leave_the_motion_or_the_background_free(
    content: Content, clip: int | None, motionless: tuple[float, float]
) -> None:
    captions = many(CIRCLE, count=3000, content=content, clip=clip)
    without_motion = [text for text in captions if not says_motion(text, "right")]
    without_background = [text for text in captions if not said(("blue",), text)]
    least, most = motionless
    assert least <= len(without_motion) / 3000 <= most
    assert (0.02 < len(without_background) / 3000 < 0.04) == (content == "any")
    assert not {*without_motion} & {*without_background}


def test_captions_of_pictures_have_no_motion() -> None:
    captions = many(CIRCLE, content="picture")
    assert not any(says_motion(text, "right") for text in captions)
    assert all(said(("blue",), text) and said(shape_words("circle"), text) for text in captions)
    assert canonical("blue", (CIRCLE,), content="picture") == "a red circle on a blue background"
    assert len({*captions}) > 300


def test_a_second_clip_may_be_captioned_for_one_who_saw_the_first() -> None:
    """Neither colour nor background is said again."""
    short = [t for t in many(CIRCLE, clip=1) if not said(("red", "blue"), t)]
    assert 0.03 < len(short) / 2000 < 0.1
    assert not [t for t in many(CIRCLE, clip=1, content="all") if not said(("red", "blue"), t)]


class Quick(Subject):
    """A subject of a pace and a size that words exist for."""

    @property
    def paces(self) -> tuple[str, ...]:
        return ("fast",)

    @property
    def bulk(self) -> str:
        return "large"


def test_pace_and_size_are_named_where_there_are_words_for_them() -> None:
    words = BULK_WORDS["large"], PACE_WORDS["fast"]
    values = {name: getattr(CIRCLE, name) for name in CIRCLE.__dataclass_fields__}
    quick = many(Quick(**values), count=1000)
    for own in words:
        assert 0.2 < sum(said(own, text) for text in quick) / 1000 < 0.5
    others = (*BULK_WORDS["small"], *PACE_WORDS["slow"])
    assert not any(said(others, text) for text in quick)
    plain = replace(CIRCLE, size=0.19)
    usual = [text for text in many(plain, count=1000) if said((*words[0], *words[1]), text)]
    assert (not usual) == (plain.paces == ("",) and plain.bulk == "")


def test_each_motion_has_the_pace_that_is_its_own() -> None:
    fast, slow = (replace(CIRCLE, y=0.8, speed=speed) for speed in (0.16, 0.08))
    first = replace(fast, then="up", then_speed=0.08)
    second = replace(slow, then="up", then_speed=0.16)
    growing = replace(fast, then="grows", then_speed=0.2)
    assert [one.paces for one in (fast, first, second, growing)] == [
        ("fast",),
        ("fast", "slow"),
        ("slow", "fast"),
        ("fast", ""),
    ]
    for subject, clip, pace in ((first, 0, "fast"), (first, 1, "slow"), (second, 1, "fast")):
        captions = many(subject, count=400, clip=clip)
        named = {own for own, words in PACE_WORDS.items() if any(said(words, c) for c in captions)}
        assert named == {pace}
    every = (*PACE_WORDS["slow"], *PACE_WORDS["fast"])
    assert not any(said(every, text) for text in many(growing, count=400, clip=1))


@pytest.mark.parametrize("subject", [CIRCLE, replace(STAR, y=0.2)])
def test_without_details_neither_size_nor_pace_nor_place_is_named(subject: Subject) -> None:
    subject = replace(subject, size=0.12, speed=0.16, then="up", then_speed=0.08)
    words = [*BULK_WORDS.values(), *PACE_WORDS.values(), ("starting", "beginning", "corner")]
    every = tuple(word for own in words for word in own)
    assert any(said(every, text) for text in many(subject, count=300, clip=1))
    bare = many(subject, count=300, clip=1, details=False)
    assert not any(said(every, text) for text in bare)


def test_a_bounce_is_where_its_middle_is() -> None:
    ball = Subject(shape="circle", colour="red", motion="bounces", x=0.5, y=0.5, size=0.15)
    for phase in (0.0, 0.5):
        own = replace(ball, phase=phase, speed=0.6)
        assert not any(said(("top", "bottom"), text) for text in many(own, count=300))
    low = replace(ball, motion="right", x=0.3, y=0.9, then="bounces", then_speed=0.6)
    assert any(said(("bottom",), text) for text in many(low, count=300, clip=1))


@pytest.mark.parametrize(
    ("x", "y", "true"),
    [
        (0.2, 0.5, "left"),
        (0.8, 0.5, "right"),
        (0.5, 0.2, "top"),
        (0.5, 0.8, "bottom"),
        (0.2, 0.2, "top left corner"),
        (0.5, 0.5, "middle"),
        (0.6, 0.6, ""),
    ],
)
def test_the_place_of_one_subject_is_true(x: float, y: float, true: str) -> None:
    pattern = r"(?:on|at|in|from) the ((?:top|bottom)? ?(?:left|right|top|bottom|middle|center))"
    spinning = replace(STAR, x=x, y=y)
    found = {
        place.strip()
        for text in many(spinning, count=800)
        for place in re.findall(pattern, text.lower())
    }
    names = {true.removesuffix(" corner")} if true else set()
    assert found - {"center"} == names


def test_the_place_of_one_who_goes_is_where_it_begins() -> None:
    texts = many(CIRCLE, count=1500)
    assert any("starting on the left" in text for text in texts)
    assert not [text for text in texts if re.search("(starting|beginning) (on|at) the right", text)]
    assert not [text for text in texts if "from right" in text or "from the right" in text]


def test_two_subjects_have_their_places_or_none() -> None:
    sinking = replace(CIRCLE, motion="down", y=0.2, speed=0.12)
    captions = many(sinking, STAR, count=1000, content="all")
    placed = [t for t in captions if "on the left" in t.lower() and "on the right" in t.lower()]
    assert 0.3 < len(placed) / 1000 < 0.9
    for text in placed:
        left, right = text.lower().index("on the left"), text.lower().index("on the right")
        assert left < right, text
    pictures = many(sinking, STAR, count=1000, content="picture")
    for words in ("next to", "left of", "and"):
        assert any(words in text for text in pictures)
    assert not any("right of" in text or "above" in text for text in pictures)


def test_places_of_two_that_change_are_not_named() -> None:
    crossing = replace(CIRCLE, x=0.1, speed=0.2), replace(STAR, x=0.5)
    texts = many(*crossing, count=300, content="all")
    assert not [text for text in texts if "on the left" in text or "on the right" in text]
