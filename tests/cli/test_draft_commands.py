"""`--draft`, `finish`, `vary` and `--deadline`, as a person types them."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from istar import Take
from istar.cli.app import run
from istar.cli.drafts import parse_scale, parse_until
from istar.errors import UsageError
from istar.generation.until import Until
from istar.media import probe_file, read_clip, read_picture, write_picture
from istar.media.sheet import takes_on, with_takes
from istar.models import bundled
from media_files import texts_in
from processes import run_here

pytestmark = pytest.mark.usefixtures("quick_tiny")

PROMPT = "a red circle moves right on a blue background"
TINY = bundled.DIRECTORY
T2V = ("t2v", PROMPT, "--model", "tiny", "--seconds", "1", "--dtype", "fp32", "--seed", "5")


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory, and an empty store of takes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("ISTAR_MODEL", raising=False)


def istar(*arguments: str) -> list[str]:
    """What a command that does well prints on stdout, line by line."""
    done = run_here(*arguments)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().splitlines()


def refused(*arguments: str, code: int = 2) -> str:
    """What a command that fails says, in one line."""
    done = run_here(*arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    (line,) = [line for line in done.stderr.decode().splitlines() if "istar: seed" not in line]
    return line


@pytest.fixture(scope="module")
def drafts(quick_tiny: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two drafts in a directory."""
    directory = tmp_path_factory.mktemp("module") / "drafts"
    istar(*T2V, "--draft", "-n", "2", "-o", str(directory))
    return directory


def test_drafts_are_sheets_and_takes(drafts: Path) -> None:
    names = ["sheet.png", "sheet.mp4", "1-5.take", "2-6.take"]
    assert sorted(path.name for path in drafts.iterdir()) == sorted(names)
    assert json.loads(texts_in(drafts / "sheet.png")["takes"]) == names[2:]
    assert read_picture(drafts / "sheet.png").pixels.shape == (544, 1224, 3)
    assert len(read_clip(drafts / "sheet.mp4").frames) == 17
    takes = [Take.load(drafts / name) for name in names[2:]]
    assert [take.request.seed for take in takes] == [5, 6]
    for take in takes:
        assert take.last_step is not None
        assert (take.last_step.clip, take.last_step.grid) == (1, (4, 3, 3))
    # The second is not just the first again.
    sheet = read_picture(drafts / "sheet.png").pixels
    assert not torch.equal(sheet[24:260], sheet[24 + 272 : 260 + 272])


def test_a_draft_finished_is_the_file_that_one_run_writes(drafts: Path, tmp_path: Path) -> None:
    assert istar("finish", f"{drafts}/sheet.mp4:2", "-o", "a.mp4") == ["a.mp4"]
    assert istar(*T2V[:-1], "6", "-o", "b.mp4") == ["b.mp4"]
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()


def test_several_takes_are_finished_into_a_directory(drafts: Path) -> None:
    takes = [str(drafts / "1-5.take"), f"{drafts}/sheet.png:1"]
    assert refused("finish", *takes, "-o", "a.mp4").endswith("name a directory with --output")
    made = istar("finish", *takes)
    assert made == ["istar-t2v-0001.mp4", "istar-t2v-0002.mp4"]
    assert Path(made[0]).read_bytes() == Path(made[1]).read_bytes()
    # A directory that is not there is made.
    names = ("istar-t2v-0001.mp4", "istar-t2v-0002.mp4")
    for output, *files in (("deep/new", *takes), ("one/", takes[0])):
        made = istar("finish", *files, "-o", output)
        assert made == [str(Path(output) / name) for name in names[: len(files)]]


@pytest.mark.parametrize(("output", "code"), [("~nobody-here/x/", 2), ("file", 1), ("-", 2)])
def test_several_takes_need_a_directory(output: str, code: int, drafts: Path) -> None:
    Path("file").touch()
    refused("finish", str(drafts / "1-5.take"), f"{drafts}/sheet.png:2", "-o", output, code=code)
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_variations_are_made_into_a_new_directory(drafts: Path) -> None:
    made = istar("vary", str(drafts / "1-5.take"), "--keep", "2x2", "-n", "2", "-o", "others/")
    assert made == ["others/istar-t2v-0001.mp4", "others/istar-t2v-0002.mp4"]


def test_a_picture_is_drafted_without_a_moving_sheet(tmp_path: Path) -> None:
    t2i = ("t2i", PROMPT, "--model", "tiny", "--seed", "7", "--dtype", "fp32")
    made = istar(*t2i, "--draft", "--until", "2x2")
    directory = "istar-drafts-0001"
    assert made == [f"{directory}/sheet.png", f"{directory}/1-7.take"]
    words = "--crf is for clips, and this is a picture"
    assert words in refused("finish", made[1], "--crf", "9", "-o", "a.png")
    istar("finish", made[1], "-o", "a.png")
    istar(*t2i, "-o", "b.png")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


def test_the_likeliest_drafts_are_kept(tmp_path: Path) -> None:
    draft = (*T2V, "--draft", "--until", "1x1", "-n", "4")
    every = [Take.load(name) for name in istar(*draft, "-o", "all")[2:]]
    likeliest = sorted(every, key=lambda take: -take.score.conditional)[:2]
    printed = istar(*draft, "--best", "2", "-o", "best")
    names = [f"{n}-{take.request.seed}.take" for n, take in enumerate(likeliest, 1)]
    assert printed == [f"best/{name}" for name in ("sheet.png", "sheet.mp4", *names)]
    assert sorted(path.name for path in Path("best").iterdir()) == sorted(
        ["sheet.png", "sheet.mp4", *names]
    )
    assert [path.name for path in takes_on(Path("best/sheet.png"))] == names
    # The order is not just that of the seeds, or the test would say little.
    assert [take.request.seed for take in likeliest] != [5, 6]
    # What the sheet shows first is the first take's draft.
    seed = str(likeliest[0].request.seed)
    alone = istar(*T2V[:-1], seed, "--draft", "--until", "1x1", "-o", "alone")[0]
    shown, best = (read_picture(Path(name)).pixels for name in (alone, printed[0]))
    assert torch.equal(shown[24:260], best[24:260, : shown.shape[1]])


def test_drafts_stand_beside_others(drafts: Path) -> None:
    before = {path.name: path.read_bytes() for path in drafts.iterdir()}
    made = istar(*T2V, "--draft", "--until", "1x1", "-o", str(drafts))
    assert [Path(path).name for path in made] == ["sheet-1.png", "sheet-1.mp4", "1-5-1.take"]
    assert all((drafts / name).read_bytes() == content for name, content in before.items())
    for path in made:
        Path(path).unlink()


def test_a_variation_is_made_or_drafted(drafts: Path) -> None:
    take = str(drafts / "1-5.take")
    made = istar("vary", take, "--keep", "2x2", "-n", "2", "--seed", "9")
    assert made == ["istar-t2v-0001.mp4", "istar-t2v-0002.mp4"]
    assert Path(made[0]).read_bytes() != Path(made[1]).read_bytes()
    *_, drafted = istar("vary", take, "--keep", "2x2", "--seed", "10", "--draft", "-o", "v")
    assert drafted == "v/1-10.take"
    istar("finish", drafted, "-o", "a.mp4")
    assert Path("a.mp4").read_bytes() == Path(made[1]).read_bytes()


def test_a_part_of_a_finished_take_is_varied(monkeypatch: pytest.MonkeyPatch) -> None:
    # In noise nothing stays as it is: this is for a model that makes pictures.
    monkeypatch.setattr(bundled, "DIRECTORY", TINY)
    istar(*T2V, "-o", "a.mp4")
    (take,) = Path("state/istar/takes").glob("*.take")
    for option in (("--frames", "0.5s-1s"), ("--region", "0,0,80,32")):
        istar("vary", str(take), *option, "--seed", "1", "-o", "b.mp4", "--overwrite")
        old, new = (read_clip(Path(name)).frames.float() for name in ("a.mp4", "b.mp4"))
        changed = (new - old).abs().mean(dim=3)
        if option[0] == "--frames":
            assert changed[:8].max() < 30 < changed[10:].max()
        else:
            assert changed[:, 64:].max() < 30 < changed[:, :32].max()


def test_a_deadline_leaves_a_take_that_finishes_the_same(tmp_path: Path) -> None:
    how = ("--crf", "30", "--preset", "fast", "--fps", "8")
    done = run_here(*T2V, "--deadline", "0.001s", *how, "-o", "a.mp4")
    assert (done.returncode, done.stdout) == (0, b"a.mp4\n")
    assert probe_file(Path("a.mp4")).frames == 17
    (take,) = Path("state/istar/takes").glob("*.take")
    words = f"{' '.join(how)} -o {Path('a.mp4').absolute()} {take.absolute()}"
    assert f"`istar finish --model tiny {words}` continues it" in done.stderr.decode()
    istar("finish", str(take), *how, "-o", "b.mp4")
    done = run_here("t2v", "--from", "a.mp4", *how[:4], "-o", "c.mp4")
    assert b"'a.mp4' had a deadline of 0.001 s; this run has none" in done.stderr
    assert Path("b.mp4").read_bytes() == Path("c.mp4").read_bytes()
    assert probe_file(Path("c.mp4")).seconds == pytest.approx(17 / 8)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--draft", "--prompts", "file"], "drafts are of one prompt"),
        (["--draft", "--skip-existing"], "leave out --draft"),
        (["--until", "0.5"], "add --draft"),
        (["--best", "1"], "add --draft"),
        (["--draft", "-n", "2", "--best", "3"], "at most 2, not 3"),
        (["--draft", "--deadline", "3s"], "--deadline does not go with it"),
        (["--draft", "-o", "-"], "name a directory with --output"),
        (["--draft", "-o", "file"], "'file' is a file"),
        (["--draft", "--until", "7x7"], "the scales are 1x1, 2x2, 3x3, 5x5"),
        (["--draft", "--until", "half"], "--until is a scale such as 32x18, or a share"),
        (["--draft", "--until", "200%"], "above 0 and at most 1"),
        (["--draft", "-n", "100"], "at most 99 drafts, not 100"),
        (["--draft", "-n", "0"], "greater than or equal to 1"),
        (["--draft", "-n", "2", "--seed", str(2**64 - 1)], "too large"),
        (["--deadline", "soon"], "--deadline is a number of seconds"),
        (["--deadline", "0"], "--deadline is a number of seconds"),
    ],
)
def test_drafts_that_cannot_be(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    code = run(["t2v", "x", "--model", "tiny", "--seed", "1", *arguments])
    out, err = capfd.readouterr()
    assert code in (1, 2)
    assert out == ""
    assert said in err
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["finish", "{drafts}/sheet.png"], "sheet.png' is no take; name one that a sheet shows"),
        (["finish", "{drafts}/sheet.mp4"], "sheet.mp4' is no take; name one that a sheet shows"),
        (["finish", "{drafts}/sheet.png:3"], "shows 2 takes: there is no 3"),
        (["finish", "{drafts}/sheet.png:0"], "shows 2 takes: there is no 0"),
        (["finish", "nowhere.take"], "does not exist"),
        (["finish", "nowhere.png:1"], "does not exist"),
        (["finish", "{drafts}/1-5.take", "--model", "480p"], "error: "),
        (["vary", "{drafts}/1-5.take"], "say what stays: name a scale with --keep"),
        (["vary", "{drafts}/1-5.take", "--keep", "much"], "--keep is a scale such as 9x5"),
        (["vary", "{drafts}/1-5.take", "--keep", "5x5"], "come to 3x3 only"),
        (["vary", "{drafts}/1-5.take", "--keep", "4x4"], "the scales are 1x1, 2x2, 3x3, 5x5"),
        (["vary", "{drafts}/1-5.take", "--keep", "1x1", "--until", "1"], "add --draft"),
        (["vary", "{drafts}/1-5.take", "--keep", "1x1", "--draft", "--crf", "9"], "no video"),
        (["finish", "{drafts}/1-5.take", "--fps", "70"], "1 to 60 pictures a second"),
        (["render", "{drafts}/sheet.png"], "sheet.png' is no take; name one that a sheet shows"),
        (["vary", "{drafts}/1-5.take", "--frames", "2"], "--frames is from when to when"),
        (["vary", "{drafts}/1-5.take", "--frames", "2s-3s"], "no whole quarter of a second"),
        (["vary", "{drafts}/1-5.take", "--region", "1,2,3"], "--region is left, top, width"),
        (["vary", "{drafts}/1-5.take", "--region", "1,2,3,4"], "nothing would be drawn anew"),
        (["vary", "{drafts}/1-5.take", "--region", "0,0,90,90"], "80×80"),
    ],
)
def test_takes_that_cannot_be_continued(
    arguments: list[str],
    said: str,
    drafts: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert run([one.format(drafts=drafts) for one in arguments]) in (1, 2)
    out, err = capfd.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1
    assert list(Path.cwd().iterdir()) == []


def test_the_model_of_a_take_is_looked_up_only_among_istars_own(
    drafts: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    take = Take.load(drafts / "1-5.take")
    other = replace(take, model=replace(take.model, name="someone/else\x1b[31m"))
    other.save("a.take")
    assert run(["finish", "a.take"]) == 1
    err = capfd.readouterr().err
    assert "which is neither a published one nor istar's own; name its directory" in err
    assert "\x1b" not in err
    assert istar("finish", "a.take", "--model", "tiny", "-o", "a.mp4") == ["a.mp4"]


@pytest.mark.parametrize(
    "names", ['["../a.take"]', '["/a.take"]', '[".."]', '["a\\\\b"]', "[3]", "3", "[", '[""]']
)
def test_a_sheet_names_files_beside_it_only(names: str, capfd: pytest.CaptureFixture[str]) -> None:
    picture = torch.zeros((2, 2, 3), dtype=torch.uint8)
    Path("below").mkdir()
    write_picture(picture, Path("below/sheet.png"), metadata={"takes": names})
    assert run(["finish", "below/sheet.png:1"]) == 1
    assert "no sheet of takes" in capfd.readouterr().err


def test_pictures_that_are_no_sheets(capfd: pytest.CaptureFixture[str]) -> None:
    write_picture(torch.zeros((2, 2, 3), dtype=torch.uint8), Path("a.png"))
    Path("b.png").write_text("no picture")
    for name, said in (("a.png", "no sheet of takes"), ("b.png", "neither a picture nor a video")):
        assert run(["finish", f"{name}:1"]) == 1
        assert f"'{name}' is {said}" in capfd.readouterr().err


def test_a_sheet_names_its_takes_in_order(tmp_path: Path) -> None:
    takes = [tmp_path / "2-9.take", tmp_path / "1-8.take"]
    texts = with_takes({"title": "x"}, takes)
    assert texts["title"] == "x"
    sheet = write_picture(
        torch.zeros((2, 2, 3), dtype=torch.uint8), tmp_path / "s.png", metadata=texts
    )
    assert takes_on(sheet) == tuple(takes)


def test_a_take_may_have_the_name_of_a_number_on_a_sheet(drafts: Path) -> None:
    os.link(drafts / "1-5.take", "sheet.png:1")
    assert istar("finish", "sheet.png:1", "-o", "a.mp4") == ["a.mp4"]


@pytest.mark.parametrize(
    ("text", "until"),
    [("32x18", (32, 18)), ("32×18", (32, 18)), ("25%", 0.25), (".5", 0.5), ("1", 1.0)],
)
def test_how_far_a_draft_goes_is_a_scale_or_a_share(text: str, until: Until) -> None:
    assert parse_until(text) == until


@pytest.mark.parametrize("text", ["", "x", "1x", "-1", "nan", "1e3", "٣", "5x5x5", "0.5 "])
def test_what_is_no_scale_and_no_share(text: str) -> None:
    assert parse_scale(text) is None
    with pytest.raises(UsageError):
        parse_until(text)


def test_a_stored_take_is_continued_in_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    istar(*T2V, "--deadline", "0.001s", "-o", "a.mp4")
    (take,) = Path("state/istar/takes").glob("*.take")
    copy = Path("copy.take")
    copy.write_bytes(take.read_bytes())
    # By its name, as the list shows it; in time again.
    istar("finish", take.stem, "--deadline", "0.001s", "-o", "short.mp4")
    assert list(take.parent.iterdir()) == [take]
    assert not Take.load(take).finished
    istar("finish", take.stem, "-o", "b.mp4", "--preview-file", "shown.png")
    assert list(take.parent.iterdir()) == [take]
    assert Take.load(take).finished
    assert read_picture(Path("shown.png")).pixels.shape == (80, 80, 3)
    # A finished one is only decoded, and goes where only unfinished ones are kept.
    monkeypatch.setenv("ISTAR_KEEP_TAKES", "unfinished")
    istar("finish", take.stem, "-o", "c.mp4")
    assert Path("b.mp4").read_bytes() == Path("c.mp4").read_bytes()
    assert list(take.parent.iterdir()) == []
    # An unfinished one goes, too; one that lies elsewhere stays as it is.
    take.write_bytes(copy.read_bytes())
    istar("finish", str(take), str(copy), "-o", "d")
    assert list(take.parent.iterdir()) == []
    assert not Take.load(copy).finished


def no_model(*arguments: object, **options: object) -> None:
    raise AssertionError("a model is loaded")


@pytest.mark.parametrize(
    ("arguments", "variable", "said"),
    [
        (["t2v", "x", "--model", "tiny"], "ISTAR_KEEP_TAKES", "is all or unfinished"),
        (["finish", "{drafts}/1-5.take"], "ISTAR_TAKES_SIZE", "is a size such as"),
        (
            ["t2v", "x", "--model", "tiny", "--draft", "--until", "50x50"],
            "",
            "the scales are 1x1, 2x2, 3x3, 5x5",
        ),
        (
            ["vary", "{drafts}/1-5.take", "--keep", "1x1", "--draft", "--until", "50x50"],
            "",
            "the scales are 1x1, 2x2, 3x3, 5x5",
        ),
        (["finish", "{drafts}/1-5.take", "--model", "480p"], "", "and 480p is another"),
        (["extend", "whole.take", "--model", "480p"], "", "and 480p is another"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_fetched(
    arguments: list[str],
    variable: str,
    said: str,
    drafts: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("istar.pipeline.InfinityStarPipeline.load", no_model)
    if "whole.take" in arguments:
        monkeypatch.setattr(Take, "finished", True)
        Path("whole.take").write_bytes((drafts / "1-5.take").read_bytes())
        monkeypatch.setattr("istar.inputs.check_length", lambda *_: None)
    if variable:
        monkeypatch.setenv(variable, "much")
    assert run([one.format(drafts=drafts) for one in arguments]) in (1, 2)
    assert said in capfd.readouterr().err


def test_a_finished_take_is_decoded_without_the_transformer(
    drafts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    istar("finish", str(drafts / "1-5.take"), "-o", "a.mp4")
    (take,) = Path("state/istar/takes").glob("*.take")
    monkeypatch.setattr("istar.network_files.NetworkFiles.load_blocks", no_model)
    assert run(["finish", take.stem, "-o", "b.mp4"]) == 0
    assert Path("a.mp4").read_bytes() == Path("b.mp4").read_bytes()
