"""Pictures, videos, and what follows given video: every mode but the interactive one.

A request is a list of windows (`istar.plan`). Each is one pass of the network, whose
given clips are encoded from the pictures shown so far and whose other clips are sampled.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

import torch
from torch import Tensor

from istar.events import ClipReady, Event, Note, Progress
from istar.generation.canvas import bits_of_latent
from istar.generation.schedule import Step
from istar.networks import Networks
from istar.plan import Window, windows_after, windows_from_start
from istar.take import Take
from istar.video_tokenizer.config import FRAMES_PER_SECOND
from istar.video_tokenizer.conv import FrameHistory


def make_windows(take: Take) -> Iterator[Event]:
    """Make a request window by window.

    Raises:
        GenerationError: the network's output is not a number.
    """
    request, spec, shown = take.request, take.networks.spec, take.inputs.clip
    seconds = spec.seconds_for(request)
    if shown is not None:
        windows = windows_after(len(shown) / FRAMES_PER_SECOND, seconds, spec)
    else:
        windows = windows_from_start(seconds, spec)
    yield from _notes_on_training(take, windows)
    if shown is not None:
        yield ClipReady(frames=shown, from_input=True)
    lengths = [len(window.steps(spec, take.inputs.template)) for window in windows]
    most_given = spec.clip_seconds * FRAMES_PER_SECOND + 1
    for number, window in enumerate(windows):
        progress = (sum(lengths[:number]), sum(lengths))
        for event in run_window(take, request.prompts[0], window, shown, progress):
            if isinstance(event, ClipReady):
                shown = event.frames if shown is None else torch.cat((shown, event.frames))
                shown = shown[-most_given:]
            yield event


def run_window(
    take: Take,
    prompt: str,
    window: Window,
    shown: Tensor | None = None,
    progress: tuple[int, int] | None = None,
) -> Generator[Event, None, list[Tensor]]:
    """One pass: every step, and after a sampled clip its pictures.

    Pictures of given clips are decoded, because the decoder's causal convolutions look back at
    them, and not shown; nor is the image clip of a new video, whose picture the next clip brings.

    Args:
        take: the request.
        prompt: what to show.
        window: what is shown again and what is added.
        shown: pictures `(F, H, W, 3)` to go on from, where the window shows any again.
        progress: steps taken before this window, and those of all windows.

    Returns:
        the latent `(1, C, T, H, W)` of every clip.
    """
    networks = take.networks
    steps = window.steps(networks.spec, take.inputs.template)
    before, total = progress or (0, len(steps))
    sampling = networks.spec.sampling.for_request(take.request)
    texts, notes = take.texts(prompt, window.seconds, sampling)
    yield from (Note(text=note) for note in notes)
    given = _given_latents(take, window, shown)
    bits = _forced_bits(networks, given, steps)
    history = FrameHistory()
    latents = []
    taken = networks.take_steps(steps, texts, sampling, take.generator, given=bits)
    for step, latent in taken:
        yield Progress(
            done=before + step.index + 1,
            total=total,
            clip=step.clip,
            scale=step.scale,
            tokens=step.grid.tokens,
            given=step.index in bits,
        )
        if latent is None:
            continue
        latents.append(latent)
        frames = networks.decode(latent, history)
        if step.clip < len(given) or (step.image and window.new_seconds):
            continue
        if step.clip == 1 and steps[0].image and not window.given_seconds:
            frames = torch.cat((_first_picture(take, frames), frames))
        yield ClipReady(frames=frames)
    return latents


def last_pictures(shown: Tensor, count: int) -> Tensor:
    """The last `count` pictures `(count, H, W, 3)`, the first of them doubled if one is missing."""
    last = shown[-count:]
    return last if len(last) == count else torch.cat((last[:1], last))


def _first_picture(take: Take, after: Tensor) -> Tensor:
    """A new video's first picture: the image that it is made from, else a copy of the second.

    The released reference overwrites a video's first picture with the second, too.
    """
    return after[:1] if take.inputs.image is None else take.inputs.image


def _given_latents(take: Take, window: Window, shown: Tensor | None) -> Sequence[Tensor]:
    """Latents, before quantization, of the clips that a window shows again."""
    if window.given_seconds and shown is not None:
        latent = take.networks.encode(last_pictures(shown, window.given_pictures))
        return latent.split(window.clip_lengths(take.networks.spec)[:2], dim=2)
    return [] if take.inputs.image is None else [take.networks.encode(take.inputs.image)]


def _forced_bits(
    networks: Networks, given: Sequence[Tensor], steps: tuple[Step, ...]
) -> dict[int, Tensor]:
    """The bits of every step of the given clips, by step index."""
    forced: dict[int, Tensor] = {}
    semantic_bits = networks.transformer.config.semantic_bits
    for clip, latent in enumerate(given):
        own = [step for step in steps if step.clip == clip]
        with torch.inference_mode():
            bits = bits_of_latent(latent, own, semantic_bits=semantic_bits)
        forced |= {step.index: value for step, value in zip(own, bits, strict=True)}
    return forced


def _notes_on_training(take: Take, windows: Sequence[Window]) -> Iterator[Note]:
    """What is asked of the model that it was not trained for."""
    spec = take.networks.spec
    mode = take.request.mode
    continued = [window.given_seconds for window in windows if window.given_seconds]
    if mode != "extend" and mode not in spec.modes:
        yield Note(
            text=f"the {spec.name} model was not trained for {mode}, but for "
            f"{', '.join(spec.modes)}",
            remedies=("any_model",),
        )
    if continued and not spec.extends:
        yield Note(text=f"the {spec.name} model was not trained to go on from given video")
    if continued and min(continued) < spec.clip_seconds:
        yield Note(
            text=f"the clip gives {min(continued)} s to go on from, and the model learned to go on "
            f"from {spec.clip_seconds} s: this is untrained ground, and the result may suffer"
        )
