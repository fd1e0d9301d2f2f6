"""Runs as TOML: what is read, and how what makes no sense is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from istar.errors import UsageError
from istar.training.config import (
    MixConfig,
    TokenizerTraining,
    TransformerTraining,
)
from istar.training.prepare_config import PrepareConfig
from istar.training.run_file import read_config

CONFIGS = Path(__file__).parents[2] / "configs"
TOKENIZER = 'model = "m.json"\n[run]\noutput = "out"\nsteps = 10\n'
INHERIT = '[inherit]\nweights = "w.safetensors"\n'
TRANSFORMER = (
    'model = "m.json"\ntokenizer = "t.pth"\n[run]\noutput = "out"\nsteps = 10\n'
    '[data]\nsets = ["one"]\n[[data.mix]]\nseconds = 1\n'
)
PREPARE = (
    'model = "m.json"\ntokenizer = "t.pth"\noutput = "out"\n'
    '[[sets]]\nname = "one"\ncount = 3\nlength = 5\n'
)
LISTED_SET = 'source = "list"\nlist = "l.jsonl"\n'
LISTED = f"[data]\n{LISTED_SET}"


def written(directory: Path, text: str) -> Path:
    path = directory / "run.toml"
    path.write_text(text, encoding="utf-8")
    return path


def kind_of(path: Path) -> type[Any]:
    """What a file of the repository is for; its first line says how it is run."""
    text = path.read_text(encoding="utf-8")
    if "istar prepare" in text:
        return PrepareConfig
    return TokenizerTraining if "istar train tokenizer" in text else TransformerTraining


@pytest.mark.parametrize(
    "path",
    sorted(
        (*CONFIGS.glob("*.toml"), *CONFIGS.glob("tiny-gpu/*.toml"), *CONFIGS.glob("480p/*.toml"))
    ),
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_the_repositorys_recipes_can_be_read(path: Path) -> None:
    config = read_config(path, kind_of(path))
    assert config.model.is_file()


def test_the_recipe_hands_on_what_the_next_stage_takes() -> None:
    """As docs/tiny.md lists it: latents are of the encoder that the last tokenizer still has."""
    page = (CONFIGS.parent / "docs" / "tiny.md").read_text(encoding="utf-8")
    paths = [CONFIGS / name for name in re.findall(r"configs/(\S+\.toml)$", page, re.M)]
    assert sorted(paths) == sorted(CONFIGS.glob("*.toml"))
    *stages, latents, transformer = (read_config(path, kind_of(path)) for path in paths)
    made = [stage.run.output / "model" / "tokenizer.safetensors" for stage in stages]
    assert [stage.inherit.weights for stage in stages] == [None, *made[:-1]]
    last = stages[-1]
    assert last.inherit.freeze == ("encoder",)
    assert last.inherit.until == last.run.steps
    assert latents.tokenizer == last.inherit.weights
    assert transformer.tokenizer == made[-1]
    recipes = [(latents, transformer)]
    recipes.append(
        (
            read_config(CONFIGS / "tiny-gpu" / "latents.toml", PrepareConfig),
            read_config(CONFIGS / "tiny-gpu" / "transformer.toml", TransformerTraining),
        )
    )
    for prepared, run in recipes:
        for held_out, used in ((False, run.data.sets), (True, run.validation.sets)):
            own = {prepared.output / one.name for one in prepared.sets if one.held_out == held_out}
            assert own
            assert set(used) == own
    assert len({path.parent for path in (*made, transformer.run.output)}) == len(paths) - 1


def test_defaults_stand_in_for_what_is_left_out(tmp_path: Path) -> None:
    config = read_config(written(tmp_path, TOKENIZER), TokenizerTraining)
    assert config.run.betas == (0.9, 0.97)
    assert config.inherit.weights is None
    assert config.data.source == "shapes"


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "configs"
    place.mkdir()
    text = TOKENIZER.replace("m.json", "sub/m.json").replace('"out"', '"../out"')
    text += '[inherit]\nweights = "../first/tokenizer.safetensors"\n'
    written(place, text)
    monkeypatch.chdir(tmp_path)
    config = read_config(Path("configs/run.toml"), TokenizerTraining)
    assert config.model == place / "sub" / "m.json"
    assert config.run.output == tmp_path / "out"
    assert config.inherit.weights == tmp_path / "first" / "tokenizer.safetensors"


def test_so_are_what_a_transformer_starts_from(tmp_path: Path) -> None:
    text = 'start = "a"\n' + TRANSFORMER + '[text]\nstart = "b"\n'
    config = read_config(written(tmp_path, text), TransformerTraining)
    assert (config.start, config.text.start) == (tmp_path / "a", tmp_path / "b")
    assert config.data.sets == (tmp_path / "one",)


def test_absolute_paths_and_homes_are_left_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    text = TOKENIZER.replace("m.json", "/models/m.json").replace('"out"', '"~/out"')
    config = read_config(written(tmp_path, text), TokenizerTraining)
    assert config.model == Path("/models/m.json")
    assert config.run.output == tmp_path / "me" / "out"


def test_lists_of_tables(tmp_path: Path) -> None:
    config = read_config(
        written(tmp_path, TRANSFORMER + '[[data.mix]]\nkind = "interact"\nweight = 0.5\n'),
        TransformerTraining,
    )
    assert config.data.mix == (MixConfig(seconds=1), MixConfig(kind="interact", weight=0.5))


WRONG = {
    "unknown": (TOKENIZER + "stepps = 3\n", "stepps"),
    "unknown table": (TOKENIZER + "[runs]\n", "runs"),
    "unknown in a list": (TRANSFORMER + "sekonds = 1\n", "sekonds"),
    "missing": (TOKENIZER.replace("steps = 10\n", ""), "lacks steps"),
    "missing table": ('model = "m.json"\n', "lacks run"),
    "text for a number": (TOKENIZER.replace("10", '"10"'), "run.steps"),
    "fraction for a whole number": (TOKENIZER.replace("10", "10.5"), "run.steps"),
    "boolean for a number": (TOKENIZER + "learning_rate = true\n", "run.learning_rate"),
    "number for a boolean": (TOKENIZER + "[inherit]\nrescale = 1\n", "inherit.rescale"),
    "number for a path": (TOKENIZER.replace('"out"', "3"), "run.output"),
    "empty path": (TOKENIZER.replace('"out"', '""'), "run.output"),
    "unknown home": (TOKENIZER.replace('"out"', '"~nobody-is-called-so/x"'), "run.output"),
    "number for a table": ("model = 'm.json'\nrun = 3\n", "run must be a table"),
    "table for a list": (TRANSFORMER.replace("[[data.mix]]", "[data.mix]"), "data.mix"),
    "too many numbers": (TOKENIZER + "betas = [0.9, 0.9, 0.9]\n", "run.betas"),
    "none of the choices": (TOKENIZER + 'precision = "fp16"\n', "run.precision"),
    "a list for a choice": (TOKENIZER + 'precision = ["fp32"]\n', "run.precision"),
    "infinite": (TOKENIZER + "learning_rate = inf\n", "run.learning_rate"),
    "not a number": (TOKENIZER + "learning_rate = nan\n", "run.learning_rate"),
    "beyond all numbers": (TOKENIZER + f"learning_rate = 1{'0' * 400}\n", "run.learning_rate"),
    "no steps": (TOKENIZER.replace("10", "0"), "steps"),
    "no learning": (TOKENIZER + "learning_rate = 0\n", "learning_rate"),
    "beta of one": (TOKENIZER + "betas = [0.9, 1.0]\n", "betas"),
    "ema above one": (TOKENIZER + "ema = 1.5\n", "ema"),
    "seed below zero": (TOKENIZER + "seed = -1\n", "seed"),
    "seed too large": (TOKENIZER + f"seed = {2**63}\n", "seed"),
    "lengths": (TOKENIZER + "[data]\nlengths = [4]\n", "lengths"),
    "aspects": (TOKENIZER + "[data]\naspects = [0.1]\n", "aspects"),
    "window": (TOKENIZER + "[data]\nwindow = 20\n", "window"),
    "source": (TOKENIZER + '[data]\nsource = "films"\n', "data.source"),
    "source without a list": (TOKENIZER + '[data]\nsource = "list"\n', "list"),
    "sharpness": (TOKENIZER + "[quantizer]\nsharpness = 0\n", "sharpness"),
    "drop_probability": (TOKENIZER + "[quantizer]\ndrop_probability = 2\n", "drop_probability"),
    "weights below zero": (TOKENIZER + "[reconstruction]\nabsolute = -1\n", "absolute"),
    "frozen until when": (TOKENIZER + INHERIT + 'freeze = ["encoder"]\n', "freeze and until"),
    "until what": (TOKENIZER + INHERIT + "until = 5\n", "freeze and until"),
    "rescaled weights": (TOKENIZER + "[inherit]\nrescale = true\n", "no weights to rescale"),
    "frozen weights": (
        TOKENIZER + '[inherit]\nfreeze = ["encoder"]\nuntil = 5\n',
        "no weights to rescale or",
    ),
    "a window of listed clips": (TOKENIZER + LISTED + "window = 16\n", "window is for source"),
    "crops of listed clips": (TOKENIZER + LISTED + "crop = 0.0\n", "crop is for source"),
    "a world of listed clips": (
        TOKENIZER + LISTED + "[data.world]\npairs = 0.0\n",
        "data: world is for source",
    ),
    "captions of a list": (PREPARE + LISTED_SET + "captions = 2\n", "captions is for source"),
    "wording of a list": (PREPARE + LISTED_SET + 'wording = "plain"\n', "wording is for source"),
    "world of a list": (
        PREPARE + LISTED_SET + "[sets.world]\npairs = 0.0\n",
        "sets: world is for source",
    ),
    "seconds of interact": (
        TRANSFORMER + '[[data.mix]]\nkind = "interact"\nseconds = 5\n',
        "mix: interact has no seconds",
    ),
    "sizes of a given encoder": (
        TRANSFORMER + '[text]\nstart = "t5"\nheads = 2\n',
        "text: heads is for a new encoder",
    ),
    "a frozen new encoder": (
        TRANSFORMER + "[text]\ntrain = false\n",
        "text: a new encoder has to learn",
    ),
    "validation of nothing": (
        TRANSFORMER + "[validation]\nevery = 3\n",
        "validation: every is for sets that are measured",
    ),
    "no finest scale": (TRANSFORMER.replace("[[", "finest_share = 0\n[["), "finest_share"),
    "frozen what": (TOKENIZER + '[inherit]\nfreeze = ["middle"]\n', "inherit.freeze"),
    "no sets to learn from": (TRANSFORMER.replace('["one"]', "[]"), "sets"),
    "rows": (TRANSFORMER.replace("[[", "rows = [0]\n[["), "rows"),
    "noise": (TRANSFORMER.replace("[[", "condition_noise = [-0.1]\n[["), "condition_noise"),
    "flips": (TRANSFORMER.replace("[[", "most_flips = 1.1\n[["), "most_flips"),
    "finest": (TRANSFORMER.replace("[[", "finest_share = -0.1\n[["), "finest_share"),
    "mix of nothing": (TRANSFORMER + "weight = 0\n", "mix"),
    "seconds": (TRANSFORMER.replace("seconds = 1", "seconds = 0.3"), "seconds"),
    "no sets to prepare": (PREPARE[: PREPARE.index("[[")] + "sets = []\n", "sets"),
    "two sets of a name": (PREPARE + PREPARE[PREPARE.index("[[") :], "sets"),
    "set outside": (PREPARE.replace('"one"', '"../one"'), "'../one'"),
    "length": (PREPARE.replace("length = 5", "length = 6"), "length"),
    "no clips": (PREPARE.replace("count = 3", "count = 0"), "count"),
    "no aspects": (PREPARE + "aspects = []\n", "aspects"),
    "not TOML": ("model = \n", "TOML"),
}


@pytest.mark.parametrize(("text", "setting"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_named_in_a_line(tmp_path: Path, text: str, setting: str) -> None:
    path = written(tmp_path, text)
    kind: type[Any] = TokenizerTraining
    if "[[sets" in text or ("sets = []\n" in text and "[run]" not in text):
        kind = PrepareConfig
    elif "tokenizer =" in text:
        kind = TransformerTraining
    with pytest.raises(UsageError) as caught:
        read_config(path, kind)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert setting in message
    assert "\n" not in message


@pytest.mark.parametrize("content", [None, b"\xff\xfe"])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "run.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=r"run\.toml (cannot be read|is UTF-16)"):
        read_config(path, TokenizerTraining)
