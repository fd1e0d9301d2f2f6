"""Prepared clips as rows of packed examples.

A row is a function of the run's seed, the step and the row's number, so that workers and processes
do not change the result.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from functools import cache

import torch
from torch import Tensor

from istar.errors import UsageError
from istar.generation.schedule import (
    LATENT_FRAMES_PER_SECOND,
    ClipPlan,
    Step,
    Template,
    nearest_template,
    steps,
)
from istar.model_spec import ModelSpec
from istar.plan import Window
from istar.request import Mode
from istar.text_encoder import TextEncoder
from istar.training.config import MixConfig, TransformerTraining
from istar.training.distributed import Share
from istar.training.forced_steps import may_stay
from istar.training.latents import PreparedClip, encoder_digest, origin_of, read_prepared
from istar.training.packing import PackedBatch, pack
from istar.training.seeds import draw, seed_of
from istar.training.sequences import (
    DrawnRun,
    Example,
    SequenceConfig,
    context_tokens,
    draw_run,
    runs_of,
    tokens_of,
)
from istar.transformer.config import TransformerConfig
from istar.video_tokenizer.config import FRAMES_PER_SECOND
from istar.video_tokenizer.model import VideoTokenizer

_MISFITS = 4
_MISFITS_ALONE = 200

_LOOKED_AT = 1000
"""Captions that are counted at the start of a run, which it must not delay."""


class ExampleSource:
    """Rows of examples, chosen at random from prepared clips.

    Args:
        config: of the run.
        spec: the model's.
        sizes: of the transformer.
        text_encoder: whose tokens the texts become.
        table: the part of the settings that an error names.

    Attributes:
        notes: what a person should know of the rows: which scales no example can hold.

    Raises:
        UsageError: the sets do not suit the model, or a kind of the mix has no clip or fits into no
            row.
        CheckpointError: a set cannot be read.
    """

    def __init__(
        self,
        config: TransformerTraining,
        spec: ModelSpec,
        sizes: TransformerConfig,
        text_encoder: TextEncoder,
        table: str = "data",
    ) -> None:
        self._table = table
        self._config = config
        self._spec = spec
        self._sizes = sizes
        self._text_encoder = text_encoder
        self._sequence = SequenceConfig(
            most_flips=config.data.most_flips,
            finest_share=config.data.finest_share,
            condition_noise=config.data.condition_noise,
            weigh_by_magnitude=config.data.weigh_by_magnitude,
        )
        clips = [clip for directory in config.data.sets for clip in read_prepared(directory)]
        self._clips = sorted(clips, key=lambda clip: clip.frames)
        self._frames = [clip.frames for clip in self._clips]
        for height, width in {(clip.height, clip.width) for clip in clips}:
            if spec.pixel_budget.scales(nearest_template(height / width))[-1] != (height, width):
                raise UsageError(
                    f"{table}: latents of {height} by {width} are not of the manifest's pixel "
                    "budget; prepare the sets again"
                )
        for kind in (kind for kind in config.data.mix if kind.weight):
            if kind.kind == "interact" and spec.interact is None:
                raise UsageError(
                    f"{table}: the manifest's model cannot interact; leave that kind out of the mix"
                )
            if self._frames[-1] < self._needed(kind):
                raise UsageError(
                    f"{table}: no prepared clip has the {self._needed(kind)} latent frames that "
                    f"{_name_of(kind)} needs"
                )
        self.notes = self._check_rows(table)

    def _check_rows(self, table: str) -> tuple[str, ...]:
        """Refuse a kind that fits into no row; a note if no example can hold some of the scales.

        Captions are as short as can be: what does not fit beside none fits beside no caption.
        """
        length = max(self._config.data.rows)
        wanted: set[tuple[bool, int]] = set()
        held: set[tuple[bool, int]] = set()
        for kind in (kind for kind in self._config.data.mix if kind.weight):
            least = []
            clips = self._clips[bisect_left(self._frames, self._needed(kind)) :]
            for clip in {(clip.height, clip.width): clip for clip in clips}.values():
                example = self._example_of(clip, kind, "", dropped=False)
                room = length - context_tokens(example)
                must_stay = sum(step.grid.tokens for step in may_stay(example.steps, 0))
                least.append(context_tokens(example) + must_stay)
                wanted.update(map(_moves_and_scale, example.steps))
                if must_stay <= room:
                    held.update(map(_moves_and_scale, may_stay(example.steps, room)))
            if min(least) > length:
                raise UsageError(
                    f"{table}: {_name_of(kind)} takes at least {min(least)} tokens, and the "
                    f"longest row has {length}"
                )
        notes = []
        for moves, what in ((False, "pictures"), (True, "video clips")):
            lost = [scale for other, scale in sorted(wanted - held) if other is moves]
            if lost:
                sides = ", ".join(str(self._spec.pixel_budget.sides[scale]) for scale in lost)
                notes.append(
                    f"the scales of {what} with sides of {sides} fit into no row of {length} "
                    "tokens: they are not trained"
                )
        return tuple(notes)

    def cut_captions(self) -> tuple[str, ...]:
        """A note if captions are longer than the model reads: how many, of some of all lengths."""
        clips = self._clips[:: -(-len(self._clips) // _LOOKED_AT)]
        apply, seconds = self._spec.prompt.apply, self._spec.default_seconds
        generator = torch.Generator().manual_seed(0)
        captions = [clip.captions.drawn(0.0, generator) for clip in clips]
        texts = [apply(caption, "t2v", seconds, suffix=False) for caption in captions]
        if not (cut := sum(map(self._text_encoder.cuts, texts))):
            return ()
        return (
            f"captions that are longer than the {self._sizes.text_positions} tokens that the model "
            f"reads lose their ends: {cut} of the {len(texts)} looked at",
        )

    def batch(self, step: int, share: Share) -> PackedBatch:
        """This process's rows of a step."""
        data, seed = self._config.data, self._config.run.seed
        generator = torch.Generator().manual_seed(seed_of(seed, "rows", step))
        length = data.rows[draw(len(data.rows), generator)]
        count = max(share.processes, data.tokens // length)
        return self.rows(step, share.of(count), length)

    def rows(self, step: int, numbers: Iterable[int], length: int) -> PackedBatch:
        """Some of a step's rows, each of `length` tokens."""
        seed = self._config.run.seed
        rows = [self._row(seed_of(seed, step, number), length) for number in numbers]
        runs = iter(runs_of([run for row in rows for run in row], self._sizes, self._sequence))
        return pack([[next(runs) for _ in row] for row in rows], length)

    def _row(self, seed: int, length: int) -> list[DrawnRun]:
        """Examples until no more fit; a row has at least one, shortened if it is too long.

        An example's tokens have a random seed of their own, so that settings which need more or
        fewer random numbers for them keep the choice of examples.
        """
        generator = torch.Generator().manual_seed(seed)
        row: list[DrawnRun] = []
        room, misfits = length, 0
        while misfits < (_MISFITS if row else _MISFITS_ALONE):
            example = self._example(generator)
            if row and self._least(example) > room:
                misfits += 1
                continue
            own = torch.Generator().manual_seed(seed_of(seed, len(row), misfits))
            run = draw_run(example, self._sizes, self._sequence, own, longest=length)
            if run.tokens > room:
                misfits += 1
                continue
            if not row:
                misfits = 0
            row.append(run)
            room -= run.tokens
        if not row:
            raise UsageError(f"{self._table}: no example fits into a row of {length} tokens")
        return row

    def _least(self, example: Example) -> int:
        """How many tokens an example's run has at least if it loses no scale for want of room."""
        finest = example.steps[-1].grid.tokens if self._sequence.finest_share < 1 else 0
        return tokens_of(example) - finest

    def _needed(self, kind: MixConfig) -> int:
        """Latent frames of a kind of example."""
        if kind.kind == "interact":
            return 1 + 2 * self._spec.clip_frames
        return 1 + int(kind.seconds * LATENT_FRAMES_PER_SECOND)

    def _example(self, generator: torch.Generator) -> Example:
        mix = self._config.data.mix
        weights = torch.tensor([float(kind.weight) for kind in mix])
        kind = mix[int(torch.multinomial(weights, 1, generator=generator))]
        frames = self._needed(kind)
        first = bisect_left(self._frames, frames)
        clip = self._clips[first + draw(len(self._clips) - first, generator)]
        captions = (
            clip.captions.of_clip(1)
            if kind.kind == "interact"
            else clip.captions.from_start(frames, self._spec.clip_frames)
        )
        caption = captions.drawn(self._config.data.short_captions, generator)
        dropped = float(torch.rand((), generator=generator)) < self._config.data.text_dropout
        shortened = draw(2, generator) and self._config.data.shorten_dropped
        if dropped and shortened:
            caption = ""
        return self._example_of(clip, kind, caption, dropped=dropped)

    def _example_of(
        self, clip: PreparedClip, kind: MixConfig, caption: str, *, dropped: bool
    ) -> Example:
        """An example of a kind."""
        latent = clip.latent()[:, : self._needed(kind)]
        if kind.kind == "interact":
            return self._interactive(clip, latent, caption, dropped)
        schedule = _steps(self._spec, kind.seconds, nearest_template(clip.height / clip.width))
        lengths = [step.grid.frames for step in schedule if step.starts_clip]
        mode: Mode = "t2v" if kind.seconds else "t2i"
        text = self._spec.prompt.apply(caption, mode, kind.seconds, suffix=False)
        return Example(
            text=self._text_encoder.tokenize(text),
            unconditional=dropped,
            steps=schedule,
            latents=latent.split(lengths, dim=1),
        )

    def _interactive(
        self, clip: PreparedClip, latent: Tensor, caption: str, dropped: bool
    ) -> Example:
        """A clip that continues the one before it."""
        interact = self._spec.interact
        assert interact is not None
        frames = self._spec.clip_frames
        template = nearest_template(clip.height / clip.width)
        coarse = self._spec.pixel_budget.scales(template)[interact.context_scale]
        text = self._spec.prompt.apply(caption, "interact", self._spec.clip_seconds, suffix=False)
        return Example(
            text=self._text_encoder.tokenize(text),
            unconditional=dropped,
            steps=_interactive_steps(self._spec, template),
            latents=(latent[:, frames + 1 :],),
            conditions=(latent[:, : frames + 1], latent[:, :1], coarse),
        )


def _name_of(kind: MixConfig) -> str:
    """A kind of example in a message."""
    return f"start of {kind.seconds:g} s" if kind.kind == "start" else kind.kind


def _moves_and_scale(step: Step) -> tuple[bool, int]:
    """Whether a step is a video clip's, no picture's, and its scale."""
    return step.grid.frames > 1, step.scale


@cache
def _steps(spec: ModelSpec, seconds: float, template: Template) -> tuple[Step, ...]:
    """The steps of an example from the start; 0 seconds are a picture."""
    return Window(given_seconds=0, new_seconds=seconds).steps(spec, template)


@cache
def _interactive_steps(spec: ModelSpec, template: Template) -> tuple[Step, ...]:
    """The steps of a clip that continues the one before it."""
    assert spec.interact is not None
    plan = ClipPlan(frames=spec.clip_frames, repeats=spec.interact.repeats)
    return steps([plan], spec.pixel_budget.scales(template), semantic_scales=spec.semantic_scales)


def check_origins(
    config: TransformerTraining, tokenizer: VideoTokenizer, clip_seconds: float
) -> None:
    """Refuse sets whose latents another tokenizer has made, or with captions of other clips.

    Raises:
        UsageError: there is one.
    """
    digest = encoder_digest(tokenizer)
    for table, sets in (("data", config.data.sets), ("validation", config.validation.sets)):
        for directory in sets:
            origin = origin_of(directory)
            # Only procedural sets record it; a list has its captions cut by its own author. Sets
            # of less than two clips have captions of the whole alone.
            seconds = origin.get("clip_seconds", clip_seconds)
            two = 2 * FRAMES_PER_SECOND * min(seconds, clip_seconds)
            if seconds != clip_seconds and origin["length"] > two:
                raise UsageError(
                    f"{table}: {directory} was prepared with captions for clips of {seconds} s, "
                    f"and the manifest's have {clip_seconds:g} s; prepare it again"
                )
            if origin.get("tokenizer") != digest:
                raise UsageError(
                    f"{table}: {directory} was prepared with another tokenizer than "
                    f"{config.tokenizer}; prepare it again"
                )
