from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from istar.errors import StateError
from istar.generation.guidance import GuidanceConfig
from istar.generation.loop import advance, read_scene, start
from istar.generation.sampling import SamplingConfig
from istar.generation.schedule import ClipPlan, Step, steps
from istar.generation.state import GenerationState
from istar.transformer.model import Transformer

SCALES = ((1, 1), (1, 2), (2, 3))
CLIPS = (
    ClipPlan(frames=1, repeats=(1, 2, 1)),
    ClipPlan(frames=2, repeats=(1, 1, 2)),
    ClipPlan(frames=1, repeats=(1, 1, 1)),
)
PLAN = steps(CLIPS, SCALES, semantic_scales=2)
FULL = steps(CLIPS, SCALES, semantic_scales=2, context="full")
SAMPLING = SamplingConfig(
    guidance=GuidanceConfig(kind="apg", scale=34), tau_image=1.0, tau_video=0.4
)


def begin(
    transformer: Transformer,
    given: dict[int, Tensor] | None = None,
    plan: tuple[Step, ...] = PLAN,
) -> GenerationState:
    random = torch.Generator().manual_seed(6)
    texts = [torch.randn(length, 12, generator=random).to(transformer.dtype) for length in (5, 3)]
    return start(transformer, plan, texts, torch.Generator().manual_seed(5), given=given)


def go(transformer: Transformer, state: GenerationState, to: int) -> GenerationState:
    while state.position < to:
        state = advance(transformer, state, SAMPLING)
    return state


def assert_same(one: GenerationState, two: GenerationState) -> None:
    """Equal bit for bit."""
    assert one.steps == two.steps
    assert one.position == two.position
    pairs = [
        (one.bits, two.bits),
        (one.latents, two.latents),
        (list(one.given.values()), list(two.given.values())),
        ([one.canvas.total], [two.canvas.total]),
        ([one.generator.get_state()], [two.generator.get_state()]),
    ]
    for first, second in zip(one.branches, two.branches, strict=True):
        for ours, theirs in zip(first.contexts, second.contexts, strict=True):
            layers = zip(ours, theirs, strict=True)
            pairs += [(list(a), list(b)) for a, b in layers]
    for ours, theirs in pairs:
        for a, b in zip(ours, theirs, strict=True):
            assert a.dtype == b.dtype
            assert torch.equal(a, b)
    assert one.given.keys() == two.given.keys()


@pytest.mark.parametrize("position", [0, 1, 3, 4, 5, 7, 8, 10, 11])
def test_resumed_equals_uninterrupted(
    transformer: Transformer, tmp_path: Path, position: int
) -> None:
    whole = go(transformer, begin(transformer), len(PLAN))
    state = go(transformer, begin(transformer), position)
    state.save(tmp_path / "state")
    read = GenerationState.load(tmp_path / "state")
    assert_same(read, state)
    assert read.finished == (position == len(PLAN))
    assert_same(go(transformer, read, len(PLAN)), whole)


@pytest.mark.parametrize("position", [0, 2, 3, 6, 7, 10, 11])
def test_resumed_equals_uninterrupted_with_full_context(
    transformer: Transformer, tmp_path: Path, position: int
) -> None:
    whole = go(transformer, begin(transformer, plan=FULL), len(FULL))
    state = go(transformer, begin(transformer, plan=FULL), position)
    state.save(tmp_path / "state")
    read = GenerationState.load(tmp_path / "state")
    assert_same(read, state)
    assert len(read.branches[1].contexts) == 1 + len(state.looks_at)
    assert_same(go(transformer, read, len(FULL)), whole)


def test_given_bits_to_come_are_kept(transformer: Transformer, tmp_path: Path) -> None:
    given = dict(enumerate(go(transformer, begin(transformer), 4).bits))
    state = go(transformer, begin(transformer, given), 2)
    assert list(state.given) == [2, 3]
    state.save(tmp_path / "state")
    read = GenerationState.load(tmp_path / "state")
    assert_same(read, state)
    assert_same(
        go(transformer, read, len(PLAN)),
        go(transformer, begin(transformer, given), len(PLAN)),
    )


def test_a_scene_is_kept(transformer: Transformer, tmp_path: Path, random: torch.Generator) -> None:
    former = torch.randn(1, 64, 21, *SCALES[-1], generator=random)
    scene = read_scene(transformer, former, former[:, :, :1], (1, 2))
    state = start(
        transformer, PLAN, [torch.randn(3, 12, generator=random)], torch.Generator(), scene=scene
    )
    state.save(tmp_path / "state")
    read = GenerationState.load(tmp_path / "state")
    assert_same(read, state)
    (branch,) = read.branches
    assert branch.scene is not None
    assert branch.text[0].keys.shape[2] == 3
    assert branch.scene[0].keys.shape[2] == 20 * 2 + 3 * 6


def test_bf16_contexts_come_back_bit_for_bit(transformer: Transformer, tmp_path: Path) -> None:
    transformer.bfloat16()
    whole = go(transformer, begin(transformer), len(PLAN))
    state = go(transformer, begin(transformer), 6)
    state.save(tmp_path / "state")
    read = GenerationState.load(tmp_path / "state")
    assert read.branches[0].text[0].keys.dtype == torch.bfloat16
    assert_same(read, state)
    assert_same(go(transformer, read, len(PLAN)), whole)


def test_saving_replaces_the_former_state(transformer: Transformer, tmp_path: Path) -> None:
    state = begin(transformer)
    state.save(tmp_path / "state")
    state = go(transformer, state, 2)
    state.save(tmp_path / "state")
    assert_same(GenerationState.load(tmp_path / "state"), state)
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


# --- Files that are no state -------------------------------------------------------------------


@pytest.fixture
def saved(transformer: Transformer, tmp_path: Path) -> Path:
    path = tmp_path / "state"
    go(transformer, begin(transformer, {10: torch.ones(6, 64, dtype=torch.bool)}), 6).save(path)
    return path


def rewrite(path: Path, change: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    """Write a saved state again with its tensors and its header changed."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["state"])
        names = list(file.keys())
        tensors = {name: file.get_tensor(name).clone() for name in names}
    change(tensors, header)
    save_file(tensors, path, metadata={"state": json.dumps(header)})


def test_a_rewritten_state_is_still_read(saved: Path) -> None:
    before = GenerationState.load(saved)
    rewrite(saved, lambda tensors, header: None)
    assert_same(GenerationState.load(saved), before)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="nowhere"):
        GenerationState.load(tmp_path / "nowhere")


@pytest.mark.parametrize("keep", [0, 7, 1000, -1])
def test_a_truncated_file(saved: Path, keep: int) -> None:
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(StateError, match="state"):
        GenerationState.load(saved)


def test_a_file_of_another_kind(saved: Path) -> None:
    saved.write_text("A state of mind.\n" * 100)
    with pytest.raises(StateError, match="not a readable generation state"):
        GenerationState.load(saved)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"state": "{"}, {"state": "[]"}])
def test_safetensors_without_a_states_header(saved: Path, metadata: dict[str, str] | None) -> None:
    save_file({"canvas": torch.zeros(1)}, saved, metadata=metadata)
    with pytest.raises(StateError, match="not a"):
        GenerationState.load(saved)


WRONG_HEADERS: dict[str, dict[str, Any]] = {
    "another version": {"format": "istar-generation-state-1"},
    "no steps": {"steps": None},
    "half a step": {"steps": [{"index": 0}]},
    "no position": {"position": None},
    "a position past the bits": {"position": 7},
    "a position past the end": {"position": 1000},
    "a position before the bits": {"position": 5},
    "a negative position": {"position": -1},
    "shapes of nothing": {"shapes": {"bits.77": [1, 64]}},
    "no shapes": {"shapes": {}},
    "a scene that is not there": {"scene": True},
    "layers in words": {"layers": "two"},
}


@pytest.mark.parametrize("name", WRONG_HEADERS)
def test_a_wrong_header(saved: Path, name: str) -> None:
    rewrite(saved, lambda tensors, header: header.update(WRONG_HEADERS[name]))
    with pytest.raises(StateError, match="state"):
        GenerationState.load(saved)


@pytest.mark.parametrize(
    "name",
    [
        "canvas",
        "generator",
        "bits.0",
        "bits.5",
        "given.10",
        "branch.0.text.0.keys",
        "branch.1.step.3.1.values",
        "branch.1.step.3.2.values",
        "latent.0",
    ],
)
def test_a_missing_tensor(saved: Path, name: str) -> None:
    rewrite(saved, lambda tensors, header: tensors.__delitem__(name))
    with pytest.raises(StateError, match="damaged"):
        GenerationState.load(saved)


# The state is saved before step 6; steps 4 to 7 look at step 3, steps 8 to 10 at step 7.
@pytest.mark.parametrize(
    ("step", "name", "value"),
    [
        *((step, "looks_at", value) for step in (2, 6, 9) for value in ([0], [99], None, 3)),
        (7, "looks_at", [7]),  # itself
        (7, "looks_at", [6]),  # the step before, which does not know that it is read
        (9, "looks_at", [3]),  # let go when step 8 was to come
        (9, "looks_at", []),  # by which step 10 finds nothing
        (3, "read_later", False),
        (7, "read_later", False),
        (9, "read_later", True),
        (7, "index", 8),
    ],
)
def test_a_step_that_looks_at_what_is_not_there(
    saved: Path, step: int, name: str, value: object
) -> None:
    def change(_: dict[str, Tensor], header: dict[str, Any]) -> None:
        header["steps"][step][name] = value

    rewrite(saved, change)
    with pytest.raises(StateError, match="damaged"):
        GenerationState.load(saved)


@pytest.mark.parametrize("name", ["generator", "canvas", "bits.3", "latent.0"])
def test_a_tensor_of_another_shape(saved: Path, name: str) -> None:
    def cut(tensors: dict[str, Tensor], _: dict[str, Any]) -> None:
        tensors[name] = tensors[name].flatten()[:1].clone()

    rewrite(saved, cut)
    with pytest.raises(StateError, match="damaged"):
        GenerationState.load(saved)


# --- Writing that fails ------------------------------------------------------------------------


def test_a_failed_write_leaves_the_former_file_and_nothing_else(
    transformer: Transformer, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def half(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("istar.generation.state.save_file", half)
    with pytest.raises(StateError, match="No space left"):
        begin(transformer).save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == ["state"]


def test_a_directory_in_the_way(transformer: Transformer, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    with pytest.raises(StateError, match="cannot be written"):
        begin(transformer).save(tmp_path / "state")
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_directory_that_is_not_there(transformer: Transformer, tmp_path: Path) -> None:
    with pytest.raises(StateError, match="cannot be written"):
        begin(transformer).save(tmp_path / "nowhere" / "state")
    assert not list(tmp_path.iterdir())
