"""What lies where while a model generates: one plan, made before anything is loaded.

==========  ============  ==================  ==============  ==============  ===============
plan        text encoder  video tokenizer     blocks          decodes         long contexts
==========  ============  ==================  ==============  ==============  ===============
`max`       stays         stays               stay            whole pictures  on the device
`balanced`  freed         stays               stay            whole pictures  on the device
`low`       freed         comes when needed   stay            strips          in host memory
`stream`    freed         stays               in host memory  strips          in host memory
==========  ============  ==================  ==============  ==============  ===============

A text encoder that is freed is loaded for the texts, before the transformer's blocks come. All
plans compute as many rows at once, and the branches of guidance one after the other, so that what
is made does not depend on how much memory happens to be free.

This is the only place that knows a plan by its name. The networks offer the means: a part that
stays or is freed, blocks that are streamed, strips, contexts on the host.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch

from istar.byte_size import readable_size
from istar.errors import DeviceError, Remedy, UsageError
from istar.host_memory import host_memory
from istar.memory_use import (
    NetworkSizes,
    Work,
    decode_bytes,
    encode_bytes,
    picture_bytes,
    step_bytes,
    text_bytes,
)
from istar.placement import Placement

PlanName = Literal["max", "balanced", "low", "stream"]
MemoryChoice = Literal["auto", "max", "balanced", "low", "stream"]

_ROWS_AT_ONCE = 8192
_LONG_CONTEXT = 8192
_STRIP_BYTES = 1_000_000_000
_SLOTS = 2
_MARGIN = 1.04
_CUDA_RESERVE = 500_000_000


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Where each network's weights live, how much is computed at once, and what that takes.

    Attributes:
        name: which plan it is.
        text_encoder_stays: it lies on the device all the time; else it is loaded for the texts.
        tokenizer_stays: likewise; else it waits in host memory.
        resident_blocks: how many of the transformer's blocks lie on the device. The others lie in
            host memory, and each comes to the device when it is computed. None: all lie there.
        rows_at_once: about how many tokens are projected, normed and gated at a time.
        strip_rows: rows of a latent that are decoded at once; None for all.
        host_contexts_from: contexts of so many tokens or more lie in host memory; None: none.
        together: guidance's branches are one batch. No plan sets it, as the last bits of its
            results differ.
        device_bytes: predicted peak on a GPU.
        host_bytes: predicted peak of what the process takes in host memory besides Python and its
            libraries, pinned memory included, pages of files not.
    """

    name: PlanName
    text_encoder_stays: bool = True
    tokenizer_stays: bool = True
    resident_blocks: int | None = None
    rows_at_once: int = _ROWS_AT_ONCE
    strip_rows: int | None = None
    host_contexts_from: int | None = None
    together: bool = False
    device_bytes: int = 0
    host_bytes: int = 0

    def describe(self) -> str:
        """The plan and what it takes, in a line."""
        gpu = f"{readable_size(self.device_bytes)} on the GPU and " if self.device_bytes else ""
        resident = self.resident_blocks
        blocks = "" if resident is None else f", {resident} of the transformer's blocks on the GPU"
        host = f"{readable_size(self.host_bytes)} of host memory"
        return f"memory plan {self.name}{blocks}: about {gpu}{host}"


WHOLE = MemoryPlan(name="max")
"""Networks that are there already, and stay."""


def memory_plans(
    sizes: NetworkSizes, work: Work, placement: Placement, *, room: int | None = None
) -> tuple[MemoryPlan, ...]:
    """The plans with what they take, the fastest first.

    Args:
        sizes: of the networks.
        work: what is generated.
        placement: where, and in which numbers.
        room: bytes on the device. `stream` is there twice then, first with as many blocks resident
            as fit.
    """
    balanced = replace(WHOLE, name="balanced", text_encoder_stays=False)
    low = replace(
        balanced,
        name="low",
        tokenizer_stays=False,
        strip_rows=_strip_rows(sizes, work, placement),
        host_contexts_from=_LONG_CONTEXT,
    )
    # The host is full of blocks; the device has room for a tokenizer.
    stream = replace(low, name="stream", resident_blocks=0, tokenizer_stays=True)
    wanted = [WHOLE, balanced, low]
    if placement.device.type != "cpu":  # where blocks would only move from memory to memory
        wanted.append(stream)
    plans = [_predicted(plan, sizes, work, placement) for plan in wanted]
    if stream in wanted and room is not None:
        free = int((room - _CUDA_RESERVE) / _MARGIN) - plans[-1].device_bytes
        fit = max(0, min(free // sizes.block, sizes.config.depth - _SLOTS))
        if fit:
            # Before the one without any, to which a run can still step down.
            filled = replace(stream, resident_blocks=fit)
            plans.insert(-1, _predicted(filled, sizes, work, placement))
    return tuple(plans)


def choose_plans(
    choice: MemoryChoice,
    sizes: NetworkSizes,
    work: Work,
    placement: Placement,
    *,
    anyway: bool = False,
) -> tuple[MemoryPlan, ...]:
    """The plan to begin with, and behind it those to step down to.

    Args:
        choice: a plan's name, or `auto` for the fastest that fits into what is free.
        sizes: of the networks.
        work: what is generated.
        placement: where, and in which numbers.
        anyway: begin even if the plan does not fit, with `auto` the smallest.

    Raises:
        UsageError: an unknown plan.
        DeviceError: it does not fit, or with `auto` none does.
    """
    if choice not in get_args(MemoryChoice):
        raise UsageError(f"memory is {', '.join(get_args(MemoryChoice))}, not {choice!r}")
    room = Room.of(placement)
    plans = memory_plans(sizes, work, placement, room=room.device)
    fitting = [number for number, plan in enumerate(plans) if not room.lacking(plan)]
    if choice == "auto":
        first = fitting[0] if fitting else len(plans) - 1
    else:
        names = [plan.name for plan in plans]
        if choice not in names:
            raise UsageError(f"on the CPU memory is {', '.join(names)}, not {choice}")
        first = next((n for n in fitting if names[n] == choice), names.index(choice))
    if first not in fitting and not anyway:
        remedies: tuple[Remedy, ...] = ("lower_resolution", "fewer_seconds", "tiny")
        if fitting:
            remedies = ("auto_memory", *remedies[:2])
        elif placement.device.type == "cuda" and placement.eight_bit is None:
            remedies = ("int8", *remedies)
        remedies = (*remedies, "run_anyway")
        raise DeviceError(
            f"the memory plan {plans[first].name} takes {room.lacking(plans[first])}",
            remedies=remedies,
        )
    # A plan for which the host has no room would be the end of the process.
    later = [
        plan for plan in plans[first + 1 :] if room.host is None or plan.host_bytes <= room.host
    ]
    return (plans[first], *later)


def decoding_plans(sizes: NetworkSizes, work: Work, placement: Placement) -> tuple[MemoryPlan, ...]:
    """The plans for decoding alone: under them neither blocks nor the text encoder come unasked.

    Arguments are those of `memory_plans`.
    """
    plans = memory_plans(sizes, work, placement)
    return tuple(plan for plan in plans if plan.name in ("balanced", "low"))


class Room(NamedTuple):
    """What is free.

    Attributes:
        device: bytes of the GPU's memory; None on the CPU.
        host: bytes of host memory; None where the system does not say.
    """

    device: int | None
    host: int | None

    @classmethod
    def of(cls, placement: Placement) -> Room:
        """What is free now."""
        device = None
        if placement.device.type == "cuda":
            # What torch keeps for later counts as taken otherwise.
            torch.cuda.empty_cache()
            device = torch.cuda.mem_get_info(placement.device.index or 0)[0]
        return cls(device, host_memory().available)

    def lacking(self, plan: MemoryPlan) -> str:
        """What a plan takes and there is not, in words; nothing if it fits."""
        needed = int(plan.device_bytes * _MARGIN) + _CUDA_RESERVE
        if self.device is not None and needed > self.device:
            of = f"{readable_size(needed)} of the GPU's memory"
            return f"{of}, of which {readable_size(self.device)} are free"
        if self.host is not None and plan.host_bytes > self.host:
            of = f"{readable_size(plan.host_bytes)} of memory"
            return f"{of}, of which {readable_size(self.host)} are available"
        return ""


def _predicted(
    plan: MemoryPlan, sizes: NetworkSizes, work: Work, placement: Placement
) -> MemoryPlan:
    """A plan with its peaks."""
    on_cpu = placement.device.type == "cpu"
    # 1. Weights. On the CPU nothing can wait elsewhere.
    text = sizes.text_encoder if plan.text_encoder_stays else 0
    tokenizer = sizes.tokenizer if plan.tokenizer_stays or on_cpu else 0
    resident = sizes.config.depth if plan.resident_blocks is None else plan.resident_blocks
    streamed = sizes.config.depth - resident
    blocks = sizes.block * (resident + min(_SLOTS, streamed))
    always = sizes.outside + text + tokenizer
    coming_tokenizer = sizes.tokenizer - tokenizer
    # 2. The stages of a generation; the blocks come last, unless everything is loaded at once.
    blocks_early = blocks if plan.text_encoder_stays else 0
    steps = [
        step_bytes(
            step,
            work,
            sizes.config,
            placement,
            rows_at_once=plan.rows_at_once,
            host_contexts_from=plan.host_contexts_from,
        )
        for step in work.steps
    ]
    itemsize = placement.decoding_dtype.itemsize
    # Pictures that a later window reads are decoded whole.
    strip_rows = None if work.encodes_later else plan.strip_rows
    stages = (
        # reading texts, encoding what is given
        always
        + (sizes.text_encoder - text)
        + text_bytes(sizes.config)
        + (blocks if work.reads_later else blocks_early),
        always
        + coming_tokenizer
        + encode_bytes(work, sizes.tokenizer_config)
        + (blocks if work.encodes_later else blocks_early),
        # steps, decoding
        always + blocks + max(step.contexts + step.computing for step in steps),
        always
        + blocks
        + coming_tokenizer
        + decode_bytes(work, sizes.tokenizer_config, itemsize, strip_rows)
        + max(step.contexts for step in steps),
    )
    # 3. Host memory: what waits there, and what passes through.
    pinned = streamed * _pinned_bytes(sizes.block)
    pinned += sizes.block if streamed else 0  # while it is moved into its buffer
    waiting = pinned + coming_tokenizer + max(step.host_contexts for step in steps)
    passing = sizes.text_encoder if work.reads_later else max(0, sizes.text_encoder - pinned)
    host = waiting + passing + picture_bytes(work)
    if on_cpu:
        host = max(stages) + waiting + picture_bytes(work)
        return replace(plan, host_bytes=host)
    return replace(plan, device_bytes=max(stages), host_bytes=host)


def _strip_rows(sizes: NetworkSizes, work: Work, placement: Placement) -> int | None:
    """The most rows in a strip that keep decoding small; None if whole pictures do."""
    itemsize = placement.decoding_dtype.itemsize
    for rows in (None, *range(work.latent[0] - 1, 1, -1)):
        if decode_bytes(work, sizes.tokenizer_config, itemsize, rows) <= _STRIP_BYTES:
            return rows
    return 1


def _pinned_bytes(size: int) -> int:
    """Torch rounds a pinned buffer up to a power of two."""
    return 1 << (size - 1).bit_length()
