"""Films of many windows: what is held while they are made does not grow with them."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from torch import Tensor

from asking import pictures, request, short_clips
from istar import Decoding, GenerationRequest, InfinityStarPipeline
from istar.generation.state import TakeWindow
from istar.media import read_clip, write_clip
from processes import ISTAR, started

SECOND = 16


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> InfinityStarPipeline:
    """Clips of two seconds, so that a film has many."""
    return short_clips(InfinityStarPipeline.from_pretrained(checkpoint, device="cpu"))


def bytes_of_tensors() -> int:
    """What all tensors of this process take."""
    found = [one for one in gc.get_objects() if issubclass(type(one), Tensor)]
    storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in found}
    return sum(storages.values())


def bytes_of_tokens(windows: Iterable[TakeWindow]) -> int:
    """What finished windows take: bits, some of them shared, and the generator before each."""
    kept = [tensor for one in windows for tensor in (one.generator, *one.bits.values())]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in kept}.values())


@pytest.mark.parametrize(
    ("wanted", "windows"),
    [
        (request("extend", clip=pictures(2 * SECOND + 1), seconds=8), 4),
        (request("interact", prompt=("a red circle",) * 4), 4),
    ],
    ids=["extend", "interact"],
)
def test_window_after_window_only_tokens_are_added(
    pipeline: InfinityStarPipeline, wanted: GenerationRequest, windows: int
) -> None:
    job = pipeline.job(wanted)
    held: list[int] = []
    while not job.finished:
        events = job.advance()
        # A window holds most when its clip is made and not yet decoded.
        if any(isinstance(event, Decoding) for event in events):
            held.append(bytes_of_tensors() - bytes_of_tokens(job.state.windows))
    assert len(held) == windows
    # The first windows begin without the pictures or latents that later ones have before them.
    assert set(held[2:]) == {held[2]}
    assert held[2] > max(held[:1])


@pytest.mark.parametrize(
    ("wanted", "before"),
    [
        (request("extend", clip=pictures(2 * SECOND + 1), seconds=1), 4),
        (request("i2v", image=pictures(1)[0], seconds=1), 1),
    ],
    ids=["extend", "i2v"],
)
def test_of_given_clips_only_what_the_convolutions_see_is_decoded(
    pipeline: InfinityStarPipeline, wanted: GenerationRequest, before: int
) -> None:
    frames: list[int] = []
    last = pipeline.networks.tokenizer.decoder.conv_out
    hook = last.register_forward_pre_hook(lambda _, inputs: frames.append(inputs[0].shape[2]))
    try:
        for _ in pipeline.stream(wanted):
            pass
    finally:
        hook.remove()
    # The new second, and the pictures of one latent frame before it.
    assert sum(frames) == SECOND + before


METER = """
import os, subprocess, sys
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
print(used.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""
"""Runs a command and prints its peak of host memory. It is small itself: a process that starts
counts as having had what its parent has."""


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["extend", "interact"])
def test_a_minute_takes_the_memory_of_ten_seconds(mode: str, tmp_path: Path) -> None:
    prompt = "a red circle moves right on a blue background"
    clip, script = write_clip(pictures(2 * SECOND, 80, 80), tmp_path / "clip.mp4"), tmp_path / "txt"
    peaks = []
    for seconds in (10, 60):
        script.write_text(f"{prompt}\n" * (seconds // 2))
        what = {"extend": (clip, prompt, "--seconds", seconds), "interact": ("--script", script)}
        target = tmp_path / f"{seconds}.mp4"
        command = (*ISTAR, mode, *what[mode], "--model", "tiny", "-o", target)
        with started([sys.executable, "-c", METER, *map(str, command)]) as process:
            printed, said = process.communicate()
        assert process.returncode == 0, said
        peaks.append(int(printed))
        assert len(read_clip(target).frames) >= seconds * SECOND
    assert peaks[1] <= 1.1 * peaks[0]
