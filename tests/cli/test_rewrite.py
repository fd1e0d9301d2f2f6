"""`istar rewrite` and `--rewrite`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from chat_server import Chat, chat_server
from istar.cli.app import run
from istar.media import write_picture
from istar.rewriting import instructions
from istar.take import Take
from parrot import SAYS, write_parrot

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_place(tmp_path: Path, brief_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty current directory, a small model, and nothing that names a language model."""
    monkeypatch.chdir(tmp_path)
    for name in ("URL", "MODEL", "PROMPTS", "TIMEOUT", "TOKEN"):
        monkeypatch.delenv(f"ISTAR_REWRITE_{name}", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))
    monkeypatch.setenv("HF_TOKEN", "hf_notARealToken")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    """An endpoint that the environment names."""
    with chat_server() as chat:
        monkeypatch.setenv("ISTAR_REWRITE_URL", chat.url)
        chat.says('"A bright ring turns\nto the left."')
        yield chat


def said(arguments: list[str], capfd: Captured, code: int = 0) -> tuple[str, str]:
    """What a command prints and says."""
    found = run(arguments)
    printed = capfd.readouterr()
    assert found == code, printed.err
    return printed.out, printed.err


REWRITTEN = "A bright ring turns to the left."


def test_a_richer_prompt_is_printed(
    chat: Chat, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said(["rewrite", "a ring"], capfd) == (f"{REWRITTEN}\n", "")
    monkeypatch.setenv("ISTAR_REWRITE_MODEL", "qwen")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1\n")
    said(["rewrite", "a ring", "--mode", "i2v"], capfd)
    monkeypatch.setenv("ISTAR_REWRITE_TOKEN", "sk-2")
    Path("own").mkdir()
    Path("own/t2i.txt").write_text("Paint it.", encoding="utf-8")
    monkeypatch.setenv("ISTAR_REWRITE_PROMPTS", "own")
    said(["rewrite", "a ring", "--mode", "t2i", "--rewriter", "llama"], capfd)
    authorizations, models, asked = zip(
        *(
            (one["authorization"], one["model"], one["messages"][0]["content"])
            for one in chat.asked
        ),
        strict=True,
    )
    assert authorizations == ("Bearer EMPTY", "Bearer sk-1", "Bearer sk-2")
    assert models[1:] == ("qwen", "llama")
    assert asked == (instructions("t2v"), instructions("i2v"), "Paint it.")


def test_where_no_prompt_comes_rewrite_fails(
    chat: Chat, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat.fails(401)
    out, err = said(["rewrite", "a ring"], capfd, 1)
    assert (out, len(err.splitlines())) == ("", 1)
    assert "ISTAR_REWRITE_TOKEN" in err
    chat.body = None
    assert "wait longer" in said(["rewrite", "a ring", "--timeout", "0.2"], capfd, 1)[1]
    for arguments in (["--url", "https://me:secret@example.org"], ["--timeout", "0"]):
        err = said(["rewrite", "a ring", *arguments], capfd, 2)[1]
        assert (len(err.splitlines()), "secret" in err) == (1, False)
    assert "is empty" in said(["rewrite", " "], capfd, 2)[1]
    monkeypatch.setenv("ISTAR_REWRITE_TIMEOUT", "soon")
    assert "not 'soon'" in said(["rewrite", "a ring"], capfd, 2)[1]
    monkeypatch.delenv("ISTAR_REWRITE_URL")
    assert "rewrite.url" in said(["rewrite", "a ring"], capfd, 2)[1]
    err = said(["t2i", "a ring", "--rewrite"], capfd, 2)[1]
    assert "rewrite.url" in err
    assert list(Path.cwd().glob("*.png")) == []


def test_what_was_typed_and_what_came_of_it_are_in_the_file(chat: Chat, capfd: Captured) -> None:
    made = ["t2i", "--seed", "7"]
    err = said([*made, "a ring", "--rewrite", "-o", "a.png"], capfd)[1]
    assert f"rewritten: {REWRITTEN}" in err
    out, _ = said(["info", "a.png"], capfd)
    rows = [" ".join(row.split()) for row in out.splitlines()]
    assert rows[1:3] == [f"prompt {REWRITTEN}", "typed a ring"]
    # The same again asks nobody.
    said(["t2i", "--from", "a.png", "-o", "b.png"], capfd)
    assert len(chat.asked) == 1
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    said([*made, REWRITTEN, "-o", "c.png"], capfd)
    settings = [
        json.loads(line)["istar"]
        for line in said(["info", "--json", "a.png", "c.png"], capfd)[0].splitlines()
    ]
    assert settings[0].pop("typed_prompt") == "a ring"
    assert settings[0] == settings[1]
    # Once more is from what was typed.
    said(["t2i", "--from", "a.png", "--rewrite", "-o", "d.png"], capfd)
    assert chat.asked[1]["messages"][1]["content"] == "a ring"
    # A prompt that is typed now was not rewritten.
    said(["t2i", "a star", "--from", "a.png", "-o", "e.png"], capfd)
    found = json.loads(said(["info", "--json", "e.png"], capfd)[0])["istar"]
    assert (found["prompt"], "typed_prompt" in found) == ("a star", False)


def test_a_video_and_its_take_know_both(chat: Chat, capfd: Captured) -> None:
    write_picture(torch.full((64, 64, 3), 80, dtype=torch.uint8), Path("c.png"))
    said(["i2v", "c.png", "a ring", "--seconds", "1", "--rewrite", "-o", "a.mp4"], capfd)
    found = json.loads(said(["info", "--json", "a.mp4"], capfd)[0])["istar"]
    assert (found["prompt"], found["typed_prompt"]) == (REWRITTEN, "a ring")
    typed = ["t2v", "a ring", "--draft", "--until", "1x1", "--rewrite", "-o", "drafts"]
    said([*typed, "--seed", "3"], capfd)
    take = Take.load(Path("drafts/1-3.take"))
    assert (take.request.prompt, take.request.typed_prompt) == (REWRITTEN, "a ring")
    kept = take.varied(keep=(1, 1), seed=1).request
    assert kept.typed_prompt == "a ring"
    assert take.varied(keep=(1, 1), seed=1, prompt="a star").request.typed_prompt is None
    assert "no prompt" in said(["i2v", "c.png", "--rewrite"], capfd, 2)[1]
    # A line without a prompt is made as it is.
    Path("list.txt").write_text('{"seconds": 1}\n{"prompt": "a ring", "seconds": 1}\n')
    typed = ["i2v", "c.png", "--prompts", "list.txt", "--rewrite", "-o", "{number}.mp4"]
    assert said(typed, capfd)[0] == "1.mp4\n2.mp4\n"
    both = said(["info", "--json", "1.mp4", "2.mp4"], capfd)[0].splitlines()
    assert [json.loads(line)["istar"]["prompt"] for line in both] == ["", REWRITTEN]


def test_without_an_answer_the_prompt_stays(
    chat: Chat, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["t2i", "a ring", "--seed", "7"]
    said([*typed, "-o", "plain.png"], capfd)
    monkeypatch.setenv("ISTAR_REWRITE_TIMEOUT", "0.2")
    for name, status, body in (
        ("down", 500, b""),
        ("slow", 200, None),
        ("wrong", 200, b"hello"),
        ("empty", 200, b'{"choices": [{"message": {"content": ""}}]}'),
    ):
        chat.status, chat.body = status, body
        # However quiet the command is.
        (line,) = said([*typed, "--rewrite", "-q", "-o", f"{name}.png"], capfd)[1].splitlines()
        assert line.endswith("the prompt stays as it is")
        assert Path(f"{name}.png").read_bytes() == Path("plain.png").read_bytes()


def test_a_model_here_rewrites_too(capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parrot(Path("parrot"))
    capfd.readouterr()
    assert said(["rewrite", "a ring", "--rewriter", "parrot"], capfd) == (f"{SAYS}\n", "")
    monkeypatch.setenv("ISTAR_REWRITE_MODEL", "./parrot")
    err = said(["t2i", "a ring", "--rewrite", "-o", "a.png"], capfd)[1]
    assert f"rewritten: {SAYS}" in err
    assert SAYS in said(["info", "a.png"], capfd)[0]
    err = said(["rewrite", "a ring", "--rewriter", "someone/absent"], capfd, 1)[1]
    assert "hf download someone/absent" in err


def test_the_examples_of_the_page_work(
    chat: Chat, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("config.toml").touch()
    monkeypatch.setenv("ISTAR_CONFIG", "config.toml")
    page = Path(__file__).parents[2] / "docs" / "rewriting.md"
    text = page.read_text(encoding="utf-8").replace("http://localhost:11434/v1", chat.url)
    commands = re.findall(r"^\$ (.*)$", text, re.MULTILINE)
    for command in commands:
        _, *words = shlex.split(command)
        said(words, capfd)
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(snippet, page.name, "exec"), names)
    assert names["prompt"] == REWRITTEN
    assert [asked["model"] for asked in chat.asked[2:]] == ["qwen3:8b"] * 2
