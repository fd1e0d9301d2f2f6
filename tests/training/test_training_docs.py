"""What docs/training.md shows is what there is."""

from __future__ import annotations

import re
import runpy
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from istar.training import config
from istar.training.clips import read_list
from istar.training.config import (
    PrepareConfig,
    TokenizerTraining,
    TransformerTraining,
)
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
    declared = {kind for kind in vars(config).values() if is_dataclass(kind)}
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


def test_the_ablations_tables_are_the_results() -> None:
    module = runpy.run_path(str(DOCS / "generate_ablations.py"))
    page = (DOCS / "ablations.md").read_text(encoding="utf-8")
    results = module["known_results"]()
    assert module["generated"](page, results) == page
    for kind, found in results.items():
        variants, _ = module["KINDS"][kind]
        assert list(found) == list(variants)
        for name, variant in variants.items():
            assert found[name]["settings"] == module["settings_of"](kind, variant)


def test_ablations_change_one_thing_of_what_can_be_read() -> None:
    module = runpy.run_path(str(DOCS / "generate_ablations.py"))
    for name, kind in (("transformer", TransformerTraining), ("tokenizer", TokenizerTraining)):
        settings = read_config(module["CONFIGS"] / f"{name}.toml", kind)
        variants, _ = module["KINDS"][name]
        digests = {module["settings_of"](name, variant) for variant in variants.values()}
        assert len(digests) == len(variants)
        for variant in variants.values():
            changed = replace(settings.data, **variant.data)
            assert (changed != settings.data) == bool(variant.data)
