"""Everything a generation is in the middle of, as one object that can be written and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from istar.errors import MediaError, StateError
from istar.files import PendingFile
from istar.generation.canvas import Canvas
from istar.generation.schedule import Grid, Step
from istar.transformer.cache import Context, KeysValues

_FORMAT = "istar-generation-state-3"


@dataclass(frozen=True, kw_only=True)
class Branch:
    """What one branch of guidance looks back at.

    Attributes:
        text: keys and values of its text.
        scene: those of what an interactive clip goes on from; else None.
        steps: those of the steps that the next one looks at, by step index.
    """

    text: Context
    scene: Context | None = None
    steps: Mapping[int, Context] = field(default_factory=dict)

    @property
    def contexts(self) -> tuple[Context, ...]:
        """All that the next step looks at."""
        return tuple(self.parts.values())

    @property
    def parts(self) -> dict[str, Context]:
        """The same, each with a name."""
        scene = {} if self.scene is None else {"scene": self.scene}
        return {"text": self.text, **scene, **{f"step.{n}": c for n, c in self.steps.items()}}

    def after(self, taken: int, own: Context | None, looks_at: tuple[int, ...]) -> Branch:
        """The branch when a step is taken, for the next one, which looks at `looks_at`.

        Args:
            taken: the step's index.
            own: its keys and values; None where no later step looks at it.
            looks_at: indices of steps.
        """
        known = dict(self.steps) if own is None else {**self.steps, taken: own}
        return replace(self, steps={index: known[index] for index in looks_at})


@dataclass(kw_only=True)
class GenerationState:
    """A generation under way.

    Attributes:
        steps: the whole schedule.
        position: index of the next step.
        bits: `(t·h·w, d)` booleans of every step taken, on the CPU.
        given: bits of steps to come that are not to be sampled, by step index.
        canvas: the clip under way.
        latents: `(1, C, T, H, W)` of every finished clip.
        branches: the conditional branch and, with guidance, the unconditional.
        generator: where the draws come from.
    """

    steps: tuple[Step, ...]
    position: int
    bits: list[Tensor]
    given: dict[int, Tensor]
    canvas: Canvas
    latents: list[Tensor]
    branches: tuple[Branch, ...]
    generator: torch.Generator

    @property
    def finished(self) -> bool:
        """No step is left."""
        return self.position == len(self.steps)

    @property
    def next_step(self) -> Step:
        """The step to take next."""
        return self.steps[self.position]

    @property
    def looks_at(self) -> tuple[int, ...]:
        """Indices of the steps that the next one looks at; none when finished."""
        return () if self.finished else self.next_step.looks_at

    def save(self, path: Path) -> None:
        """Write the state; under its final name it is whole or not there at all.

        Raises:
            StateError: it cannot be written.
        """
        tensors = {"canvas": self.canvas.total, "generator": self.generator.get_state()}
        shapes: dict[str, list[int]] = {}
        for kind, bits in (("bits", enumerate(self.bits)), ("given", self.given.items())):
            for index, value in bits:
                shapes[f"{kind}.{index}"] = list(value.shape)
                tensors[f"{kind}.{index}"] = torch.from_numpy(
                    np.packbits(value.cpu().numpy().ravel())
                )
        for clip, latent in enumerate(self.latents):
            tensors[f"latent.{clip}"] = latent
        for number, branch in enumerate(self.branches):
            for part, context in branch.parts.items():
                for layer, (keys, values) in enumerate(context):
                    tensors[f"branch.{number}.{part}.{layer}.keys"] = keys
                    tensors[f"branch.{number}.{part}.{layer}.values"] = values
        header = {
            "format": _FORMAT,
            "position": self.position,
            "steps": [asdict(step) for step in self.steps],
            "shapes": shapes,
            "branches": len(self.branches),
            "scene": any(branch.scene is not None for branch in self.branches),
            "layers": len(self.branches[0].text) if self.branches else 0,
        }
        # Cloned: safetensors refuses tensors that share memory.
        own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        try:
            with PendingFile(path, overwrite=True) as pending:
                save_file(own, pending.temporary, metadata={"state": json.dumps(header)})
        except (MediaError, OSError, SafetensorError) as error:
            raise StateError(f"{path} cannot be written: {error}") from error

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> GenerationState:
        """Read a state back, its tensors on `device`.

        Raises:
            StateError: the file is missing, damaged or not a generation state.
        """
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                header = json.loads((file.metadata() or {}).get("state", "null"))
                names = list(file.keys())
                tensors = {name: file.get_tensor(name) for name in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise StateError(f"{path} is not a readable generation state: {error}") from error
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise StateError(f"{path} is not a generation state of this version of istar")
        try:
            return cls._restore(header, tensors, torch.device(device))
        except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
            raise StateError(f"{path} is a damaged generation state: {error!r}") from error

    @classmethod
    def _restore(
        cls, header: dict[str, Any], tensors: dict[str, Tensor], device: torch.device
    ) -> GenerationState:
        """The state that a header and tensors describe, each held against the steps."""
        steps = tuple(_step(values) for values in header["steps"])
        _check_looks(steps)
        position = header["position"]
        if not 0 <= position <= len(steps):
            raise ValueError(f"position {position} of {len(steps)} steps")
        unpacked = {
            kind: {
                int(name.removeprefix(kind)): _unpack(tensors[name], shape)
                for name, shape in header["shapes"].items()
                if name.startswith(kind)
            }
            for kind in ("bits.", "given.")
        }
        if sorted(unpacked["bits."]) != list(range(position)):
            raise ValueError("bits do not go up to the position")
        generator = torch.Generator()
        generator.set_state(tensors["generator"])
        finished = [step for step in steps[:position] if step.ends_clip]
        canvas = tensors["canvas"].to(device)
        latents = [tensors[f"latent.{step.clip}"].to(device) for step in finished]
        under_way = steps[min(position, len(steps) - 1)]
        for latent, step in zip((*latents, canvas), (*finished, under_way), strict=True):
            if latent.shape != (1, canvas.shape[1], *step.full_grid):
                raise ValueError(f"the latent of clip {step.clip} has the wrong shape")
        looks_at = steps[position].looks_at if position < len(steps) else ()

        def branch(number: int) -> Branch:
            def context(part: str) -> Context:
                return _context(tensors, f"branch.{number}.{part}", header["layers"], device)

            return Branch(
                text=context("text"),
                scene=context("scene") if header["scene"] else None,
                steps={index: context(f"step.{index}") for index in looks_at},
            )

        return cls(
            steps=steps,
            position=position,
            bits=[unpacked["bits."][index] for index in range(position)],
            given=unpacked["given."],
            canvas=Canvas(canvas),
            latents=latents,
            branches=tuple(branch(number) for number in range(header["branches"])),
            generator=generator,
        )


def _step(values: dict[str, Any]) -> Step:
    if set(values) != {field.name for field in fields(Step)}:
        raise ValueError("a step is malformed")
    grids = {name: Grid(*values[name]) for name in ("grid", "full_grid")}
    return Step(**{**values, **grids, "looks_at": tuple(values["looks_at"])})


def _check_looks(steps: tuple[Step, ...]) -> None:
    """Hold what steps look at against what there will be, as keys and values go step by step."""
    read = {index for step in steps for index in step.looks_at}
    kept: set[int] = set()
    for index, step in enumerate(steps):
        if step.index != index:
            raise ValueError(f"step {index} is numbered {step.index}")
        if not kept.issuperset(step.looks_at):
            raise ValueError(f"step {index} looks at {step.looks_at}, which may not be kept")
        if step.read_later != (index in read):
            raise ValueError(f"step {index} is wrong about whether it is read later")
        kept = {*step.looks_at, index}


def _unpack(packed: Tensor, shape: list[int]) -> Tensor:
    count = prod(shape)
    if len(packed) != -(-count // 8):
        raise ValueError(f"{len(packed)} bytes do not hold {count} bits")
    bits = np.unpackbits(packed.numpy(), count=count)
    return torch.from_numpy(bits.astype(bool)).reshape(shape)


def _context(tensors: dict[str, Tensor], prefix: str, layers: int, device: torch.device) -> Context:
    return tuple(
        KeysValues(
            tensors[f"{prefix}.{layer}.keys"].to(device),
            tensors[f"{prefix}.{layer}.values"].to(device),
        )
        for layer in range(layers)
    )
