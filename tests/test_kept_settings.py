"""What every format keeps of how something was made: all of it, or nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields, replace
from pathlib import Path

import pytest

from asking import pictures
from istar import InfinityStarPipeline
from istar.cli.app import run
from istar.clip_format import CLIP_FORMATS, ClipEncoding, Preset
from istar.errors import MediaError
from istar.file_settings import FileSettings, UsedSampling, read_beside, sidecar_of
from istar.media import probe_file, write_clip, write_picture
from istar.models.released import RELEASED_MODELS
from istar.models.repository import HubPlace
from istar.output_names import PICTURE_SUFFIXES
from istar.request import LAST_SEED, GenerationRequest

Captured = pytest.CaptureFixture[str]

SPEC = next(spec for spec in RELEASED_MODELS if spec.name == "480p")
PROMPT, TYPED = "Ein Fuchs «läuft» über den Schnee – 狐 🦊", "ein fuchs"
SETTINGS = replace(
    FileSettings.of(
        GenerationRequest(
            mode="i2v",
            prompt=PROMPT,
            image=Path("a.png"),
            seconds=4.75,
            aspect=2 / 3,
            seed=LAST_SEED,
            negative_prompt="Regen",
            guidance_scale=2.5,
            tau_image=0.75,
            tau_video=0.3,
            suffix=False,
            typed_prompt=TYPED,
        ),
        SPEC,
        device="cuda",
        dtype="fp8",
        place=HubPlace(repository="someone/model", revision="c0ffee" * 6 + "abcd", folder="small"),
        encoding=ClipEncoding(fps=24, crf=18, preset=Preset.SLOW),
    ),
    start=UsedSampling(guidance=SPEC.sampling.guidance, tau=(1.0, 0.5)),
    deadline=20.0,
    unfinished=True,
    varied=True,
    seeds=(1, LAST_SEED),
    cuts=(2,),
)
"""No field is as it is by default."""

STILL = [f"a{suffix}" for suffix in PICTURE_SUFFIXES]
MOVING = [*(f"b{suffix}" for suffix in CLIP_FORMATS), "c/%04d.png"]


def written(name: str, metadata: Mapping[str, str]) -> Path:
    """A file of a format; of numbered pictures one of them."""
    if name in STILL:
        return write_picture(pictures(1)[0], Path(name), metadata=metadata)
    path = write_clip(pictures(5), Path(name), metadata=metadata)
    return path / "0003.png" if path.is_dir() else path


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, brief_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))


@pytest.mark.parametrize("name", STILL + MOVING)
def test_every_setting_is_read_back_from_every_format(name: str) -> None:
    for one in fields(FileSettings):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        assert getattr(SETTINGS, one.name) not in (None, default), one.name
    texts = probe_file(written(name, SETTINGS.texts())).texts
    assert FileSettings.read(texts, name) == SETTINGS
    assert texts["title"] == PROMPT


@pytest.mark.parametrize("name", STILL + MOVING)
def test_without_texts_a_file_says_nothing_of_istar_or_its_encoder(name: str) -> None:
    path = written(name, {})
    assert probe_file(path).texts.get("comment") is None
    held = path.read_bytes().lower()
    for word in (b"istar", b"x264", b"libvpx", b"lavc", b"lavf6", b"pillow", b"itxt", b"exif"):
        assert word not in held
    # The muxer of WebM cannot leave its name out.
    assert held.count(b"lavf") == (2 if name.endswith(".webm") else 0)


MADE = ["a ring \N{DRAGON}", "--seed", "987654321"]
SIGNS = (b"a ring", b"987654321", b"istar", b"random", b"x264")
"""What a file of `MADE` would hold: prompt, seed, and names."""


def settings_of(name: str, capfd: Captured) -> dict[str, object] | None:
    assert run(["info", "--json", name]) == 0
    found = json.loads(capfd.readouterr().out)["istar"]
    return None if found is None else dict(found)


def test_a_sidecar_has_what_the_file_leaves_out(capfd: Captured) -> None:
    typed = ["t2v", *MADE, "--seconds", "1"]
    assert run([*typed, "-o", "full.mp4"]) == 0
    assert not sidecar_of(Path("full.mp4")).exists()
    assert run([*typed, "--no-metadata", "--sidecar", "-o", "bare.mp4"]) == 0
    held = Path("bare.mp4").read_bytes()
    assert [sign for sign in SIGNS if sign in held] == []
    assert all(sign in Path("full.mp4").read_bytes() for sign in SIGNS)
    capfd.readouterr()
    told = settings_of("bare.mp4", capfd)
    assert told == settings_of("full.mp4", capfd)
    assert json.loads(Path("bare.mp4.json").read_text(encoding="utf-8")) == {"istar": told}
    assert run(["t2v", "--from", "bare.mp4", "-o", "again.mp4"]) == 0
    assert Path("again.mp4").read_bytes() == Path("full.mp4").read_bytes()
    # Without it there is nothing.
    Path("bare.mp4.json").unlink()
    capfd.readouterr()
    assert settings_of("bare.mp4", capfd) is None
    # One that is there is kept.
    Path("new.mp4.json").write_text("mine", encoding="utf-8")
    assert run([*typed, "--sidecar", "-o", "new.mp4"]) == 1
    error = capfd.readouterr().err.splitlines()[-1]
    assert "'new.mp4.json' exists" in error
    assert (Path("new.mp4.json").read_text(), Path("new.mp4").exists()) == ("mine", False)
    assert run([*typed, "--sidecar", "-o", "-"]) == 2
    assert run([*typed, "--sidecar", "-o", f"{'x' * 250}.mp4"]) == 1
    assert run([*typed, "--draft", "--no-metadata", "-o", "drafts"]) == 2


def test_what_takes_give_can_keep_settings_apart_too(
    brief_checkpoint: Path, capfd: Captured
) -> None:
    pipeline = InfinityStarPipeline.from_pretrained(brief_checkpoint, device="cpu")
    request = GenerationRequest(mode="t2v", prompt="a ring", seed=987654321, seconds=1)
    take = pipeline.draft(request)
    take.save("a.take")
    for command, output, written in (
        (["render"], "a.mp4", "a.mp4"),
        (["render"], "frames/%04d.png", "frames/0001.png"),
        (["finish"], "b.mp4", "b.mp4"),
        (["vary", "--keep", "1x1"], "c.mp4", "c.mp4"),
    ):
        first, *more = command
        apart = ["--no-metadata", "--sidecar", "-o", output]
        assert run([first, "a.take", *more, *apart]) == 0
        held = Path(written).read_bytes()
        assert [sign for sign in SIGNS if sign in held] == []
        capfd.readouterr()
        found = settings_of(written, capfd)
        assert found is not None
        assert found["prompt"] == "a ring"


def test_the_sidecar_of_an_interactive_video_grows_with_it(capfd: Captured) -> None:
    Path("story.txt").write_text("a ring moves left\nit moves right\n", encoding="utf-8")
    assert run(["interact", "--script", "story.txt", "-o", "a.mp4", "--sidecar"]) == 0
    found = read_beside(Path("a.mp4"))
    assert found is not None
    assert found.prompts == ("a ring moves left", "it moves right")
    Path("more.txt").write_text("it stops\n", encoding="utf-8")
    apart = ["--sidecar", "--no-metadata"]
    assert run(["interact", "a.session", "--script", "more.txt", *apart]) == 0
    capfd.readouterr()
    told = settings_of("a.mp4", capfd)
    assert told is not None
    assert told["prompt"] == ["a ring moves left", "it moves right", "it stops"]
    held = Path("a.mp4").read_bytes()
    assert [sign for sign in (b"moves", b"istar", b"x264", b"Lavf") if sign in held] == []


def test_a_cut_jpeg_is_whole_with_its_sidecar(capfd: Captured) -> None:
    assert run(["t2i", "x" * 70_000, "--sidecar", "-o", "a.jpg"]) == 0
    capfd.readouterr()
    assert run(["info", "a.jpg"]) == 0
    assert "are cut" not in capfd.readouterr().out
    told = settings_of("a.jpg", capfd)
    assert told is not None
    assert told["prompt"] == "x" * 70_000
    assert run(["t2i", "--from", "a.jpg", "-o", "b.png"]) == 0


def test_what_lies_beside_a_file_of_others_is_not_taken_for_a_sidecar() -> None:
    for held in ("", "hello", "[]", '{"istar-like": 1}'):
        Path("a.png.json").write_text(held, encoding="utf-8")
        assert read_beside(Path("a.png")) is None
    Path("a.png.json").write_text('{"istar": {"seed": "x"}}', encoding="utf-8")
    with pytest.raises(MediaError, match=r"'.*a\.png\.json' are damaged"):
        read_beside(Path("a.png"))
