"""A prompt rewritten by a language model: what it is asked, and what of its answer is used.

The model itself is an endpoint, see `istar.models.chat`, or one here, see `istar.language_model`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from istar.errors import RewriteError, UsageError
from istar.request import Mode, check_mode, check_prompt
from istar.text_files import read_text

Answering = Callable[[str, str], str]
"""A language model: takes instructions and a text, and gives its answer as it comes."""

LONGEST_CHARACTERS = 1800
"""Of a rewritten prompt: with prefix and suffix it stays within the 512 tokens that are read."""

_INSTRUCTIONS = Path(__file__).parent / "rewrite_instructions"
_LIKE = {"interact": "extend"}
"""Modes that have the instructions of another."""

_QUOTES = ('""', "“”", "„“", "«»", "''", "‘’")
_ENDS = (". ", "! ", "? ")


def rewritten(prompt: str, mode: Mode, answering: Answering, directory: Path | None = None) -> str:
    """A richer prompt that says the same: one paragraph, with nothing in it but text.

    Args:
        prompt: as a person typed it.
        mode: what it is for.
        answering: the language model.
        directory: as `instructions` takes it.

    Raises:
        UsageError: the prompt is empty or unusable, or the instructions cannot be read.
        RewriteError: no answer comes, or an empty one.
    """
    check_prompt(prompt)
    text = cleaned(answering(instructions(mode, directory), prompt))
    if not text:
        raise RewriteError("the language model's answer is empty")
    return text


def instructions(mode: Mode, directory: Path | None = None) -> str:
    """What a language model is asked for.

    Args:
        mode: what the prompt is for.
        directory: where files such as `t2v.txt` take the place of istar's own; those that are
            not there do not.

    Raises:
        UsageError: an unknown mode, no such directory, or a file that is no text.
    """
    check_mode(mode)
    name = f"{_LIKE.get(mode, mode)}.txt"
    if directory is not None:
        if not directory.is_dir():
            raise UsageError(f"'{directory}' is no directory of instructions for rewriting")
        if (directory / name).is_file():
            return read_text(directory / name).strip()
    return read_text(_INSTRUCTIONS / name).strip()


def cleaned(answer: str) -> str:
    """A language model's answer as a prompt, empty if there is nothing in it.

    Thoughts before the answer, a line that announces it, quotes around it and control characters
    go; paragraphs become one, and what is too long is cut where a sentence ends.
    """
    text = answer.rpartition("</think>")[2].strip()
    if text.startswith("<think>"):  # it never came to an end
        return ""
    first, _, rest = text.partition("\n")
    if rest.strip() and first.rstrip().endswith(":"):
        text = rest
    text = "".join(one if one.isprintable() else " " * one.isspace() for one in text)
    text = " ".join(text.split())
    while len(text) > 1 and text[0] + text[-1] in _QUOTES and text[0] not in text[1:-1]:
        text = text[1:-1].strip()
    return _shortened(text)


def _shortened(text: str) -> str:
    if len(text) <= LONGEST_CHARACTERS:
        return text
    text = text[: LONGEST_CHARACTERS + 1]
    end = max(text.rfind(mark) for mark in _ENDS) + 1
    if end < LONGEST_CHARACTERS // 2:
        end = text.rfind(" ")
    return text[: end if end > 0 else LONGEST_CHARACTERS].rstrip()
