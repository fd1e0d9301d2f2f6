from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import parity

PARTS = ("tokenizer", "quantizer", "transformer", "interact")
_STEP_PARTS = ("cond", "uncond", "guided", "codes")
NAMES = (
    *(f"schedules {budget}" for budget in ("0.06M", "0.25M", "0.40M", "0.90M")),
    *(f"tokenizer decode.T{frames}" for frames in (1, 4, 5)),
    *(f"tokenizer encode.T{frames}" for frames in (1, 5, 17)),
    *(f"quantizer pt{frames} {part}" for frames in (1, 5) for part in ("bits", "sum")),
    *(f"transformer pt{frames} {part}" for frames in (1, 41) for part in _STEP_PARTS),
    *(f"interact {part}" for part in _STEP_PARTS),
)


@pytest.fixture(scope="module")
def cases(golden: Path) -> dict[str, parity.Case]:
    """Without `slow` not every prediction of a video is made again."""
    return {case.name: case for case in parity.all_cases(golden, sparing=True)}


def test_all_kept_cases_are_run(cases: dict[str, parity.Case]) -> None:
    assert set(cases) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_agrees_with_the_released_reference(cases: dict[str, parity.Case], name: str) -> None:
    case = cases[name]
    assert case.passed, f"{case.error} is past {parity.TOLERANCES[case.kind]}"


@pytest.mark.slow
def test_every_repetition_agrees_with_the_released_reference(golden: Path) -> None:
    files = ("transformer_cases.safetensors", "interact_cases.safetensors")
    with torch.inference_mode():
        found = [case for file in files for case in parity.CASES[file](parity.Golden(golden))]
    assert [case.name for case in found if not case.passed] == []
    assert [case.name for case in found] == [*NAMES[-3 * len(_STEP_PARTS) :]]


def test_an_error_that_is_not_a_number_does_not_pass() -> None:
    assert not parity.Case(name="", kind="logits", error=float("nan")).passed


def copy(golden: Path, to: Path, names: Sequence[str]) -> Path:
    for name in names:
        shutil.copy(golden / name, to / name)
    return to


def run_main(directory: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["parity.py", str(directory)])
    return parity.main()


def test_main_exits_0_where_all_agrees(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cases of other files are compared above."""
    file = "tokenizer_cases.safetensors"
    monkeypatch.setattr(parity, "CASES", {file: parity.CASES[file]})
    assert run_main(copy(golden, tmp_path, [*parity.WEIGHTS, file]), monkeypatch) == 0


@pytest.mark.parametrize(
    ("cases", "tensor"),
    [
        ("tokenizer_cases", "encode.T5.latent"),
        ("transformer_cases", "pt1.guided.020"),
        pytest.param("interact_cases", "guided.020", marks=pytest.mark.slow),
        ("quantizer_cases", "pt5.bits.030"),
    ],
)
def test_main_exits_1_after_a_change_of_one_number(
    golden: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cases: str,
    tensor: str,
) -> None:
    file = f"{cases}.safetensors"
    monkeypatch.setattr(parity, "CASES", {file: parity.CASES[file]})
    directory = copy(golden, tmp_path, [*parity.WEIGHTS, file])
    # Of the transformer's cases the picture's.
    tensors = {
        name: one for name, one in load_file(golden / file).items() if not name.startswith("pt41.")
    }
    tensors[tensor].view(-1)[3] += 1
    save_file(tensors, directory / file)
    assert run_main(directory, monkeypatch) == 1


def test_main_names_files_that_are_missing_or_empty_and_exits_1(
    golden: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    directory = copy(golden, tmp_path, [*parity.WEIGHTS, "schedules.json"])
    save_file({}, directory / "tokenizer_cases.safetensors")
    assert run_main(directory, monkeypatch) == 1
    printed = capsys.readouterr().out.splitlines()
    failed = [line.split()[3] for line in printed if line.endswith("FAILED")]
    assert failed == [f"{part}_cases.safetensors" for part in PARTS]
    assert printed[-1] == "4 passed, 4 failed"


@pytest.mark.parametrize("name", parity.WEIGHTS)
def test_main_exits_1_without_weights(
    golden: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    others = [weights for weights in parity.WEIGHTS if weights != name]
    assert run_main(copy(golden, tmp_path, others), monkeypatch) == 1
    assert capsys.readouterr().err == f"{tmp_path} lacks {name}\n"


@pytest.mark.slow
def test_the_script_exits_1_for_an_empty_directory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, parity.__file__, str(tmp_path)], capture_output=True, check=False
    )
    assert done.returncode == 1
