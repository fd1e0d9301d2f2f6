"""`istar info`, `render` and `verify`, and `--from`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from asking import request
from istar import InfinityStarPipeline
from istar.cli.app import run
from istar.generation.state import Position
from istar.media import probe_file, write_clip, write_picture

Captured = pytest.CaptureFixture[str]
pytestmark = pytest.mark.usefixtures("quick_tiny")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory, and no model but those that are named."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISTAR_MODEL", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def made(arguments: Sequence[str], capfd: Captured) -> str:
    """What a command says on stderr."""
    code = run(arguments)
    said = capfd.readouterr()
    assert code == 0, said.err
    return said.err


def settings_of(name: str, capfd: Captured) -> dict[str, object]:
    assert run(["info", "--json", name]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["file"] == name
    return dict(found["istar"])


PICTURES = {
    "png": ["--seed", "3"],
    "jpg": ["--seed", "4", "--negative", "red", "--no-suffix", "--aspect", "3:2"],
    "webp": ["--seed", "5", "--guidance", "1", "--tau", "0.5,0.25"],
}


@pytest.mark.parametrize("suffix", PICTURES)
def test_a_picture_is_made_again_from_its_own_settings(suffix: str, capfd: Captured) -> None:
    one, other = f"a.{suffix}", f"b.{suffix}"
    made(["t2i", "a ring", "--model", "tiny", *PICTURES[suffix], "-o", one], capfd)
    said = made(["t2i", "--from", one, "-o", other], capfd)
    assert f"seed {PICTURES[suffix][1]}" in said
    assert Path(one).read_bytes() == Path(other).read_bytes()


@pytest.fixture
def model(brief_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))


@pytest.mark.usefixtures("model")
def test_videos_are_made_again_from_their_own_settings(capfd: Captured) -> None:
    typed = ["--seed", "6", "--seconds", "1"]
    write_picture(torch.full((64, 64, 3), 80, dtype=torch.uint8), Path("c.png"))
    made(["t2v", "a ring", *typed, "-o", "c.mp4"], capfd)
    # The input is typed again, and no more.
    for command in (["t2v", "a ring"], ["i2v", "c.png", "a ring"], ["extend", "c.mp4", "a ring"]):
        *source, _ = command
        made([*command, *typed, "-o", "a.mp4"], capfd)
        made([*source, "--from", "a.mp4", "-o", "b.mp4"], capfd)
        assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
        Path("a.mp4").unlink()
        Path("b.mp4").unlink()


@pytest.mark.usefixtures("model")
def test_an_interactive_video_is_made_again_prompt_by_prompt(capfd: Captured) -> None:
    Path("story.txt").write_text("a ring moves left\nit moves right\n", encoding="utf-8")
    made(["interact", "--script", "story.txt", "-o", "a.mp4"], capfd)
    made(["interact", "--from", "a.mp4", "-o", "b.mp4"], capfd)
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
    assert run(["t2v", "--from", "a.mp4"]) == 2
    assert "2 prompts" in capfd.readouterr().err


def test_what_is_typed_counts_more(capfd: Captured) -> None:
    asked = [
        "--seed",
        "7",
        "--negative",
        "red",
        "--tau",
        "0.5",
        "--guidance",
        "3",
        "--aspect",
        "1:1",
    ]
    made(["t2i", "a ring", "--model", "tiny", *asked, "-o", "a.png"], capfd)
    then = settings_of("a.png", capfd)
    typed = ["a star", "--seed", "8", "--negative", "", "--tau", "0.75", "--guidance", "2"]
    made(["t2i", *typed, "--from", "a.png", "--aspect", "3:2", "-o", "b.png"], capfd)
    now = settings_of("b.png", capfd)
    assert (now["prompt"], now["seed"], now["negative_prompt"]) == ("a star", 8, "")
    assert (now["tau"], now["aspect"]) == ([0.75, 0.75], 2 / 3)
    assert now["model"] == then["model"] == "tiny"
    made(["t2v", "--from", "a.png", "--seconds", "1", "--seed", "8", "-o", "c.mp4"], capfd)
    now = settings_of("c.mp4", capfd)
    same = ("prompt", "tau", "guidance", "negative_prompt", "aspect")
    assert [now[name] for name in same] == [then[name] for name in same]
    assert (now["seed"], now["seconds"]) == (8, 1)


def test_a_model_that_istar_does_not_know_is_typed_again(
    brief_checkpoint: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(["t2i", "a ring", "--model", str(brief_checkpoint), "-o", "a.png"], capfd)
    name = settings_of("a.png", capfd)["model"]
    # A directory of that name is not one that the person has named.
    Path(str(name)).symlink_to(brief_checkpoint)
    assert run(["t2i", "--from", "a.png", "-o", "b.png"]) == 1
    error = capfd.readouterr().err
    assert f"'a.png' was made by the model '{name}'" in error
    assert "--model" in error
    made(["t2i", "--from", "a.png", "--model", str(brief_checkpoint), "-o", "b.png"], capfd)
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))
    made(["t2i", "--from", "a.png", "-o", "c.png"], capfd)
    assert Path("a.png").read_bytes() == Path("c.png").read_bytes()


def test_another_model_or_dtype_is_said(brief_checkpoint: Path, capfd: Captured) -> None:
    made(["t2i", "a ring", "--model", "tiny", "-o", "a.png"], capfd)
    said = made(["t2i", "--from", "a.png", "--model", str(brief_checkpoint), "-o", "b.png"], capfd)
    assert "'a.png' was made by the tiny model" in said
    said = made(["t2i", "--from", "a.png", "--dtype", "bf16", "-o", "c.png"], capfd)
    assert "'a.png' was made in fp32 on cpu, not in bf16 on cpu" in said
    # What was chosen then is chosen again.
    said = made(["t2i", "--from", "c.png", "-o", "d.png"], capfd)
    assert "was made" not in said
    assert Path("c.png").read_bytes() == Path("d.png").read_bytes()


def test_files_of_others_have_nothing_to_reuse(capfd: Captured) -> None:
    Image.new("RGB", (5, 4)).save("a.png")
    Path("text.txt").write_text("hello", encoding="utf-8")
    for name, code, reason in (
        ("a.png", 1, "holds no settings: istar did not write it"),
        ("text.txt", 1, "neither a picture nor a video"),
        ("missing.png", 2, "does not exist"),
    ):
        assert run(["t2i", "--from", name]) == code
        error = capfd.readouterr().err
        assert len(error.splitlines()) == 1
        assert reason in error


def test_settings_that_were_cut_are_not_reused(capfd: Captured) -> None:
    made(["t2i", "x" * 70_000, "--model", "tiny", "-o", "a.jpg"], capfd)
    assert run(["t2i", "--from", "a.jpg"]) == 1
    assert "in part only" in capfd.readouterr().err
    assert run(["info", "a.jpg"]) == 0
    assert "the longest of these are cut" in capfd.readouterr().out


def test_info_names_what_made_a_file(capfd: Captured) -> None:
    made(
        ["t2v", "a ring", "--model", "tiny", "--seed", "7", "--seconds", "1", "-o", "a.mp4"], capfd
    )
    assert run(["info", "a.mp4"]) == 0
    first, *rows = capfd.readouterr().out.splitlines()
    assert first == "a.mp4: MP4 video, 80×80, 1.06 s, 17 pictures"
    rows = [" ".join(row.split()) for row in rows]
    for row in ("prompt a ring", "seed 7", "model tiny", "length 1 s", "tau 1 0.7 0.4 0.25"):
        assert row in rows


def test_info_of_a_sheet_names_its_takes(brief_checkpoint: Path, capfd: Captured) -> None:
    typed = ["--draft", "-n", "2", "--seed", "7", "--seconds", "1", "-o", "drafts"]
    made(["t2v", "a ring", "--model", str(brief_checkpoint), *typed], capfd)
    for name, kind in (("sheet.png", "PNG picture"), ("sheet.mp4", "MP4 video")):
        assert run(["info", f"drafts/{name}"]) == 0
        first, *rows = capfd.readouterr().out.splitlines()
        assert first.startswith(f"drafts/{name}: sheet of 2 takes, {kind}, ")
        assert [row.split() for row in rows[-2:]] == [
            ["take", "1:", "1-7.take"],
            ["take", "2:", "2-8.take"],
        ]
        assert run(["info", "--json", f"drafts/{name}"]) == 0
        assert json.loads(capfd.readouterr().out)["takes"] == ["1-7.take", "2-8.take"]


def test_info_of_files_of_others_is_a_line_each(capfd: Captured) -> None:
    Image.new("RGB", (5, 4)).save("a.bmp")
    write_clip(torch.zeros(16, 32, 48, 3, dtype=torch.uint8), Path("a.mp4"))
    Path("b.txt").write_text("hello", encoding="utf-8")
    assert run(["info", "a.bmp", "b.txt", "a.mp4"]) == 1
    said = capfd.readouterr()
    assert said.out.splitlines() == [
        "a.bmp was not written by istar: BMP picture, 5×4",
        "a.mp4 was not written by istar: MP4 video, 48×32, 1 s, 16 pictures",
    ]
    assert len(said.err.splitlines()) == 1
    assert run(["info", "--json", "a.bmp", "a.mp4"]) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [one["istar"] for one in found] == [None, None]
    assert [one["frames"] for one in found] == [1, 16]


def test_a_terminal_cannot_be_steered_by_a_file(capfd: Captured) -> None:
    made(["t2i", "a \x1b[31mring\x07\nseed 9", "--model", "tiny", "-o", "a.png"], capfd)
    assert run(["info", "a.png"]) == 0
    out = capfd.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "  prompt    a \\x1b[31mring\\x07 seed 9\n" in out


# --- Takes ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_takes(brief_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished take and one under way, of the same video, and one that has not begun."""
    directory = tmp_path_factory.mktemp("takes")
    pipeline = InfinityStarPipeline.from_pretrained(brief_checkpoint, device="cpu")
    asked = request(prompt="a \x1b[1mring", negative_prompt="red", guidance_scale=3)
    for name, until in (("none", Position(0, 0)), ("part", Position(0, 3)), ("whole", None)):
        job = pipeline.job(asked)
        for _ in job.run(until=until):
            pass
        job.take().save(directory / f"{name}.take")
    pipeline.render(job.take()).save(directory / "whole.mp4")
    return directory


@pytest.fixture
def takes(made_takes: Path, brief_checkpoint: Path, own_place: None) -> Path:
    """The same in the current directory; gives their model."""
    shutil.copytree(made_takes, Path(), dirs_exist_ok=True)
    return brief_checkpoint


def test_info_says_how_far_a_take_is(takes: Path, capfd: Captured) -> None:
    assert run(["info", "whole.take", "part.take", "none.take"]) == 0
    whole, part, none = capfd.readouterr().out.split("\n\n")
    size = Path("whole.take").stat().st_size
    assert whole.splitlines()[0] == f"whole.take: take, 48×32, {size / 1000:.1f} kB"
    assert "  prompt    a \\x1b[1mring" in whole
    assert "  made by   istar in fp32 on cpu" in whole
    assert "  reached   the end" in whole
    assert "  reached   step 3 of 4, clip 2, scale 1x1 of 4 frames" in part
    assert "  reached   not begun" in none
    assert run(["info", "--json", "part.take"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["kind"], found["finished"], found["taken"], found["steps"]) == (
        "take",
        False,
        3,
        4,
    )
    assert (found["clip"], found["scale"]) == (1, 0)
    assert found["grid"] == {"frames": 4, "height": 1, "width": 1}
    assert (found["windows"], found["windows_total"]) == (1, 1)
    assert found["drawn"] > 0
    assert found["given"] == found["kept"] == 0
    assert found["istar"]["asked"] == {"guidance_scale": 3.0}


def test_a_scale_is_called_as_it_is_typed(brief_checkpoint: Path, capfd: Captured) -> None:
    pipeline = InfinityStarPipeline.from_pretrained(brief_checkpoint, device="cpu")
    job = pipeline.job(request())
    for _ in job.run(until=Position(0, 2)):
        pass
    job.take().save("a.take")
    assert run(["info", "a.take"]) == 0
    assert "reached   step 2 of 4, clip 1, scale 3x2 of 1 frame" in capfd.readouterr().out
    assert run(["info", "--json", "a.take"]) == 0
    found = json.loads(capfd.readouterr().out)
    assert found["grid"] == {"frames": 1, "height": 2, "width": 3}
    assert run(["verify", "a.take", "--json", "--model", str(brief_checkpoint)]) == 0
    steps = json.loads(capfd.readouterr().out)["steps"]
    assert steps[1]["grid"] == found["grid"]
    assert run(["score", "a.take", "--model", str(brief_checkpoint)]) == 0
    assert [line.split()[2] for line in capfd.readouterr().out.splitlines()[4:-1]] == ["1x1", "3x2"]


def test_render_decodes_a_take_again(takes: Path, capfd: Captured) -> None:
    model = ["--model", str(takes)]
    made(["render", "whole.take", "-o", "again.mp4", *model], capfd)
    # Settings included.
    assert Path("again.mp4").read_bytes() == Path("whole.mp4").read_bytes()
    assert run(["render", "part.take", "--fps", "8", *model]) == 0
    assert capfd.readouterr().out == "istar-t2v-0001.mp4\n"
    assert run(["info", "istar-t2v-0001.mp4"]) == 0
    out = capfd.readouterr().out
    assert "2.12 s, 17 pictures" in out
    assert "  reached   not the end: it is decoded from a take under way" in out
    assert run(["render", "none.take", *model]) == 1
    assert "no picture yet" in capfd.readouterr().err
    assert run(["render", "whole.take", "-o", "a.png", *model]) == 2
    assert not Path("a.png").exists()


def test_a_picture_is_rendered_to_any_format(brief_checkpoint: Path, capfd: Captured) -> None:
    pipeline = InfinityStarPipeline.from_pretrained(brief_checkpoint, device="cpu")
    job = pipeline.job(request("t2i"))
    for _ in job.run():
        pass
    job.take().save("a.take")
    for name, kind in (("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.webp", "WebP")):
        made(["render", "a.take", "-o", name, "--model", str(brief_checkpoint)], capfd)
        assert probe_file(Path(name)).kind == f"{kind} picture"


def test_verify_counts_what_would_be_other_bits(capfd: Captured) -> None:
    pipeline = InfinityStarPipeline.from_pretrained("tiny", device="cpu")
    job = pipeline.job(request(aspect=1))
    for _ in job.run(until=Position(0, 12)):
        pass
    job.take().save("a.take")
    assert run(["verify", "a.take"]) == 0
    first, second = capfd.readouterr().out.splitlines()
    assert first == "a.take: made in fp32 on cpu, verified in fp32 on cpu"
    assert second.startswith("all ")
    assert run(["verify", "a.take", "--dtype", "bf16"]) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].endswith("verified in bf16 on cpu")
    assert "drawn bits (" in lines[1]
    assert lines[2].startswith("the first: step ")
    assert all(len(line) <= 80 for line in lines)
    assert run(["verify", "a.take", "--dtype", "bf16", "--json"]) == 1
    found = json.loads(capfd.readouterr().out)
    assert [step["step"] for step in found["steps"]] == list(range(12))
    assert found["changed"] == sum(step["changed"] for step in found["steps"])
    assert found["first"] == next(step for step in found["steps"] if step["changed"])
    assert 0 < found["first"]["margin"] < 1


def test_a_take_is_of_the_model_that_made_it(takes: Path, capfd: Captured) -> None:
    for command in ("render", "verify"):
        assert run([command, "whole.take"]) == 1
        assert "'whole.take' was made by the model 'random'" in capfd.readouterr().err
        assert run([command, "whole.take", "--model", "tiny"]) == 1
        assert "other weights" in capfd.readouterr().err


def test_settings_are_reused_from_a_take(
    takes: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTAR_MODEL", str(takes))
    said = made(["t2v", "--from", "part.take", "-o", "a.mp4"], capfd)
    assert "'part.take' is of a run that was not finished; this one goes to its end" in said
    assert Path("a.mp4").read_bytes() == Path("whole.mp4").read_bytes()


def test_what_a_request_does_not_give_is_written_and_said(
    takes: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISTAR_MODEL", str(takes))
    job = InfinityStarPipeline.from_pretrained(takes, device="cpu").job(
        request("interact", prompt=("one",), seed=7)
    )
    list(job.run())
    job.add_prompt("two", seed=9)
    list(job.run())
    job.take().save("seeds.take")
    made(["render", "seeds.take", "-o", "seeds.mp4"], capfd)
    made(["vary", "whole.take", "--keep", "1x1", "--seed", "5", "-o", "varied.mp4"], capfd)
    for name, command, row, reason in (
        ("varied.mp4", "t2v", "varied some tokens are another take's", "as a variation of a take"),
        ("seeds.mp4", "interact", "seeds 7 9 (one a prompt)", "other seeds for later prompts"),
        ("seeds.take", "interact", "seeds 7 9 (one a prompt)", "other seeds for later prompts"),
    ):
        assert run(["info", name]) == 0
        assert row in [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
        said = made([command, "--from", name, "-o", "a.mp4", "--overwrite", "-q"], capfd)
        assert f"'{name}' was made " in said
        assert f"{reason}: the same seed gives other pictures" in said
    assert (
        settings_of("varied.mp4", capfd)["varied"],
        settings_of("seeds.mp4", capfd)["seeds"],
    ) == (
        True,
        [7, 9],
    )
    assert settings_of("a.mp4", capfd)["varied"] is False


READERS = ("info", "finish", "vary --keep 1x1", "render", "verify", "score", "extend")


@pytest.mark.parametrize("command", [*READERS, "interact --script a.txt", "t2v --from"])
def test_what_is_no_take_is_refused_in_a_line(command: str, capfd: Captured) -> None:
    Path("a.take").write_bytes(b"hello, this is not one")
    Path("a.txt").write_text("one")
    Path("c.take").mkdir()
    for name, code in (("a.take", 1), ("b.take", 2), ("c.take", 2)):
        assert run([*command.split(), name]) == code
        error = capfd.readouterr().err
        assert len(error.splitlines()) == 1
        assert name in error
        assert "header" not in error
