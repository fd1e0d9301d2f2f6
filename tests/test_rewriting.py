"""What a language model is asked, and what becomes of its answer."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from istar.errors import RewriteError, UsageError
from istar.request import Mode
from istar.rewriting import LONGEST_CHARACTERS, cleaned, instructions, rewritten


@pytest.mark.parametrize(
    ("answer", "prompt"),
    [
        ("A red fox.", "A red fox."),
        ('  "A red fox."\n', "A red fox."),
        ("“A red fox.”", "A red fox."),
        ('"Stop" stands on a sign, and "Go" on another: "Go"', None),
        ("Here is the description:\n\nA red fox.\n\nIt runs.", "A red fox. It runs."),
        ("<think>A fox?\nRed.</think>\n\nA red fox.", "A red fox."),
        ("A fox? Red.</think>A red fox.", "A red fox."),
        ("<think>A fox, perhaps a", ""),
        ("A\x1b[31m red\x07 fox\u202e.\ud800\0", "A[31m red fox."),
        (" \n\t", ""),
        ('""', ""),
    ],
)
def test_an_answer_becomes_one_plain_paragraph(answer: str, prompt: str | None) -> None:
    assert cleaned(answer) == (answer if prompt is None else prompt)


def test_what_is_too_long_ends_with_a_sentence_or_a_word() -> None:
    sentence = "A fox runs to the left over a field of snow. "
    cut = cleaned(sentence * 100)
    assert LONGEST_CHARACTERS - len(sentence) <= len(cut) <= LONGEST_CHARACTERS
    assert cut.endswith("snow.")
    cut = cleaned("snow " * 1000)
    assert LONGEST_CHARACTERS - 5 <= len(cut) <= LONGEST_CHARACTERS
    assert cut.endswith("snow")
    assert len(cleaned("x" * 10_000)) == LONGEST_CHARACTERS


def test_every_mode_has_instructions_which_can_be_replaced(tmp_path: Path) -> None:
    own = {mode: instructions(mode) for mode in get_args(Mode)}
    assert len(set(own.values())) == 4
    assert own["interact"] == own["extend"]
    (tmp_path / "extend.txt").write_text("Go on.\n", encoding="utf-8")
    there = {mode: instructions(mode, tmp_path) for mode in get_args(Mode)}
    assert there == own | {"extend": "Go on.", "interact": "Go on."}
    asked = []
    answer = rewritten("a fox", "extend", lambda *both: asked.append(both) or "A fox.", tmp_path)
    assert (answer, asked) == ("A fox.", [("Go on.", "a fox")])
    with pytest.raises(UsageError, match="no directory of instructions"):
        instructions("t2v", tmp_path / "elsewhere")
    (tmp_path / "t2v.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-16"):
        instructions("t2v", tmp_path)


def test_nothing_is_no_prompt() -> None:
    with pytest.raises(UsageError, match="empty"):
        rewritten(" ", "t2v", lambda *both: "A fox.")
    with pytest.raises(RewriteError, match="empty"):
        rewritten("a fox", "t2v", lambda *both: "\n")
