"""Strings to embeddings: any T5-family encoder, with its tokenizer."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from istar.checkpoint.encoder_files import check_text_encoder
from istar.checkpoint.files import explained_file_errors
from istar.errors import CheckpointError
from istar.models.hub_settings import import_client

_LOCAL = {"local_files_only": True, "trust_remote_code": False}
_FLAN_T5_XL = {
    "vocab_size": 32128,
    "d_model": 2048,
    "d_kv": 64,
    "d_ff": 5120,
    "num_layers": 24,
    "num_heads": 32,
    "feed_forward_proj": "gated-gelu",
}


class EncodedText(NamedTuple):
    """An encoded text.

    Attributes:
        features: `(L, text_channels)`, float32, no padding.
        cut: the text was longer than the model reads, and its end was left out.
    """

    features: Tensor
    cut: bool


class TextEncoder:
    """A T5-family encoder and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, max_tokens: int) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._max_tokens = max_tokens

    @property
    def channels(self) -> int:
        """Features of a text token."""
        return int(self._model.config.d_model)

    @classmethod
    def from_directory(
        cls,
        path: Path,
        *,
        max_tokens: int = 512,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> TextEncoder:
        """Load an encoder and its tokenizer; nothing is fetched, no code of theirs is run.

        Args:
            path: a directory with `config.json`, safetensors weights and tokenizer files.
            max_tokens: the longest text, its end mark included.
            device: where the encoder computes.
            dtype: of the encoder.

        Raises:
            CheckpointError: a file is missing or malformed, a weight missing or of the wrong
                shape, or the model is not of the T5 family.
        """
        model, tokenizer = _load(path, dtype)
        return cls(model.to(device).eval(), tokenizer, max_tokens)

    @classmethod
    def new(
        cls, *, channels: int, layers: int, heads: int, mlp_width: int, max_tokens: int
    ) -> TextEncoder:
        """A small T5 encoder with random weights and a byte-level tokenizer, to be trained.

        Args:
            channels: features of a token.
            layers: blocks.
            heads: of the attention; they share the channels.
            mlp_width: features inside the MLP.
            max_tokens: the longest text, its end mark included.
        """
        transformers = transformers_library()
        tokenizer = transformers.ByT5Tokenizer(extra_ids=0)
        config = transformers.T5Config(
            vocab_size=len(tokenizer),
            d_model=channels,
            d_kv=channels // heads,
            d_ff=mlp_width,
            num_layers=layers,
            num_heads=heads,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
        )
        return cls(transformers.T5EncoderModel(config), tokenizer, max_tokens)

    @classmethod
    def without_weights(
        cls, path: Path | None, *, max_tokens: int, tokens: int | None = None
    ) -> TextEncoder:
        """An encoder on the meta device, and its tokenizer.

        Args:
            path: a directory as `from_directory` takes it; None for Flan-T5-XL's sizes, of which
                no tokenizer is at hand: `tokens` must be given.
            max_tokens: the longest text, its end mark included.
            tokens: the length of every text, whatever it says, in place of a tokenizer.

        Raises:
            CheckpointError: as `from_directory`, but for weights.
        """
        if path is None:
            config = transformers_library().T5Config(**_FLAN_T5_XL)
        else:
            vocabulary, _ = check_text_encoder(path)
            config = _config(path)
        with torch.device("meta"):
            model = transformers_library().AutoModelForTextEncoding.from_config(
                config, dtype=torch.float32
            )
        if tokens is not None:
            ids = [1] * tokens
            return cls(model.eval(), lambda text: {"input_ids": ids}, max_tokens)
        assert path is not None
        return cls(model.eval(), _tokenizer(path, vocabulary, config), max_tokens)

    def starting_spread(self, name: str) -> float:
        """The standard deviation of a matrix of a new encoder, around 0.

        Source: T5 (arXiv 1910.10683), its initializers in Mesh TensorFlow.
        """
        config = self._model.config
        if name == "shared.weight":
            return 1.0
        inputs = self._model.get_parameter(name).shape[1]
        if name.endswith("relative_attention_bias.weight"):
            inputs = config.d_model
        elif name.endswith("SelfAttention.q.weight"):
            inputs *= config.d_kv
        return float(inputs**-0.5)

    @property
    def module(self) -> nn.Module:
        """The encoder's weights."""
        module: nn.Module = self._model
        return module

    def tokenize(self, text: str) -> Tensor:
        """The ids `(L,)` of a text, cut at the longest that the model reads."""
        return torch.tensor(self._ids(text)[0], device="cpu")

    def cuts(self, text: str) -> bool:
        """Whether a text is longer than the model reads, so that its end is left out."""
        return self._ids(text)[1]

    def _ids(self, text: str) -> tuple[list[int], bool]:
        """A text's ids, its end mark last, and whether its end was cut off.

        The tokenizer is never asked to cut: how long texts may be is a state of its own, which
        threads that share it would change for each other.
        """
        ids: list[int] = self._tokenizer(text)["input_ids"]
        if len(ids) <= self._max_tokens:
            return ids, False
        return [*ids[: self._max_tokens - 1], ids[-1]], True

    def features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The last hidden states of several texts at once, with gradients.

        Args:
            ids: `(N, M)`; what follows a text's end is not looked at.
            lengths: `(N,)`.

        Returns:
            `(sum of lengths, channels)`, text by text.
        """
        real = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        states = self._model(input_ids=ids, attention_mask=real.long()).last_hidden_state
        features: Tensor = states[real]
        return features

    def save(self, target: Path) -> None:
        """Write the encoder and its tokenizer as `from_directory` reads them."""
        _save_model(self._model, target)
        self._tokenizer.save_pretrained(target)

    def encode(self, text: str) -> EncodedText:
        """The last hidden state of a text, cut at the longest that the model reads."""
        ids, cut = self._ids(text)
        tokens = torch.tensor([ids], device=self._model.device)
        with torch.inference_mode():
            features = self._model(input_ids=tokens).last_hidden_state[0]
        return EncodedText(features.float(), cut)


def text_encoder_dtype(name: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of one of an encoder's parameters.

    Under float16 transformers keeps the last layer of every MLP in float32.
    """
    is_kept = dtype == torch.float16 and name.endswith(".wo.weight")
    return torch.float32 if is_kept else dtype


def _save_model(model: Any, target: Path) -> None:
    """Write weights that whoever may read the configuration beside them may read, too."""
    with quiet_transformers():
        model.save_pretrained(target)
    usual = (target / "config.json").stat().st_mode
    for weights in target.glob("*.safetensors"):
        weights.chmod(usual)


def save_encoder(path: Path, target: Path) -> None:
    """Write the encoder of a directory, without a decoder that may be there, and its tokenizer.

    Args:
        path: as `TextEncoder.from_directory` takes it.
        target: a directory to make; the weights in it are float32 safetensors.

    Raises:
        CheckpointError: as `TextEncoder.from_directory`.
    """
    model, _ = _load(path, torch.float32)
    _save_model(model, target)
    for file in path.iterdir():
        is_text = file.suffix in (".json", ".model", ".txt", ".jinja")
        if is_text and file.name != "config.json" and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)


def _load(path: Path, dtype: torch.dtype) -> tuple[Any, Any]:
    """The encoder and the tokenizer of a directory.

    Raises:
        CheckpointError: as `TextEncoder.from_directory`.
    """
    vocabulary, weights = check_text_encoder(path)
    config = _config(path)
    with quiet_transformers(), torch.device("cpu"), explained_file_errors(weights):
        model, report = transformers_library().AutoModelForTextEncoding.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in the report
            output_loading_info=True,
            **_LOCAL,
        )
    for name in sorted(report["missing_keys"]):
        raise CheckpointError(f"{weights}: the text encoder lacks tensor {name}")
    for name, shape, expected in sorted(report["mismatched_keys"]):
        raise CheckpointError(
            f"{weights}: tensor {name} is {tuple(shape)}, expected {tuple(expected)}"
        )
    return model, _tokenizer(path, vocabulary, config)


def _config(path: Path) -> Any:
    """The settings of an encoder."""
    with quiet_transformers(), explained_file_errors(path / "config.json"):
        return transformers_library().AutoConfig.from_pretrained(path, **_LOCAL)


def _tokenizer(path: Path, vocabulary: Path, config: Any) -> Any:
    """The tokenizer of a directory.

    Raises:
        CheckpointError: it is damaged, or of another encoder than `config` describes.
    """
    with quiet_transformers(), torch.device("cpu"), explained_file_errors(vocabulary):
        tokenizer = transformers_library().AutoTokenizer.from_pretrained(path, **_LOCAL)
        largest = max(tokenizer("a red circle")["input_ids"])
    if largest >= config.vocab_size:
        raise CheckpointError(
            f"{path}: the tokenizer has tokens that the encoder does not know: "
            "they do not belong together"
        )
    return tokenizer


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from printing; its settings are put back."""
    logging = transformers_library().utils.logging
    verbosity = logging.get_verbosity()
    shows_bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shows_bars:
            logging.enable_progress_bar()


def transformers_library() -> Any:
    """The library, which imports the Hub's client.

    Raises:
        HubError: that refuses its settings.
    """
    import_client()
    if "transformers.modeling_utils" not in sys.modules:
        with _hidden("torchao"):
            import transformers.modeling_utils
    import transformers

    return transformers


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """Let a package seem not to be installed.

    Where torchao is, transformers imports it with its models: two seconds, and lines on stderr.
    """
    modules: dict[str, Any] = sys.modules
    before = modules.get(package)
    modules[package] = None
    try:
        yield
    finally:
        del modules[package]
        if before is not None:
            modules[package] = before
