"""The three networks of a model: texts to features, pictures to latents and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn

from istar.errors import CheckpointError, DeviceError, GenerationError
from istar.memory_plan import WHOLE, MemoryPlan
from istar.model_spec import ModelSpec, Precision
from istar.models.repository import HubPlace
from istar.network_files import NetworkSource
from istar.placement import exact_convolutions, memory_failure, precision_of
from istar.text_encoder import EncodedText, TextEncoder
from istar.transformer.block import Block
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.transformer.streaming import move
from istar.video_tokenizer.config import SPATIAL_STRIDE
from istar.video_tokenizer.model import VideoTokenizer, to_range


@dataclass(frozen=True, kw_only=True)
class Texts:
    """The encoded prompts of a window.

    Attributes:
        features: `(L, text_channels)` of the conditional branch and, with guidance, of the other.
        notes: for the person.
    """

    features: tuple[Tensor, ...]
    notes: tuple[str, ...]


class Networks:
    """The three networks of one model, each where a memory plan has it.

    Networks that are handed over stay where they are. Those that `load` reads from files come when
    they are needed and go as the plan says: its means are here, its choice is not.

    Attributes:
        spec: how the model is run.
        plan: the memory plan in force.
        source: what loads networks when they are needed; None of networks that were handed over.

    Raises:
        CheckpointError: the networks' sizes do not fit each other.
    """

    def __init__(
        self,
        spec: ModelSpec,
        transformer: Transformer,
        tokenizer: VideoTokenizer,
        text_encoder: TextEncoder | None,
        *,
        plans: Sequence[MemoryPlan] = (WHOLE,),
        source: NetworkSource | None = None,
    ) -> None:
        text_channels = text_encoder.channels if text_encoder else 0
        if source is not None:
            text_channels = source.text_channels
        for what, theirs, ours in (
            ("text encoder", text_channels, transformer.config.text_channels),
            ("tokenizer", tokenizer.config.latent_channels, transformer.config.latent_channels),
        ):
            if theirs != ours:
                raise CheckpointError(
                    f"the {what} has {theirs} channels and the transformer reads {ours}: "
                    "they do not belong together"
                )
        self.spec = spec
        self.plan, *self._further = plans
        self.source = source
        self._transformer = transformer
        self._tokenizer = tokenizer
        self._text_encoder = text_encoder
        self._has_blocks = source is None
        self._resident: int | None = None
        self._encoded: dict[str, EncodedText] = {}
        self._follow_plan()

    @classmethod
    def load(
        cls, spec: ModelSpec, source: NetworkSource, plans: Sequence[MemoryPlan] = (WHOLE,)
    ) -> Networks:
        """Load what a plan keeps all the time; the rest comes when it is needed.

        Args:
            spec: how the model is run.
            source: where its networks come from.
            plans: the memory plan, and those to step down to when memory runs out.

        Raises:
            CheckpointError: a file or tensor is missing or malformed.
            DeviceError: memory ran out.
        """
        failure: DeviceError | None = None
        for number in range(len(plans)):
            try:
                networks = cls._loaded(spec, source, plans[number:])
            except Exception as error:
                failure = memory_failure(error, "loading the model")
                if failure is None:
                    raise
            else:
                source.loaded()
                return networks
        assert failure is not None
        raise failure

    @classmethod
    def _loaded(
        cls, spec: ModelSpec, source: NetworkSource, plans: Sequence[MemoryPlan]
    ) -> Networks:
        tokenizer = source.tokenizer(stays=plans[0].tokenizer_stays)
        networks = cls(spec, source.transformer(), tokenizer, None, plans=plans, source=source)
        if networks.plan.text_encoder_stays:
            networks._bring_blocks()
            networks._bring_text_encoder()
        return networks

    @property
    def device(self) -> torch.device:
        """Where the networks compute."""
        return self._transformer.device

    @property
    def place(self) -> HubPlace | None:
        """Where on the Hub the networks are from; None where that is not known."""
        return None if self.source is None else self.source.place

    @property
    def precision(self) -> Precision:
        """The type of the transformer's numbers."""
        if self.source is not None:
            return self.source.placement.precision
        return precision_of(self._transformer)

    @property
    def config(self) -> TransformerConfig:
        """The transformer's sizes."""
        return self._transformer.config

    @property
    def transformer(self) -> Transformer:
        """Predicts bits. Its blocks come now, and a text encoder that does not stay goes."""
        if not self._has_blocks:
            self._free_text_encoder()
            self._bring_blocks()
        return self._transformer

    @property
    def transformer_as_it_is(self) -> Transformer:
        """The same, its blocks perhaps not there: enough where nothing is computed with them."""
        return self._transformer

    @property
    def tokenizer(self) -> VideoTokenizer:
        """Pictures to latents and back."""
        return self._tokenizer

    @property
    def text_encoder(self) -> TextEncoder:
        """Texts to features. It comes now, and stays until `read_texts` or `texts` is done."""
        return self._bring_text_encoder()

    @property
    def present(self) -> tuple[nn.Module, ...]:
        """What is there now: the transformer, its blocks perhaps on the meta device, and others."""
        there: list[nn.Module] = [self._transformer, self._tokenizer]
        if self._text_encoder is not None:
            there.append(self._text_encoder.module)
        return tuple(there)

    def bring(self) -> None:
        """Load now what comes later, in a generation's order; what does not stay goes again.

        Raises:
            CheckpointError: a file or tensor is missing or malformed.
            DeviceError: memory ran out, and no plan takes less.
        """
        while True:
            try:
                self._bring_text_encoder()
                self._free_text_encoder()
                if not self._has_blocks:
                    self._bring_blocks()
                return
            except Exception as error:
                failure = memory_failure(error, "loading the model")
                if failure is None:
                    raise
            if self.step_down() is None:
                raise failure

    def loads_next(self, *, texts: bool) -> str:
        """The part that is loaded when the next window begins; nothing if all is there.

        Args:
            texts: texts are read first.
        """
        if texts and self._text_encoder is None:
            return "text encoder"
        return "" if self._has_blocks else "transformer"

    @property
    def fingerprint(self) -> str:
        """A hash of a few weights that are float32 in every placement: it names the weights."""
        digest = sha256()
        for linear in (
            self._transformer.semantic_head,
            self._transformer.detail_head,
            self._tokenizer.project_out,
        ):
            digest.update(linear.weight.detach().float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def has_read(self, texts: Iterable[str]) -> bool:
        """Whether texts were read before."""
        return all(text in self._encoded for text in texts)

    def read_texts(self, texts: Iterable[str]) -> None:
        """Encode the texts that will be asked for, while the text encoder is there anyway."""
        encoded = {text: self._encoded.get(text) for text in texts}
        missing = [text for text, known in encoded.items() if known is None]
        self._encoded = {text: known for text, known in encoded.items() if known is not None}
        self._encoded |= {text: self.text_encoder.encode(text) for text in missing}
        self._free_text_encoder()

    def texts(
        self, prompt: str, negative_prompt: str, *, guided: bool, empty: bool = False
    ) -> Texts:
        """Features of each branch's text.

        Args:
            prompt: the conditional branch's text, in the model's prompt form.
            negative_prompt: the other branch's; empty for the learned unconditional features.
            guided: there is another branch.
            empty: nothing but the prompt form is in the text: the learned unconditional features
                take its place, as training does with a share of all texts.
        """
        encoded = self._encode(prompt)
        learned = self._transformer.unconditional[: len(encoded.features)]
        features, notes = [learned if empty else encoded.features], []
        if encoded.cut:
            notes.append("the prompt is longer than the model reads; its end was left out")
        if guided and negative_prompt:
            encoded = self._encode(negative_prompt)
            features.append(encoded.features)
            if encoded.cut:
                notes.append("the negative prompt is longer than the model reads; it was cut")
        elif guided:
            features.append(learned)
        self._free_text_encoder()
        return Texts(features=tuple(features), notes=tuple(notes))

    def encode(self, pictures: Tensor) -> Tensor:
        """Latents `(1, C, T, h, w)` of pictures `(F, H, W, 3)`, uint8."""
        with self._tokenizer_at_work() as tokenizer:
            x = to_range(pictures.to(self.device).unsqueeze(0))
            with torch.inference_mode(), exact_convolutions():
                return tokenizer.encode(x)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures `(F, H, W, 3)`, uint8, on the CPU, of a whole video's latents.

        Raises:
            GenerationError: the decoder's output is not a number.
        """
        return torch.cat(list(self.pictures(latents)))

    def pictures(self, latents: Tensor, *, skip: int = 0, whole: bool = False) -> Iterator[Tensor]:
        """The pictures of a video's latents, those of one latent frame at a time.

        Args:
            latents: `(1, C, T, h, w)`, from the video's beginning.
            skip: latent frames at the beginning whose pictures are not wanted.
            whole: in no strips, whatever the plan: bits will be made of the pictures, and strips
                may change the last bits of a number.

        Yields:
            `(F, H, W, 3)`, uint8, on the CPU, for every latent frame from `skip` on.

        Raises:
            GenerationError: the decoder's output is not a number.
        """
        height = latents.shape[3] * SPATIAL_STRIDE
        strips: dict[int, list[Tensor]] = {}
        with self._tokenizer_at_work() as tokenizer:
            strip_rows = None if whole else self.plan.strip_rows
            pieces = tokenizer.decode_pieces(latents, skip=skip, strip_rows=strip_rows)
            while True:
                with torch.inference_mode(), exact_convolutions():
                    piece = next(pieces, None)
                    if piece is None:
                        return
                    own = strips.setdefault(piece.frame, [])
                    own.append(_to_bytes(piece.pictures))
                    is_whole = piece.row + piece.pictures.shape[3] == height
                    del piece
                if is_whole:
                    # Outside inference mode: whoever gets the pictures may change them.
                    yield torch.cat(strips.pop(min(strips)), dim=1)

    # Memory

    def step_down(self) -> MemoryPlan | None:
        """Follow the next plan, which takes less; the work of a step that failed is to be undone.

        Returns:
            the plan; None after the last.
        """
        if not self._further:
            return None
        self.plan, *self._further = self._further
        self._follow_plan()
        return self.plan

    def _follow_plan(self) -> None:
        """Bring everything to where the plan has it; what is missing comes when it is needed."""
        self._transformer.rows_at_once = self.plan.rows_at_once
        self._transformer.host_contexts_from = self.plan.host_contexts_from
        if self.source is None:
            return
        self._free_text_encoder()
        if self._has_blocks and self._resident != self.plan.resident_blocks:
            _drop_blocks(self._transformer)
            self._has_blocks = False
        if not self.plan.tokenizer_stays:
            move(self._tokenizer, torch.device("cpu"))
        _give_memory_back(self.device)

    def _bring_blocks(self) -> None:
        assert self.source is not None
        self._resident = self.plan.resident_blocks
        try:
            # Ordinary tensors, wherever they are asked for.
            with torch.inference_mode(False):
                self.source.load_blocks(self._transformer, self._resident)
        except Exception:
            _drop_blocks(self._transformer)
            raise
        self._has_blocks = True

    def _bring_text_encoder(self) -> TextEncoder:
        if self._text_encoder is None:
            assert self.source is not None
            with torch.inference_mode(False):
                tokens = self.config.text_positions
                self._text_encoder = self.source.text_encoder(max_tokens=tokens)
        return self._text_encoder

    def _free_text_encoder(self) -> None:
        """Unless it stays."""
        if self.source is not None and not self.plan.text_encoder_stays:
            self._text_encoder = None
            _give_memory_back(self.device)

    def _encode(self, text: str) -> EncodedText:
        return self._encoded.get(text) or self.text_encoder.encode(text)

    @contextmanager
    def _tokenizer_at_work(self) -> Iterator[VideoTokenizer]:
        """The tokenizer on the device; where it does not stay it goes afterwards."""
        try:
            move(self._tokenizer, self.device)
            yield self._tokenizer
        finally:
            if self.source is not None and not self.plan.tokenizer_stays:
                move(self._tokenizer, torch.device("cpu"))
                _give_memory_back(self.device)


def _drop_blocks(transformer: Transformer) -> None:
    """Take a transformer's blocks, and their memory, away."""
    config = transformer.config
    with torch.device("meta"):
        transformer.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))


def _give_memory_back(device: torch.device) -> None:
    """Let others have the device's memory that is free; torch keeps it otherwise."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _to_bytes(x: Tensor) -> Tensor:
    """Pictures `(1, 3, F, H, W)` around [-1, 1] as `(F, H, W, 3)`, uint8, cut to whole numbers."""
    if not torch.isfinite(x).all():
        raise GenerationError("the decoder's output is not a number; the weights may be damaged")
    levels = ((x[0] + 1) / 2).clamp(0, 1).mul(255).to(torch.uint8)
    return levels.permute(1, 2, 3, 0).contiguous().cpu()
