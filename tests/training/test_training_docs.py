"""What docs/training.md shows is what there is."""

from __future__ import annotations

import re
import runpy
from dataclasses import MISSING, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from istar.model_spec import ModelSpec
from istar.models.manifest import read_manifest
from istar.models.released import RELEASED_MODELS
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
CONFIGS = DOCS.parent / "configs"


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
            needed = field.default is MISSING and field.default_factory is MISSING
            if needed or not generator["is_table"](get_type_hints(kind)[field.name]):
                assert f"| `{field.name}` |" in text


def test_the_recipes_that_are_shown_can_be_read(tmp_path: Path) -> None:
    shown = re.findall(r"^```toml\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    assert len(shown) == 5
    found: dict[type[Any], Any] = {}
    for text in shown:
        kind: type[Any] = TokenizerTraining
        if "[[sets]]" in text:
            kind = PrepareConfig
        elif "[[data.mix]]" in text:
            kind = TransformerTraining
        path = tmp_path / "shown.toml"
        path.write_text(text, encoding="utf-8")
        found[kind] = read_config(path, kind)
        assert found[kind].model == tmp_path / "mine" / "istar.json"
    prepared, run = found[PrepareConfig], found[TransformerTraining]
    check_sets(prepared, run, ModelSpec.clip_frames)


@pytest.mark.parametrize("name", ["tiny-{}.toml", "480p/{}.toml"])
def test_recipes_prepare_what_they_learn_from(name: str) -> None:
    latents = read_config(CONFIGS / name.format("latents"), PrepareConfig)
    course = "finetune" if "480p" in name else "transformer"
    run = read_config(CONFIGS / name.format(course), TransformerTraining)
    check_sets(latents, run, read_manifest(latents.model).clip_frames)


def check_sets(prepared: PrepareConfig, run: TransformerTraining, clip_frames: int) -> None:
    """Every set is prepared, and of all of them some have clips for every kind of example."""
    frames = {prepared.output / one.name: 1 + one.length // 4 for one in prepared.sets}
    for kind in run.data.mix:
        interacts = kind.kind == "interact"
        needed = 1 + (2 * clip_frames if interacts else int(4 * kind.seconds))
        for sets in filter(None, (run.data.sets, run.validation.sets)):
            assert max(frames[one] for one in sets) >= needed


def test_the_manifest_for_fine_tuning_is_the_released_models() -> None:
    (released,) = (spec for spec in RELEASED_MODELS if spec.name == "480p")
    found = read_manifest(CONFIGS / "480p" / "istar.json")
    files = {name: getattr(found, name) for name in ("transformer", "tokenizer", "text_encoder")}
    assert found == replace(released, source=None, **files)


def test_fine_tuning_shows_samples_of_the_prompts_that_people_write() -> None:
    """Without prompts they are scenes of the procedural world, which it is not trained on."""
    run = read_config(CONFIGS / "480p" / "finetune.toml", TransformerTraining)
    assert len(run.samples.prompts) > 1


def test_the_lines_of_lists_that_are_shown_can_be_read(tmp_path: Path) -> None:
    shown = re.findall(r"^```json\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    path = tmp_path / "clips.jsonl"
    path.write_text("".join(shown), encoding="utf-8")
    clips, skipped = read_list(path)
    assert (len(clips), skipped) == (len(shown), [])
