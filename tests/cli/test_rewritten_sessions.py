"""`--rewrite` in `interact`: of scripts, of prompts that are typed one by one, and of stories."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from asking import pictures
from chat_server import Chat, chat_server
from istar import InfinityStarPipeline
from istar.cli.app import run
from istar.cli.interact import InteractOptions
from istar.media import write_picture
from istar.rewriting import instructions
from istar.take import Take
from parrot import SAYS, write_parrot

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def own_place(brief_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ISTAR_MODEL", str(brief_checkpoint))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)


@pytest.fixture
def chat(monkeypatch: pytest.MonkeyPatch) -> Iterator[Chat]:
    """An endpoint that the environment names; its answer to `one` is `a rich one`."""
    with chat_server() as chat:
        monkeypatch.setenv("ISTAR_REWRITE_URL", chat.url)
        chat.answers = lambda text: f"a rich {text}"
        yield chat


def interact(capfd: Captured, *arguments: str, code: int = 0) -> str:
    """What `istar interact` says."""
    found = run(["interact", *arguments])
    said = capfd.readouterr().err
    assert found == code, said
    return said


def prompts(path: str) -> list[tuple[str, str]]:
    """What a take's prompts were typed as, and what became of them."""
    request = Take.load(path).request
    return list(zip(request.typed_prompts, request.prompts, strict=True))


def asked(chat: Chat) -> list[str]:
    """The prompts that the endpoint was asked for since the last time."""
    texts = [str(one["messages"][1]["content"]) for one in chat.asked]
    chat.asked.clear()
    return texts


def test_a_script_is_rewritten_before_the_model_is_loaded(
    chat: Chat, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, asked_before = InfinityStarPipeline.load, []

    def loaded(*arguments: Any, **named: Any) -> InfinityStarPipeline:
        asked_before.append([one["messages"][0]["content"] for one in chat.asked])
        return load(*arguments, **named)

    monkeypatch.setattr(InfinityStarPipeline, "load", loaded)
    Path("lines.txt").write_text("one\n/draft 2\ntwo\n1\n")
    script = ("--script", "lines.txt", "-o", "a.mp4", "--seed", "1")
    # 1. The video shows nothing before the first prompt.
    said = interact(capfd, *script, "--rewrite")
    assert "rewritten: a rich one" in said
    assert asked_before == [[instructions("t2v"), instructions("interact")]]
    assert asked(chat) == ["one", "two"]
    both = [("one", "a rich one"), ("two", "a rich two")]
    assert prompts("a.session/main.take") == both
    varied = Take.load("a.session/main.take").varied(keep=(1, 1), seed=1, prompt="x").request
    assert varied.typed_prompts == ("x", "two")
    # 2. Both are in the file, and the same again asks nobody.
    assert run(["info", "a.mp4"]) == 0
    rows = [" ".join(row.split()) for row in capfd.readouterr().out.splitlines()]
    assert rows[1:5] == ["prompt a rich one", "typed one", "prompt a rich two", "typed two"]
    interact(capfd, "--from", "a.mp4", "-o", "b.mp4", "--no-take")
    assert asked(chat) == []
    assert run(["info", "--json", "b.mp4"]) == 0
    assert json.loads(capfd.readouterr().out)["istar"]["typed_prompt"] == ["one", "two"]
    # 3. The session continues; a clip that is made again keeps its prompt, and one that is undone
    # takes both.
    Path("lines.txt").write_text("three\n/again\nfour\n/undo\n")
    said = interact(capfd, "a.session", "--script", "lines.txt", "--rewrite")
    assert "on main, after 2 prompts; the last is 'two'" in said
    assert asked(chat) == ["three", "four"]
    assert prompts("a.session/main.take") == [*both, ("three", "a rich three")]
    # 4. A plan asks nobody, and neither does a run that cannot be.
    interact(capfd, *script, "--rewrite", "--dry-run")
    Path("story.toml").write_text('[[scene]]\nprompt = "one"\n')
    for file in ("lines.txt", "story.toml"):
        interact(capfd, "--script", file, "--rewrite", "--model", "nosuch", code=2)
        interact(capfd, "--script", file, "--rewrite", "-o", "nowhere/a.mp4", code=1)
    interact(capfd, "--from", "a.mp4", "--rewrite", "-o", "nowhere/a.mp4", code=1)
    assert asked(chat) == []
    # 5. What --from names is rewritten once more, from what was typed.
    chat.answers = lambda text: f"another {text}"
    interact(capfd, "--from", "b.mp4", "--rewrite", "-o", "c.mp4")
    assert prompts("c.session/main.take") == [("one", "another one"), ("two", "another two")]


def test_prompts_that_are_typed_are_rewritten_by_an_endpoint(
    chat: Chat, capfd: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    refused = ["one", "one"]
    made = ["/nonsense", "one", "/draft 2", "two", "2", "/undo", "/undo", "three", ""]
    lines = iter([*refused, *made])
    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("istar.cli.session_lines.ask", lambda question: next(lines))
    # Nobody is asked for a video that cannot be.
    interact(capfd, "-o", "nowhere/a.mp4", "--rewrite", code=1)
    interact(capfd, "-o", "a.gif", "--rewrite", code=2)
    assert asked(chat) == []
    said = interact(capfd, "-o", "a.mp4", "--rewrite", "-q")
    assert prompts("a.session/main.take") == [("one", "a rich one"), ("three", "a rich three")]
    assert [one["messages"][0]["content"] for one in chat.asked] == [
        instructions("t2v"),
        *[instructions("interact")] * 2,
    ]
    assert asked(chat) == ["one", "two", "three"]
    # Somebody who types hears what cannot be done, and nothing else.
    assert [line.partition(";")[0] for line in said.splitlines()] == [
        "istar: there is no command /nonsense",
        "istar: the last prompt is the only one, and cannot be taken back",
    ]
    # A language model here would be loaded again and again, so a command that continues leaves
    # --rewrite out; a script it gets at once.
    assert InteractOptions(rewrite=True).words == ["--rewrite"]
    write_parrot(Path("parrot"))
    capfd.readouterr()
    monkeypatch.delenv("ISTAR_REWRITE_URL")
    monkeypatch.setenv("ISTAR_REWRITE_MODEL", "./parrot")
    assert InteractOptions(rewrite=True).words == []
    said = interact(capfd, "-o", "b.mp4", "--rewrite", code=2)
    assert "a model here would be loaded anew for each; --script FILE" in said
    Path("lines.txt").write_text("one\n")
    interact(capfd, "-o", "b.mp4", "--rewrite", "--script", "lines.txt")
    assert prompts("b.session/main.take") == [("one", SAYS)]


def test_a_story_keeps_what_was_rewritten(chat: Chat, capfd: Captured) -> None:
    def tell(*scenes: str, rewrites: bool = True, more: str = "") -> str:
        texts = (f'[[scene]]\nprompt = "{scene}"\n' for scene in scenes)
        cut = '[[scene]]\nprompt = "cut"\nimage = "boat.png"\nseed = 4\n'
        Path("story.toml").write_text("".join(("seed = 1\n", *texts, cut)))
        options = ["--rewrite"] * rewrites + more.split()
        return interact(capfd, "--script", "story.toml", *options)

    write_picture(pictures(1)[0], Path("boat.png"))
    tell("one", "two")
    modes = [one["messages"][0]["content"] for one in chat.asked]
    assert modes == [instructions(mode) for mode in ("t2v", "interact", "i2v")]
    assert asked(chat) == ["one", "two", "cut"]
    main = "story.session/main.take"
    cut = ("cut", "a rich cut")
    assert prompts(main) == [("one", "a rich one"), ("two", "a rich two"), cut]
    # 1. The same again makes nothing and asks nobody, and a check asks nobody in any case.
    assert "all scenes are already made" in tell("one", "two")
    tell("one", "other", more="--check")
    assert asked(chat) == []
    # 2. Only what changed is rewritten. Where that fails the scene is made from its own words.
    chat.fails(503)
    said = tell("one", "other")
    assert "the prompt stays as it is" in said
    assert "kept from scene 3 on: 1 clip" in said
    assert prompts(main) == [("one", "a rich one"), ("other", "other"), cut]
    # It stays then, until it is made anew.
    chat.fails(200)
    assert run(["interact", "--script", "story.toml", "--rewrite", "--check"]) == 0
    assert "0 clips of 3 to be made" in capfd.readouterr().out
    said = tell("one", "other")
    assert "kept with the words as typed: scene 2; --scene N rewrites one" in said
    assert "all scenes are already made" in said
    assert asked(chat) == ["other"]
    tell("one", "other", more="--scene 2")
    assert prompts(main) == [("one", "a rich one"), ("other", "a rich other"), cut]
    assert asked(chat) == ["other"]
    # 3. Without the option the file's own words count.
    tell("one", rewrites=False)
    assert prompts(main) == [("one", "one"), ("cut", "cut")]
