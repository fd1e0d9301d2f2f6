"""Prompt lists of benchmarks, and the files in which their scorers look for what was made.

VBench, VBench-2.0, GenEval and DPG-Bench, as their published scorers read them. The lists
themselves are the user's.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from istar.errors import UsageError
from istar.files import LONGEST_NAME
from istar.request import Mode
from istar.text_files import read_json, read_text

_VBENCH_SAMPLES = 5
_VBENCH2_SAMPLES, _VBENCH2_DIVERSE, _VBENCH2_CHARACTERS = 3, 20, 180
_GENEVAL_SAMPLES = 4
_DPG_TILES = 4
_FORBIDDEN_ON_WINDOWS = '<>:"\\|?*'


@dataclass(frozen=True, kw_only=True)
class EvaluationFile:
    """A file that a scorer expects.

    Attributes:
        path: below the directory of all.
        prompt: what the model is given.
        sample: its place among those of its prompt, from 0; of tiles, that of the first.
        tiles: so many pictures in one, two in a row.
    """

    path: str
    prompt: str
    sample: int
    tiles: int = 1


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """All files that a scorer expects for a list of prompts.

    Attributes:
        mode: what is made.
        files: in the order of the list.
        texts: what lies beside them, by its path.
        is_flat: other files in the directory disturb the scorer.
        is_square: pictures are.
    """

    mode: Mode
    files: tuple[EvaluationFile, ...]
    texts: Mapping[str, str] = field(default_factory=dict)
    is_flat: bool = False
    is_square: bool = False


def read_evaluation(name: str, path: Path) -> EvaluationSet:
    """The files for a list of prompts.

    Args:
        name: of the benchmark.
        path: the list, in the form in which the benchmark publishes it. An entry of VBench or
            VBench-2.0 with a `refined_prompt` is made from that, and called after `prompt_en`.

    Raises:
        UsageError: it cannot be read, is of another form, or a prompt makes no file's name.
    """
    found = _READERS[name](path)
    if not found.files:
        raise UsageError(f"{path} holds no prompts")
    return found


def _read_vbench(path: Path) -> EvaluationSet:
    prompts: dict[str, str] = {}
    for entry in _entries(path):
        prompts.setdefault(_text(entry, "prompt_en", path), _refined(entry, path))
    files = (
        EvaluationFile(path=_name(f"{named}-{sample}.mp4"), prompt=prompt, sample=sample)
        for named, prompt in prompts.items()
        for sample in range(_VBENCH_SAMPLES)
    )
    return EvaluationSet(mode="t2v", files=tuple(files), is_flat=True)


def _read_vbench2(path: Path) -> EvaluationSet:
    files: dict[str, EvaluationFile] = {}
    for entry in _entries(path):
        named = _text(entry, "prompt_en", path)[:_VBENCH2_CHARACTERS]
        dimensions = entry.get("dimension")
        dimensions = [dimensions] if isinstance(dimensions, str) else dimensions
        if not isinstance(dimensions, list) or not all(isinstance(d, str) for d in dimensions):
            raise UsageError(f"{path}: the entry of {named!r:.60} has no dimension")
        for dimension in dimensions:
            count = _VBENCH2_DIVERSE if dimension == "Diversity" else _VBENCH2_SAMPLES
            for sample in range(count):
                target = f"{_name(dimension)}/{_name(f'{named}-{sample}.mp4')}"
                made = EvaluationFile(path=target, prompt=_refined(entry, path), sample=sample)
                files.setdefault(target, made)
    return EvaluationSet(mode="t2v", files=tuple(files.values()))


def _read_geneval(path: Path) -> EvaluationSet:
    lines = [line for line in read_text(path).split("\n") if line.strip()]
    files: list[EvaluationFile] = []
    texts: dict[str, str] = {}
    for number, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}: prompt {number + 1} is not JSON: {error}") from error
        if not isinstance(entry, dict):
            raise UsageError(f"{path}: prompt {number + 1} is no JSON object")
        prompt = _text(entry, "prompt", path)
        texts[f"{number:05}/metadata.jsonl"] = line
        files += (
            EvaluationFile(
                path=f"{number:05}/samples/{sample:04}.png", prompt=prompt, sample=sample
            )
            for sample in range(_GENEVAL_SAMPLES)
        )
    return EvaluationSet(mode="t2i", files=tuple(files), texts=texts)


def _read_dpg(path: Path) -> EvaluationSet:
    if not path.is_dir():
        raise UsageError(f"{path} is no directory; name that of DPG-Bench's prompts, ID.txt")
    files = []
    for file in sorted(path.glob("*.txt")):
        stem = file.name.removesuffix(".txt")
        if "." in stem:
            raise UsageError(f"{file}: the scorer cuts names at their first dot; rename it")
        prompt = read_text(file).strip()
        files.append(
            EvaluationFile(path=_name(f"{stem}.png"), prompt=prompt, sample=0, tiles=_DPG_TILES)
        )
    return EvaluationSet(mode="t2i", files=tuple(files), is_flat=True, is_square=True)


_READERS: dict[str, Callable[[Path], EvaluationSet]] = {
    "vbench": _read_vbench,
    "vbench2": _read_vbench2,
    "geneval": _read_geneval,
    "dpg": _read_dpg,
}


def _entries(path: Path) -> Iterator[dict[str, Any]]:
    entries = read_json(path)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path} is no JSON list of objects with a prompt_en each")
    yield from entries


def _refined(entry: dict[str, Any], path: Path) -> str:
    return _text(entry, "refined_prompt" if "refined_prompt" in entry else "prompt_en", path)


def _text(entry: dict[str, Any], key: str, path: Path) -> str:
    text = entry.get(key)
    if not isinstance(text, str) or not text.strip():
        raise UsageError(f"{path}: an entry has no {key}: {json.dumps(entry)[:60]}")
    return text


def _name(text: str) -> str:
    """A text as the name of a file or directory, exactly: the scorer looks for no other."""
    reason = ""
    if "/" in text or not text.isprintable():
        reason = "holds a slash or a control character"
    elif text in (".", "..") or text.startswith("~"):
        reason = "means another place"
    elif len(text.encode("utf-8", "replace")) > LONGEST_NAME:
        reason = f"has more than {LONGEST_NAME} bytes"
    elif os.name == "nt" and any(sign in text for sign in _FORBIDDEN_ON_WINDOWS):
        reason = "holds a sign that Windows does not allow"
    if reason:
        raise UsageError(f"{text[:60]!r} cannot be a name: it {reason}")
    return text
