"""Language models on this machine: small ones, through the real library."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from shutil import copytree

import pytest

from istar.errors import RewriteError
from istar.language_model import loaded_language_model
from parrot import SAYS, library, write_parrot

TEMPLATE = "{% if not enable_thinking %}{{ messages[0].content }}!{% endif %}"


def living() -> int:
    return sum(type(one) is library.LlamaForCausalLM for one in gc.get_objects())


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_model_answers_and_is_gone(tmp_path: Path, template: str | None) -> None:
    path = write_parrot(tmp_path / "parrot", template=template)
    gc.collect()
    before = living()
    with loaded_language_model(str(path)) as answer:
        assert living() == before + 1
        assert [answer("Describe.", text) for text in ("a fox", "é" * 300)] == [SAYS, SAYS]
    assert living() == before


def test_what_is_no_language_model_is_one_line(tmp_path: Path) -> None:
    path = write_parrot(tmp_path / "parrot")
    config = json.loads((path / "config.json").read_text())
    broken: list[tuple[str, str]] = [
        ("someone/model", "neither a directory nor whole in the Hub's cache"),
        (str(tmp_path / "nowhere"), "neither a directory nor whole"),
    ]
    for name, change, reason in (
        ("t5", {"model_type": "t5"}, "cannot be used"),
        ("unknown", {"model_type": "unknown"}, "cannot be used"),
        ("wide", {"intermediate_size": 4}, "cannot be used"),
    ):
        other = copytree(path, tmp_path / name)
        (other / "config.json").write_text(json.dumps(config | change))
        broken.append((str(other), reason))
    cut = copytree(path, tmp_path / "cut")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-1000])
    broken.append((str(cut), "cannot be used"))
    for name, reason in broken:
        with pytest.raises(RewriteError) as raised, loaded_language_model(name):
            pass
        assert reason in str(raised.value), name
        assert len(str(raised.value).splitlines()) == 1
