"""Tables as dataclasses: what is read, and which field a message names."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from istar.errors import CheckpointError
from istar.request import GenerationRequest
from istar.tables import decode, encode


@dataclass(frozen=True, kw_only=True)
class Corner:
    at: tuple[float, float]
    kind: Literal["round", "sharp"] = "sharp"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    corners: tuple[Corner, ...]
    file: Path | None = None
    colour: str | tuple[int, ...] = "red"
    names: dict[str, int] | None = None


ONE: dict[str, Any] = {"corners": [{"at": [0, 1.5]}]}


def test_a_table_becomes_what_the_hints_say() -> None:
    table = {**ONE, "file": "a/../b.png", "colour": [1, 2], "names": {"x": 3}}
    drawing = decode(Drawing, table, base=Path("/drawings"))
    assert drawing == Drawing(
        corners=(Corner(at=(0.0, 1.5)),),
        file=Path("/drawings/b.png"),
        colour=(1, 2),
        names={"x": 3},
    )
    assert isinstance(drawing.corners[0].at[0], float)
    assert decode(Drawing, {**ONE, "file": None, "colour": "blue"}).colour == "blue"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"corners": 5}, "corners must be a list, not 5"),
        ({"corners": [5]}, "corners[0] must be a table, not 5"),
        ({"corners": [{}]}, "corners[0] lacks at"),
        ({"corners": [{"at": [0]}]}, "corners[0].at must be a list of 2, not [0]"),
        ({"corners": [{"at": [0, "1"]}]}, "corners[0].at[1] must be a finite number, not '1'"),
        (
            {"corners": [{"at": [0, 1], "kind": "blunt"}]},
            "corners[0].kind is one of round, sharp, not 'blunt'",
        ),
        ({"corners": [{"at": [0, 1], "size": 2}]}, "corners[0] has an unknown field: size"),
        ({"colour": True}, "colour must be a text, not True"),
        ({"names": {"x": True}}, "names.x must be a whole number, not True"),
        ({"file": ""}, "file must be a path, not ''"),
        ({"fil": ""}, "the drawing has an unknown field: fil"),
    ],
)
def test_a_message_names_the_field_by_its_path(change: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        decode(Drawing, {**ONE, **change}, name="the drawing", error=CheckpointError)
    assert str(caught.value) == message


def test_values_that_are_not_tables() -> None:
    with pytest.raises(CheckpointError, match=r"^the drawing must be a table, not \[\]$"):
        decode(Drawing, [], name="the drawing", error=CheckpointError)


@pytest.mark.parametrize(
    "request_",
    [
        GenerationRequest(mode="interact", prompt=("a", "b"), clip="a.mp4", seed=5),
        GenerationRequest(mode="t2v", prompt="a cat", seconds=5, tau_video=0.4),
    ],
)
def test_a_request_through_json_is_the_same(request_: GenerationRequest) -> None:
    assert decode(GenerationRequest, json.loads(json.dumps(encode(request_)))) == request_
