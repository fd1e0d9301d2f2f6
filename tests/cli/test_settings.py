from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from istar.cli.app import app, run
from istar.cli.commands import ENTRIES
from istar.cli.option_types import Memory, NumberType, Resolution
from istar.cli.options import CommonOptions
from istar.cli.rewrite import RewriteSettings
from istar.cli.setting_table import SETTINGS
from istar.cli.settings import values_in_file
from istar.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The settings' file, which is not there yet; the current directory is empty."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.delenv("VISUAL", raising=False)
    monkeypatch.delenv("EDITOR", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "config" / "istar" / "config.toml"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[CommonOptions, float | None]]:
    """The options and the seconds with which a command makes a request; it ends there."""
    seen: list[tuple[CommonOptions, float | None]] = []

    def request(self: CommonOptions, *_: Any, seconds: float | None = None, **__: Any) -> None:
        seen.append((self, seconds))
        raise UsageError("enough")

    monkeypatch.setattr(CommonOptions, "request", request)
    return seen


def test_what_is_typed_counts_most_then_the_environment_then_the_command_then_the_file(
    file: Path,
    asked: list[tuple[CommonOptions, float | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(
        file,
        'model = "tiny"\nseconds = 2\naspect = "1:1"\npreview = false\n'
        '[t2v]\nseconds = 3\n[extend]\nseconds = 0.25\n[rewrite]\nmodel = "other"\n',
    )
    for arguments, variable, seconds in (
        (["i2v", "a.png", "x"], None, 2.0),
        (["t2v", "x"], None, 3.0),
        (["t2v", "x"], "4", 4.0),
        (["t2v", "x", "--seconds", "5"], "4", 5.0),
    ):
        if variable:
            monkeypatch.setenv("ISTAR_SECONDS", variable)
        Path("a.png").write_bytes(b"a picture")
        assert run(arguments) == 2
        options, found = asked.pop()
        assert (options.model, options.aspect, found) == ("tiny", "1:1", seconds)
        assert not options.model_is_typed
    assert run(["t2v", "x", "--model", "480p"]) == 2
    options, _ = asked.pop()
    assert (options.model, options.model_is_typed) == ("480p", True)


def test_a_setting_yields_to_what_it_does_not_go_with(
    file: Path, asked: list[tuple[CommonOptions, float | None]]
) -> None:
    write(file, 'res = "480p"\npreview = true\noutput = "videos/"\ndtype = "fp32"\n')
    assert run(["t2v", "x"]) == 2
    assert run(["t2v", "x", "--model", "tiny"]) == 2
    assert run(["t2v", "x", "--draft"]) == 2
    (auto, _), (named, _), (draft, _) = asked
    assert (auto.res, auto.output) == ("480p", "videos/")
    assert (named.res, named.output) == (None, "videos/")
    # Drafts are refused with previews, and get a directory of their own.
    assert (draft.preview, draft.output) == (False, None)

    counts = {name: setting.counts for name, setting in SETTINGS.items()}
    for output, encoded in (
        (None, True),
        ("videos/", True),
        ("a.webm", True),
        ("a.gif", False),
        ("frames/%04d.png", False),
    ):
        assert counts["crf"]({"output": output}) is encoded
        assert not counts["preset"]({"output": output, "draft": True})
    Path("a.session").mkdir()
    Path("a.session/session.json").touch()
    Path("a.mp4").touch()
    for name in ("aspect", "guidance", "dtype"):
        for clip in ("a.take", "a.session", "name-in-the-store"):
            assert not counts[name]({"clip": Path(clip)})
        assert counts[name]({"clip": Path("a.mp4")})
    assert counts["seconds"]({"clip": Path("a.take")})


def test_settings_reach_benchmarks_and_the_rewriter(
    file: Path,
    asked: list[tuple[CommonOptions, float | None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(file, 'res = "480p"\ndtype = "fp32"\nmemory = "low"\ndevice = "cpu"\n')
    Path("list.json").write_text('[{"prompt_en": "x", "dimension": ["color"]}]')
    run(["eval", "prompts", "vbench", "list.json", "-o", "made"])
    options, _ = asked[0]
    assert options.res is Resolution.P480
    assert (options.dtype, options.memory) == (NumberType.FP32, Memory.LOW)

    def answering(_: RewriteSettings, device: str) -> None:
        raise UsageError(f"on {device}")

    monkeypatch.setattr(RewriteSettings, "answering", answering)
    with pytest.raises(UsageError, match="on cpu"):
        app(["rewrite", "x", "--rewriter", "m"], standalone_mode=False)


def test_a_file_is_made_again_whatever_is_set(file: Path) -> None:
    assert run(["t2i", "x", "--model", "tiny", "--seed", "3", "-o", "a.png"]) == 0
    write(file, 'model = "480p"\nres = "720p"\naspect = "1:3"\nguidance = 9\ndtype = "bf16"\n')
    assert run(["t2i", "--from", "a.png", "-o", "b.png"]) == 0
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()


REFUSED = [
    ("model", '"TINY"', "did you mean tiny?"),
    ("model", '""', "is empty"),
    ("res", '"1080p"', "192p"),
    ("aspect", '"16x9"', "16:9"),
    ("seconds", "1.1", "multiple of 0.25"),
    ("seconds", "0.25", "must be 1 to"),
    ("seconds", "nan", "nan"),
    ("guidance", "inf", "a number up to"),
    ("device", '"tpu"', "auto, cuda"),
    ("dtype", '"int4"', "int8"),
    ("memory", '"most"', "stream"),
    ("crf", "64", "1 to 63"),
    ("preset", '"hasty"', "veryslow"),
]


@pytest.mark.parametrize(("name", "value", "said"), REFUSED)
def test_the_file_the_variable_and_config_set_refuse_what_the_option_refuses(
    name: str,
    value: str,
    said: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    text = value.strip('"')

    def refused(*arguments: str) -> str:
        assert run(arguments) == 2
        (line,) = capfd.readouterr().err.splitlines()
        assert said in line
        return line

    refused("t2v", "x", f"--{name}", text, "-o", "a.webm", "--seed", "1")
    refused("config", "set", name, text)
    assert not file.exists()
    if text:  # an empty variable is none
        with monkeypatch.context() as environment:
            environment.setenv(SETTINGS[name].variable, text)
            line = refused("t2v", "x")
            assert name == "model" or SETTINGS[name].variable in line
    write(file, f"{name} = {value}\n")
    line = refused("t2v", "x")
    assert text == "TINY" or str(file) in line
    assert f"--{name}" not in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seconds = 2\nmodel =\n", "is not TOML: Invalid value (at line 2, column 8)"),
        ("secnds = 2\n", "there is no setting 'secnds'; did you mean seconds?"),
        ("[t2i]\nseconds = 2\n", "t2i has no setting 'seconds'"),
        ("[rewrite]\nport = 2\n", "there is no setting 'rewrite.port'"),
        ('seconds = "2"\n', "seconds is a number, not '2'"),
        ("preview = 1\n", "preview is true or false, not 1"),
        ("crf = 16.0\n", "crf is a whole number, not 16.0"),
        ("model = 480\n", "model is a text, not 480"),
        ("model = [1]\n", "model is a text, not [1]"),
        ('keep-takes = "some"\n', "keep-takes is all or unfinished, not 'some'"),
        ('takes-size = "much"\n', "takes-size is a size such as 500MB"),
        ('[rewrite]\nurl = "file:///etc"\n', "rewrite.url: the rewriter's address is not valid"),
        (
            '[rewrite]\nurl = "http://me:secret@host/v1"\n',
            "address has credentials in it",
        ),
        ("[rewrite]\ntimeout = 7200\n", "3600 at most, not 7200"),
        ("[rewrite]\ntimeout = 0\n", "3600 at most, not 0"),
    ],
)
def test_what_is_wrong_in_the_file_is_one_line(
    text: str, said: str, file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(file, text)
    for arguments in (["t2v", "x"], ["config", "show"]):
        assert run(arguments) == 2
        out, err = capfd.readouterr()
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith(f"istar: error: {file}")
        assert said in line
    assert run(["t2v", "--help"]) == 0
    out, err = capfd.readouterr()
    assert "Usage: istar t2v" in out
    assert err.startswith(f"istar: no settings are used: {file}")
    # Commands without settings are not concerned.
    assert run(["models", "list"]) == 0


def test_show_says_where_each_value_comes_from(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    write(file, 'seconds = 2\n[t2v]\nseconds = 10\naspect = "1:1"\n[rewrite]\nmodel = "m"\n')
    monkeypatch.setenv("ISTAR_PREVIEW", "yes")
    monkeypatch.setenv("ISTAR_ASPECT", "4:3")
    assert run(["config", "show"]) == 0
    rows = {line.split()[0]: line.split() for line in capfd.readouterr().out.splitlines()}
    assert list(rows) == ["NAME", *SETTINGS, "t2v.seconds", "t2v.aspect"]
    assert rows["seconds"] == ["seconds", "2", str(file)]
    assert rows["t2v.seconds"] == ["t2v.seconds", "10", str(file)]
    assert rows["t2v.aspect"] == ["t2v.aspect", "4:3", "ISTAR_ASPECT"]
    assert rows["rewrite.model"] == ["rewrite.model", "m", str(file)]
    assert rows["preview"] == ["preview", "true", "ISTAR_PREVIEW"]
    assert rows["memory"] == ["memory", "(auto)", "default"]
    assert run(["config", "show", "--json"]) == 0
    found = {one["name"]: one for one in json.loads(capfd.readouterr().out)}
    assert list(found) == [name for name in rows if name != "NAME"]
    assert found["preview"] == {
        "name": "preview",
        "value": True,
        "source": "environment",
        "origin": "ISTAR_PREVIEW",
        "default": False,
    }
    assert (found["crf"]["value"], found["crf"]["source"]) == (None, "default")
    for name, shown in (("t2v.seconds", "10"), ("preview", "true"), ("memory", "auto")):
        assert run(["config", "show", name]) == 0
        assert capfd.readouterr().out == f"{shown}\n"


def test_the_name_of_one_file_is_no_place_for_every_result(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "set", "output", "clip.mp4"]) == 2
    assert "'clip.mp4' is one file" in capfd.readouterr().err
    for value in ("clips/", "{seed}.mp4", str(file.parent.parent)):
        assert run(["config", "set", "output", value]) == 0


def test_set_and_unset_leave_the_rest_of_the_file_as_it_is(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before = '# mine\nmodel = "480p"  # for now\n\n[t2v]\n# long\nseconds = 10\n'
    dotfile = file.parent.parent / "dotfiles.toml"
    write(dotfile, before)
    file.parent.mkdir()
    file.symlink_to(dotfile)

    for name, value in (
        ("crf", "20"),
        ("guidance", "-1"),
        ("rewrite.url", "http://localhost:1/v1"),
        ("model", "tiny"),
    ):
        assert run(["config", "set", name, value]) == 0
        assert capfd.readouterr().out == f"{file}\n"
    assert file.is_symlink()
    text = dotfile.read_text(encoding="utf-8")
    assert tomllib.loads(text) == {
        "model": "tiny",
        "crf": 20,
        "guidance": -1,
        "t2v": {"seconds": 10},
        "rewrite": {"url": "http://localhost:1/v1"},
    }
    assert "# mine\n" in text
    assert "# for now\n" in text
    assert "# long\n" in text

    monkeypatch.setenv("ISTAR_MODEL", "720p")
    assert run(["config", "set", "model", "480p"]) == 0
    assert capfd.readouterr().err == "istar: ISTAR_MODEL is set and counts more\n"
    for name in ("crf", "guidance", "rewrite.url"):
        assert run(["config", "unset", name]) == 0
    capfd.readouterr()
    assert run(["config", "set", "t2v.crf", "60"]) == 0
    assert "MP4 is 1 to 51, not 60" in capfd.readouterr().err
    assert run(["config", "set", "t2v.crf", "51"]) == 0
    assert capfd.readouterr().err == ""
    assert run(["config", "unset", "t2v.crf"]) == 0
    assert dotfile.read_text(encoding="utf-8").startswith(before.rstrip())
    assert not list(file.parent.parent.glob("*.tmp*"))


def test_what_is_unknown_can_be_unset_and_what_is_not_there_cannot(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write(file, "secnds = 2\n")
    assert run(["config", "unset", "secnds"]) == 0
    assert file.read_text(encoding="utf-8") == ""
    capfd.readouterr()
    for name in ("seconds", "t2v.seconds", "no.such.thing"):
        assert run(["config", "unset", name]) == 2
        assert f"does not set '{name}'" in capfd.readouterr().err
    write(file, "rewrite = 1\n")
    assert run(["config", "set", "rewrite.model", "m"]) == 2
    assert "rewrite is a value there, not a table" in capfd.readouterr().err
    write(file, "model = \n")
    assert run(["config", "set", "crf", "20"]) == 2
    assert "is not TOML" in capfd.readouterr().err
    assert file.read_text(encoding="utf-8") == "model = \n"


def test_edit_opens_a_file_that_names_every_setting_and_checks_it(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(["config", "edit"]) == 2
    assert "set VISUAL or EDITOR" in capfd.readouterr().err
    for editor, code in (("false", 1), ("no-such-editor", 1), ("'", 1), ("true", 0)):
        monkeypatch.setenv("EDITOR", editor)
        assert run(["config", "edit"]) == code
    text = file.read_text(encoding="utf-8")
    assert tomllib.loads(text) == {"rewrite": {}}
    for name in SETTINGS:
        assert f"\n# {name.rpartition('.')[2]} =\n" in text
    monkeypatch.setenv("VISUAL", 'sh -c \'echo "[t2v]\ncrf = 999" >> "$1"\' sh')
    capfd.readouterr()
    assert run(["config", "edit"]) == 2
    assert f"{file}: crf: the rate factor" in capfd.readouterr().err


def test_another_file_can_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "new" / "other.toml"
    monkeypatch.setenv("ISTAR_CONFIG", str(other))
    assert run(["t2v", "x"]) == 2
    assert f"there is no '{other}', which ISTAR_CONFIG names" in capfd.readouterr().err
    assert run(["t2v", "--help"]) == 0
    assert capfd.readouterr().err == ""
    assert run(["config", "set", "debug", "on"]) == 0
    assert capfd.readouterr().out == f"{other}\n"
    assert run(["config", "set", "crf", "99"]) == 2
    assert "Traceback" in capfd.readouterr().err
    assert run(["config", "path"]) == 0
    assert capfd.readouterr().out == f"{other}\n"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ISTAR_CONFIG", str(tmp_path / "file" / "config.toml"))
    assert run(["config", "set", "crf", "20"]) == 1
    assert "cannot write" in capfd.readouterr().err.splitlines()[-1]


def parameters(command: Any) -> dict[str, Any]:
    """The parameters of a command, or of all commands of a group."""
    inner = getattr(command, "commands", {}).values()
    found = {one.name: one for one in command.params}
    return {**found, **{name: one for each in inner for name, one in parameters(each).items()}}


def test_the_table_is_of_options_that_commands_have() -> None:
    main = typer.main.get_command(app)
    context = typer.Context(main)
    of = {name: parameters(main.get_command(context, name)) for name in ENTRIES}
    for name, setting in SETTINGS.items():
        for command in setting.commands:
            assert name in of[command], (name, command)
        if "t2v" in setting.commands:
            option = of["t2v"][name]
            default = getattr(option.default, "value", option.default)
            words = option.show_default if isinstance(option.show_default, str) else default
            assert setting.default == words, name


PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_what_the_page_shows_can_be_done(file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    commands = re.findall(r"^\$ istar (.*)$", page, re.M)
    assert commands
    for command in commands:
        assert run(command.split()) == 0
    assert "tiny" in capfd.readouterr().out
    (shown,) = re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S)
    write(file, shown)
    assert set(values_in_file()) >= {"model", "t2v.seconds", "extend.seconds", "rewrite.url"}


def test_the_page_lists_the_settings() -> None:
    page = PAGE.read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{name}` | {one.help} | {one.default_in_words} | `{one.variable}` |"
        for name, one in SETTINGS.items()
    ]
