"""Write the tables of `docs/training.md` from the settings themselves; a test checks them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from istar.checkpoint.read import on_meta
from istar.lab.world import World
from istar.training import config, prepare_config
from istar.training.memory import memory_of
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer

TARGET = Path(__file__).with_name("training.md")
TABLES: dict[str, type[Any]] = {
    "tokenizer": config.TokenizerTraining,
    "run": config.RunConfig,
    "clips": config.ClipsConfig,
    "quantizer": config.QuantizerConfig,
    "reconstruction": config.ReconstructionConfig,
    "inherit": config.InheritanceConfig,
    "prepare": prepare_config.PrepareConfig,
    "sets": prepare_config.SetConfig,
    "world": World,
    "transformer": config.TransformerTraining,
    "latents": config.LatentsConfig,
    "mix": config.MixConfig,
    "text": config.TextConfig,
    "validation": config.ValidationConfig,
    "samples": config.SamplesConfig,
}
_KINDS = {Path: "path", str: "text", int: "whole number", float: "number", bool: "true or false"}


def generated(text: str) -> str:
    """The page with every table as it should be."""
    for name, kind in TABLES.items():
        start, end = f"<!-- settings: {name} -->\n", "<!-- end -->"
        before, found, rest = text.partition(start)
        assert found, f"no table {name}"
        text = before + start + table(kind) + end + rest.partition(end)[2]
    before, start, rest = text.partition("<!-- memory -->\n")
    assert start, "no table of memory"
    return before + start + memory_table() + "<!-- end -->" + rest.partition("<!-- end -->")[2]


def memory_table() -> str:
    """The memory of the released 8 B transformer, in one process and shared by eight."""
    transformer = on_meta(partial(Transformer, TransformerConfig()))
    one, shared = (
        memory_of(transformer, processes=count, blocks=list(transformer.blocks)) for count in (1, 8)
    )
    rows = {
        "weights": (one.weights, shared.weights),
        "gradients": (one.gradients, shared.gradients),
        "average": (one.average, shared.average),
        "AdamW's two numbers a weight": (one.optimizer, shared.optimizer),
        "a block and what is outside of blocks, put together": (one.gathered, shared.gathered),
        "during a step": (one.step, shared.step),
    }
    lines = [
        "",
        "| GB of device memory | 1 process | each of 8 | all 8 |",
        "|---|---|---|---|",
    ]
    for name, (alone, each) in rows.items():
        numbers = " | ".join(f"{value / 1e9:.1f}" for value in (alone, each, 8 * each))
        lines.append(f"| {name} | {numbers} |")
    on_disk = 3 * one.checkpoint + one.whole
    beside, whole, checkpoint, disk = (
        f"{value / 1e9:.1f}" for value in (shared.largest, shared.whole, one.checkpoint, on_disk)
    )
    return "\n".join(
        [
            *lines,
            "",
            f"Loading takes {beside} GB of host memory in each process, for one weight at a time.",
            "To write the model, the first process puts it together in its host memory,",
            f"{whole} GB, and for contact sheets again on its device, in the run's precision.",
            "",
            f"A checkpoint takes {checkpoint} GB of disk, the model {whole} GB. With `keep = 2`",
            "there are up to three checkpoints beside the model at a time, since a new one is",
            f"whole before the oldest is removed: {disk} GB.",
            "",
            "",
        ]
    )


def table(kind: type[Any]) -> str:
    """The settings of one table of a file, as Markdown."""
    meanings, hints = dict(attributes(kind)), get_type_hints(kind)
    lines = ["", "| setting | kind | default | meaning |", "|---|---|---|---|"]
    for field in fields(kind):
        hint = hints[field.name]
        if is_table(hint):
            if field.default is MISSING and field.default_factory is MISSING:
                many = get_origin(hint) is tuple
                form = "one or more tables" if many else "table"
                lines.append(f"| `{field.name}` | {form} | **needed** | see below |")
            continue
        meaning = meanings[field.name].replace("|", "\\|")
        lines.append(f"| `{field.name}` | {kind_of(hint)} | {default_of(field)} | {meaning} |")
    return "\n".join([*lines, "", ""])


def attributes(kind: type[Any]) -> Iterator[tuple[str, str]]:
    """What a class's docstring says of each attribute."""
    _, _, text = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    text = text.partition("\n\nRaises:")[0]
    for entry in re.split(r"\n {4}(?=\S)", "\n" + text):
        names, _, meaning = entry.partition(": ")
        for name in filter(None, names.strip().split(", ")):
            yield name, " ".join(meaning.split())


def is_table(hint: Any) -> bool:
    """A setting is a table of its own, or a list of them."""
    return is_dataclass(get_args(hint)[0] if get_origin(hint) is tuple else hint)


def kind_of(hint: Any) -> str:
    """A type in words."""
    arguments = get_args(hint)
    if get_origin(hint) is UnionType:
        return kind_of(arguments[0])
    if get_origin(hint) is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if get_origin(hint) is tuple:
        return (
            f"list of {kind_of(arguments[0])}".replace("number", "numbers")
            .replace("path", "paths")
            .replace("text", "texts")
        )
    return _KINDS[hint]


def default_of(field: Field[Any]) -> str:
    """A default as TOML writes it."""
    value = field.default
    if value is MISSING:
        return "**needed**"
    if value is None or value == ():
        return "–"
    if isinstance(value, tuple):
        items = (f'"{item}"' if isinstance(item, str) else str(item) for item in value)
        return f"`[{', '.join(items)}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if not isinstance(value, str) else f'`"{value}"`'


if __name__ == "__main__":
    TARGET.write_text(generated(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
