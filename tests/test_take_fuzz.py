"""Files that are almost takes: each is read, or refused with one line."""

from __future__ import annotations

import copy
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

import fuzzing
from asking import pictures, request, with_spec
from fuzzing import mutated_bytes
from istar import InfinityStarPipeline, StateError, Take
from istar.generation.state import Position
from istar.inputs import read_inputs
from istar.take_file import TakeSummary, digest

VALUES: tuple[Any, ...] = (
    *(None, True, 0, 1, -1, 3, 99, 2**20, 2**31, 2**63, 2**64, 10**400),
    *(0.5, -0.5, 1e308, float("nan"), float("inf")),
    *("", "x", "\0", "\ud800", "../../etc/passwd", "[" * 5000, "9" * 5000, "t2i", "full"),
    *([], {}, [[]], [0], [1, 1], [[1, 1]], [2**20] * 9, {"frames": 1, "repeats": [1]}),
)


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    whole = InfinityStarPipeline.from_pretrained(checkpoint, device="cpu")
    return with_spec(whole, replace(whole.spec, clip_frames=4, max_seconds=2))


@pytest.fixture(scope="module")
def takes(pipeline: InfinityStarPipeline) -> tuple[Take, ...]:
    """Of several modes, not begun, under way and finished, one with a mask, one after another."""
    wanted = (
        request("t2i"),
        request(seconds=3),
        request("i2v", image=pictures(1)[0]),
        request("extend", clip=pictures(17), seconds=2),
        request("interact", prompt=("one", "two")),
    )
    found = []
    for number, one in enumerate(wanted):
        job = pipeline.job(one)
        list(job.run(until=Position(min(number, 1), number)))
        found.append(job.take())
    (window,) = found[2].windows
    mask = torch.ones(window.schedule.steps[-1].grid.tokens, dtype=torch.bool)
    last = len(window.schedule.steps) - 1
    bits = torch.zeros(len(mask), found[2].detail_bits, dtype=torch.bool)
    masked = replace(window, bits={**window.bits, last: bits}, masks={last: mask})
    job = pipeline.job(request(seconds=1))
    list(job.run())
    after = read_inputs(request(), pipeline.spec)
    after = replace(after, take=job.take())
    job = pipeline.job(request("extend", clip=Path("a.take")), after)
    list(job.run(until=Position(0, 9)))
    return (*found, replace(found[2], windows=(masked,)), job.take())


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    if isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield from places(item, (*path, key))


def mutated_json(value: Any, chance: Random) -> Any:
    """A JSON value with something in it replaced, removed or doubled."""
    value = copy.deepcopy(value)
    *path, last = chance.choice([place for place in places(value) if place])
    holder = value
    for key in path:
        holder = holder[key]
    kind = chance.random()
    if kind < 0.1:
        del holder[last]
    elif kind < 0.2 and isinstance(holder, list):
        holder.extend(copy.deepcopy(holder) * chance.choice((1, 1000)))
    elif kind < 0.25 and isinstance(holder, dict):
        holder[chance.choice(("x", "", "steps"))] = chance.choice(VALUES)
    else:
        holder[last] = chance.choice(VALUES)
    return value


def mutated_header(header: dict[str, Any], chance: Random) -> dict[str, Any]:
    """A header that was changed, in the request in it as often as outside of it."""
    if chance.random() < 0.3:
        changed = mutated_json(json.loads(header["request"]), chance)
        return header | {"request": json.dumps(changed)}
    return mutated_json(header, chance)  # type: ignore[no-any-return]


def mutated_tensors(tensors: dict[str, Tensor], chance: Random) -> dict[str, Tensor]:
    """Tensors of which one was changed, renamed or removed."""
    name = chance.choice(sorted(tensors))
    own = dict(tensors)
    tensor = own.pop(name)
    match chance.randrange(6):
        case 0:
            own[name] = tensor.flatten()[: chance.randrange(tensor.numel() + 1)].clone()
        case 1:
            own[name] = tensor.to(chance.choice((torch.int8, torch.float32, torch.bool)))
        case 2:
            own[name.replace(".0", f".{chance.randrange(-1, 200)}", 1) + chance.choice(".0x ")] = (
                tensor
            )
        case 3:
            own[name] = torch.cat((tensor, tensor))
        case 4:
            own[name] = tensor.new_zeros(chance.choice([(0,), (1, 1, 1, 1, 3), (5056,), ()]))
        case _:
            pass
    return own


def written(header: dict[str, Any], tensors: dict[str, Tensor]) -> bytes | None:
    """A file's bytes with a hash that fits; None where no file can be made of this."""
    try:
        header = {**header, "sha256": digest(tensors, header)}
        return save(tensors, metadata={"take": json.dumps(header)})
    except (ValueError, UnicodeEncodeError):
        return None


def tensor_bytes(take: Take) -> int:
    tensors = [take.generator, take.image, take.clip]
    for window in take.windows:
        tensors += [window.generator, *window.bits.values(), *window.masks.values()]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def test_takes_that_were_changed(
    pipeline: InfinityStarPipeline, takes: tuple[Take, ...], tmp_path: Path
) -> None:
    count = fuzzing.cases(100)
    chance = Random(fuzzing.SEED)
    forms = []
    for take in takes:
        path = take.save(tmp_path / "a.take", overwrite=True)
        with safe_open(path, framework="pt") as file:
            header = json.loads(file.metadata()["take"])
            tensors = {name: file.get_tensor(name).clone() for name in list(file.keys())}
        del header["sha256"]
        forms.append((path.read_bytes(), header, tensors))
    path.unlink()
    read = refused = 0
    lines: list[str] = []
    while read + refused < count:
        whole, header, tensors = chance.choice(forms)
        match chance.choice(("bytes", "header", "header", "tensors")):
            case "bytes":
                content: bytes | None = mutated_bytes(whole, chance)
            case "header":
                content = written(mutated_header(header, chance), tensors)
            case _:
                content = written(header, mutated_tensors(tensors, chance))
        if content is None:
            continue
        path.write_bytes(content)
        with suppress(StateError):
            TakeSummary.read(path)
        # Tracing is slow.
        if (read + refused) % 20 == 0:
            tracemalloc.start()
            with suppress(StateError):
                Take.load(path)
            assert tracemalloc.get_traced_memory()[1] < 100 * len(content) + 10_000_000
            tracemalloc.stop()
        try:
            found = Take.load(path)
            # A bit takes a byte in memory, an eighth of one in the file.
            assert tensor_bytes(found) <= 8 * len(content)
            pipeline.job(found)
        except StateError as error:
            refused += 1
            lines.append(str(error))
        else:
            read += 1
        assert [file.name for file in tmp_path.iterdir()] == ["a.take"]
    assert not any("\n" in line for line in lines)
    assert refused > 0.6 * count
