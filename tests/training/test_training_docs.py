"""What docs/training.md shows is what there is."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from istar.training import config, prepare_config
from istar.training.clips import read_list
from istar.training.config import (
    TokenizerTraining,
    TransformerTraining,
)
from istar.training.prepare_config import PrepareConfig
from istar.training.run_file import read_config

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "training.md"


@pytest.fixture(scope="module")
def generator() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "generate_training.py"))


def test_the_tables_are_the_settings(generator: dict[str, Any]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert generator["generated"](text) == text


def test_every_setting_is_in_a_table(generator: dict[str, Any]) -> None:
    reached = set()
    waiting: list[Any] = [TokenizerTraining, PrepareConfig, TransformerTraining]
    while waiting:
        kind = waiting.pop()
        if is_dataclass(kind) and kind not in reached:
            reached.add(kind)
            hints = get_type_hints(kind).values()
            waiting += [part for hint in hints for part in (hint, *get_args(hint))]
    assert reached == set(generator["TABLES"].values())
    found = (*vars(config).values(), *vars(prepare_config).values())
    declared = {kind for kind in found if isinstance(kind, type) and is_dataclass(kind)}
    assert reached == declared
    text = PAGE.read_text(encoding="utf-8")
    for kind in reached:
        for field in fields(kind):
            assert f"| `{field.name}` |" in text or generator["is_table"](
                get_type_hints(kind)[field.name]
            )


def test_the_recipes_that_are_shown_can_be_read(tmp_path: Path) -> None:
    shown = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(shown) == 5
    for text in shown:
        kind: type[Any] = TokenizerTraining
        if "[[sets]]" in text:
            kind = PrepareConfig
        elif "[[data.mix]]" in text:
            kind = TransformerTraining
        path = tmp_path / "shown.toml"
        path.write_text(text, encoding="utf-8")
        assert read_config(path, kind).model == tmp_path / "mine" / "istar.json"


def test_the_lines_of_lists_that_are_shown_can_be_read(tmp_path: Path) -> None:
    shown = re.findall(r"^```json\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(shown), encoding="utf-8")
    clips, skipped = read_list(path)
    assert (len(clips), skipped) == (len(shown), [])
