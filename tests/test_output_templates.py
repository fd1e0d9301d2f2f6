from __future__ import annotations

import os
from pathlib import Path

import pytest

from istar.errors import UsageError
from istar.output_templates import NameTemplate, is_template, safe_text

VALUES: dict[str, str | int] = {
    "prompt": "a red circle",
    "seed": 7,
    "number": 3,
    "mode": "t2v",
    "model": "tiny",
    "size": "80x80",
}


def path(text: str, **changes: str | int) -> str:
    values = VALUES | changes
    template = NameTemplate.parse(text, suffix=".mp4")
    return str(template.path({name: lambda value=value: value for name, value in values.items()}))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("{seed}-{prompt:.5}.mp4", "7-a red.mp4"),
        ("{prompt:.2}", "a.mp4"),
        ("out/{number:04}_{mode}_{model}_{size}.webm", "out/0003_t2v_tiny_80x80.webm"),
        ("../out/{prompt}/{seed:03}/%04d.png", "../out/a red circle/007/%04d.png"),
        ("{{{seed}}}", "{7}.mp4"),
        ("a/{{b}}/{{c}}.gif", "a/{b}/{c}.gif"),
        ("/{seed}..mp4", "/7..mp4"),
    ],
)
def test_fields_are_filled_in(text: str, name: str) -> None:
    assert is_template(text)
    assert path(text) == name


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{sed}.mp4", "no field; there are prompt, mode, model, size, seed, number"),
        ("{}.mp4", "no field"),
        ("{0}.mp4", "no field"),
        ("{prompt.__class__}", "no field"),
        ("{prompt[0]}", "no field"),
        ("{seed!r}", "{seed!r} cannot be written"),
        ("{seed:>9}", "an example is {seed:06}"),
        ("{seed:9}", "an example is {seed:06}"),
        ("{seed:.3}", "an example is {seed:06}"),
        ("{seed:0100}", "cannot be written"),
        ("{seed:{number}}", "cannot be written"),
        ("{prompt:9}", "an example is {prompt:.40}"),
        ("{prompt:.0}", "cannot be written"),
        ("{seed", "write {{ for a brace"),
        ("seed}", "write {{ for a brace"),
        ("out/{seed}/../../a.mp4", "leads out of the directory"),
        ("out/{seed}/", "names a directory"),
        ("~nobody-of-this-name/{seed}", "home directory"),
    ],
)
def test_other_texts_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        path(text)
    assert said in str(caught.value)


PROMPTS = [
    "../../etc/passwd",
    "/abs",
    "..",
    ".",
    "",
    " \n",
    "~root",
    "-rf",
    "a\\b:c*d?e",
    "\0\x1b[2J",
]


@pytest.mark.parametrize("prompt", [*PROMPTS, "\udcff", "\u202egnp", "%04d", "CON", "é" * 9999])
def test_no_prompt_leads_out_of_the_directory(prompt: str, tmp_path: Path) -> None:
    for text in ("{prompt}", "{prompt}/{seed}.mp4", "{seed}-{prompt}"):
        target = Path(path(f"{tmp_path}/{text}", prompt=prompt))
        inside = target.relative_to(tmp_path)
        assert len(inside.parts) == 1 + text.count("/")
        assert target.resolve() == target
        assert all(part[0] not in ".~-" and part.isprintable() for part in inside.parts)
        assert target.suffix == ".mp4"
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(b"")


def test_a_long_prompt_is_cut_and_nothing_else() -> None:
    name = path("{prompt}-{seed}-{prompt}.mp4", prompt="é" * 300)
    first, seed, second = name.removesuffix(".mp4").split("-")
    assert (len(first), seed, first) == (len(second), "7", second)
    assert 255 - 4 < len(os.fsencode(name)) <= 255


def test_a_text_in_a_name_is_one_line() -> None:
    assert safe_text("  a\n\tcat\u2003“sat” ") == "a cat “sat”"
