"""`istar eval shapes`, with a small model of random weights."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from istar.cli.app import run
from istar.errors import UsageError
from istar.lab.score import USUAL_MODES, ShapesTest
from istar.lab.trials import MODES
from istar.media import read_picture
from istar.pipeline import InfinityStarPipeline
from processes import await_line, started_warm


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISTAR_MODEL", raising=False)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


def test_a_report_and_a_sheet_are_written(
    brief_checkpoint: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", "shapes", "--model", str(brief_checkpoint), "--count", "1", "--seed", "4"]
    command += ["--modes", "t2v,tokenizer", "--seconds", "1.75", "--threads", "1"]
    command += ["--device", "cpu"]
    torch.set_num_threads(2)
    assert run([*command, "-o", "found"]) == 0
    out, err = capfd.readouterr()
    assert out == "found/report.json\nfound/sheet.png\n"
    report = json.loads(Path("found/report.json").read_text(encoding="utf-8"))
    assert list(report["results"]) == ["t2v", "tokenizer"]
    for result in report["results"].values():
        assert [record["seed"] for record in result["records"]] == [4]
        for name, rate in result["rates"].items():
            hits = sum(record["right"][name] for record in result["records"])
            assert (rate["hits"], rate["count"]) == (hits, 1)
    assert (report["model"], report["device"], report["dtype"]) == ("random", "cpu", "fp32")
    assert report["complete"]
    assert torch.get_num_threads() == 1
    assert "psnr" in err
    assert read_picture(Path("found/sheet.png")).pixels.shape[0] == 2 * (32 + 4 + 6) + 2
    kept = Path("found/report.json").read_bytes()
    assert run([*command, "-o", "found"]) == 1
    assert "exists" in capfd.readouterr().err
    assert Path("found/report.json").read_bytes() == kept


def test_the_usual_modes_are_tested_where_none_is_named(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, ...]] = []

    def evaluate(pipeline: InfinityStarPipeline, test: ShapesTest) -> None:
        asked.append(test.modes)
        raise UsageError("enough")

    monkeypatch.setattr("istar.lab.score.evaluate_shapes", evaluate)
    assert run(["eval", "shapes", "--model", str(checkpoint), "--count", "1"]) == 2
    assert asked == [("t2v", "wording", "i2v", "extend", "tokenizer")] == [USUAL_MODES]


def test_json_goes_to_stdout(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "shapes", "--model", str(checkpoint), "--count", "1", "--modes", "tokenizer"]
    assert run([*command, "--json"]) == 0
    shown = json.loads(capfd.readouterr().out)
    written = json.loads(Path("eval-shapes/report.json").read_text(encoding="utf-8"))
    assert shown == written
    assert list(shown["results"]) == ["tokenizer"]
    assert run([*command, "--overwrite"]) == 0


def test_all_modes_run(brief_checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "shapes", "--model", str(brief_checkpoint), "--count", "1", "--modes", "all"]
    assert run([*command, "--seconds", "1.75", "--json"]) == 0
    results = json.loads(capfd.readouterr().out)["results"]
    assert list(results) == list(MODES)
    for mode, result in results.items():
        assert [len(record["measured"]) for record in result["records"]] == (
            [2] if mode in ("two", "interact") else [1]
        )
        assert set(result["differences"]) == (
            set(result["rates"]) if mode in ("wording", "wide", "tall") else set()
        )
    assert all(record["world"] for record in results["diversity"]["records"])


@pytest.mark.usefixtures("quick_tiny")
def test_what_8_bits_cost_is_measured(capfd: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "precision", "--model", "tiny", "--seconds", "1", "--device", "cpu"]
    several = ["--dtype", "fp32", "--dtype", "int8", "--dtype", "fp8", "--dtype", "int8"]
    assert run([*command, *several, "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert (found["model"], found["device"], found["seeds"]) == ("tiny", "cpu", [0])
    exact, int8, fp8 = (found["dtypes"].pop(name) for name in ("fp32", "int8", "fp8"))
    assert not found["dtypes"]
    assert exact["logits_error"] == exact["changed"] == 0
    assert 0.005 < int8["logits_error"] < fp8["logits_error"] < 0.5
    assert 0 < int8["share"] < fp8["share"] < 0.1
    for kind in (int8, fp8):
        assert sum(scale["bits"] for scale in kind["scales"]) == kind["bits"]
        assert sum(scale["changed"] for scale in kind["scales"]) == kind["changed"]
    assert run([*command, "--dtype", "bf16"]) == 0
    table = capfd.readouterr().out.splitlines()
    assert len(table) == 1 + len(int8["scales"]) + 1
    assert table[-1].split()[:2] == ["bf16", "all"]
    assert run([*command, "--count", "0"]) == 2
    assert "torchao" not in err


def test_shapes_are_tested_in_8_bits(checkpoint: Path, capfd: pytest.CaptureFixture[str]) -> None:
    command = ["eval", "shapes", "--model", str(checkpoint), "--count", "1", "--modes", "t2v"]
    assert run([*command, "--seconds", "1.75", "--dtype", "int8", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["dtype"] == "int8"


@pytest.mark.signals
def test_what_was_found_is_kept_when_it_is_stopped(checkpoint: Path) -> None:
    command = ["eval", "shapes", "--model", str(checkpoint)]
    command += ["--modes", "tokenizer,t2v", "--count", "5000", "--seconds", "1.75"]
    with (
        Path("printed").open("wb") as printed,
        started_warm(*command, stdout=printed.fileno()) as process,
    ):
        await_line(process, b" of 10000")
        process.send_signal(signal.SIGINT)
        code, err = process.ended()
    assert code == 130
    assert Path("printed").read_text() == "eval-shapes/report.json\neval-shapes/sheet.png\n"
    report = json.loads(Path("eval-shapes/report.json").read_text(encoding="utf-8"))
    assert (report["complete"], report["count"], list(report["results"])) == (
        False,
        5000,
        ["tokenizer"],
    )
    done = len(report["results"]["tokenizer"]["records"])
    assert f"stopped after {done} of 10000 clips" in err.decode()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--modes", "t2v,t2w"], 2, f"--modes are of {', '.join(MODES)}, not t2w"),
        (["--modes", "t2v,t2v"], 2, "each once"),
        (["--count", "0"], 2, "at least one scene"),
        (["--seconds", "1.5"], 2, "1.75 to"),
        (["--threads", "0"], 2, "--threads"),
        (["-o", "no/such/place"], 1, "cannot make the directory"),
    ],
)
def test_what_makes_no_sense_is_refused_before_a_model_is_loaded(
    arguments: list[str], code: int, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["eval", "shapes", "--model", "no-such/model", *arguments]) == code
    assert message in capfd.readouterr().err
