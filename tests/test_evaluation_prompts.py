"""Small lists in the forms in which benchmarks publish theirs, and what their scorers look for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from istar.errors import UsageError
from istar.evaluation_prompts import EvaluationFile, read_evaluation


def listed(path: Path, *entries: object) -> Path:
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def test_vbench_has_five_videos_of_every_prompt_in_one_directory(tmp_path: Path) -> None:
    path = listed(
        tmp_path / "list.json",
        {"prompt_en": "a cat’s nap: 1 h", "dimension": ["color"]},
        {"prompt_en": "a dog", "dimension": ["scene"], "refined_prompt": "a shaggy dog"},
        {"prompt_en": "a cat’s nap: 1 h", "dimension": ["scene"]},
    )
    found = read_evaluation("vbench", path)
    names = [f"a cat’s nap: 1 h-{sample}.mp4" for sample in range(5)]
    assert [file.path for file in found.files] == names + [f"a dog-{i}.mp4" for i in range(5)]
    assert [file.sample for file in found.files] == [0, 1, 2, 3, 4] * 2
    assert {file.prompt for file in found.files} == {"a cat’s nap: 1 h", "a shaggy dog"}
    assert (found.mode, found.is_flat) == ("t2v", True)


def test_vbench2_has_a_directory_for_every_dimension(tmp_path: Path) -> None:
    long = "—" * 30 + "x" * 200
    path = listed(
        tmp_path / "list.json",
        {"prompt_en": long, "dimension": ["Mechanics"]},
        {"prompt_en": "a cat", "dimension": ["Diversity", "Human_Clothes"]},
        {"prompt_en": "a cat", "dimension": "Diversity"},
    )
    found = read_evaluation("vbench2", path)
    assert [file.path for file in found.files] == [
        *(f"Mechanics/{long[:180]}-{sample}.mp4" for sample in range(3)),
        *(f"Diversity/a cat-{sample}.mp4" for sample in range(20)),
        *(f"Human_Clothes/a cat-{sample}.mp4" for sample in range(3)),
    ]
    assert found.files[0].prompt == long


def test_geneval_has_a_directory_for_every_prompt(tmp_path: Path) -> None:
    lines = ['{"tag": "colors",  "prompt": "a red cup"}', '{"prompt": "two cups", "include": []}']
    path = tmp_path / "list.jsonl"
    path.write_text("\n".join(lines) + "\n")
    found = read_evaluation("geneval", path)
    assert [file.path for file in found.files[3:5]] == [
        "00000/samples/0003.png",
        "00001/samples/0000.png",
    ]
    assert len(found.files) == 8
    assert found.texts == {f"0000{n}/metadata.jsonl": line for n, line in enumerate(lines)}
    assert found.mode == "t2i"


def test_dpg_has_four_pictures_in_one(tmp_path: Path) -> None:
    for name, text in (("b2.txt", "two cups\n"), ("a1.txt", "a cup\n"), ("notes.md", "x")):
        (tmp_path / name).write_text(text)
    found = read_evaluation("dpg", tmp_path)
    assert found.files == (
        EvaluationFile(path="a1.png", prompt="a cup", sample=0, tiles=4),
        EvaluationFile(path="b2.png", prompt="two cups", sample=0, tiles=4),
    )
    assert found.is_square


@pytest.mark.parametrize("prompt", ["a/b", "a\0b", "a\nb", "~/a", "ä" * 126])
def test_a_prompt_that_makes_no_name_is_refused(prompt: str, tmp_path: Path) -> None:
    path = listed(tmp_path / "list.json", {"prompt_en": prompt, "dimension": ["../x"]})
    for name in ("vbench", "vbench2"):
        with pytest.raises(UsageError, match="cannot be a name"):
            read_evaluation(name, path)


def test_a_dimension_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    for dimension in ("..", "a/b", "/"):
        path = listed(tmp_path / "list.json", {"prompt_en": "a cat", "dimension": dimension})
        with pytest.raises(UsageError, match="cannot be a name"):
            read_evaluation("vbench2", path)


@pytest.mark.parametrize("text", ["", "[]", "{}", "[1]", '[{"prompt_en": 3}]', '[{"a": "b"}]', "x"])
@pytest.mark.parametrize("name", ["vbench", "vbench2", "geneval", "dpg"])
def test_other_lists_are_refused_with_their_name(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(text)
    with pytest.raises(UsageError, match="list"):
        read_evaluation(name, path)
    with pytest.raises(UsageError, match="nowhere"):
        read_evaluation(name, tmp_path / "nowhere")


def test_names_that_scorers_cut_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.1.txt").write_text("a cup")
    with pytest.raises(UsageError, match="first dot"):
        read_evaluation("dpg", tmp_path)
