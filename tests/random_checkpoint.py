"""Write a small checkpoint with random weights: real files, real loading, pictures of noise.

    python tests/random_checkpoint.py DIRECTORY [--layout manifest|released] [--seed N]

`manifest` writes an `istar.json`; `released` uses the released names and directories, as the
480p and the interactive model. The text encoder is a T5 with a byte-level tokenizer.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from istar.checkpoint.files import INDEX_NAME
from istar.checkpoint.names import released_tokenizer_name, released_transformer_name
from istar.checkpoint.write import save_video_tokenizer
from istar.generation.schedule import PIXEL_BUDGETS
from istar.models import bundled
from istar.models.manifest import MANIFEST_NAME
from istar.models.released import RELEASED_MODELS
from istar.text_encoder import transformers_library
from istar.transformer.config import TransformerConfig
from istar.transformer.model import Transformer
from istar.video_tokenizer.config import VideoTokenizerConfig
from istar.video_tokenizer.model import VideoTokenizer

NOTICE = "this checkpoint's weights are random, for trying and testing: it makes noise"
TRANSFORMER = TransformerConfig(
    width=64,
    depth=2,
    heads=4,
    key_value_heads=2,
    head_size=16,
    mlp_width=256,
    text_channels=32,
    text_positions=512,
)
TOKENIZER = VideoTokenizerConfig(channels=(8, 8, 16, 16, 16))
QUICK_TRANSFORMER = replace(
    TRANSFORMER,
    width=16,
    depth=1,
    heads=2,
    key_value_heads=1,
    head_size=8,
    mlp_width=32,
    text_channels=128,
    text_positions=192,
)
QUICK_TOKENIZER = VideoTokenizerConfig(channels=(4, 4, 4, 4, 4))
_SHARDS = 2
_LAYERS_PER_GROUP = 2


def randomize(module: nn.Module, seed: int) -> None:
    """Fill a module's parameters with small random numbers, its gains with numbers near one."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        draw = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim == 1 or name.endswith("gain"):
            about = 0.0 if name.endswith("bias") else 1.0
            parameter.data = about + 0.02 * draw
        else:
            fan_in = parameter[0].numel()
            parameter.data = draw / fan_in**0.5


def write_transformer(directory: Path, config: TransformerConfig, seed: int) -> None:
    """Shards and an index, with the released names, tensors that nobody uses included."""
    model = Transformer(config)
    randomize(model, seed)
    tensors = {
        released_transformer_name(name, _LAYERS_PER_GROUP): tensor.detach()
        for name, tensor in model.state_dict().items()
    }
    tensors["sos_token"] = torch.zeros(1, 1, config.width)
    names = sorted(tensors)
    size = -(-len(names) // _SHARDS)
    weight_map = {}
    directory.mkdir(parents=True, exist_ok=True)
    for shard in range(_SHARDS):
        file = f"model-{shard + 1:05d}-of-{_SHARDS:05d}.safetensors"
        own = {name: tensors[name] for name in names[shard * size : (shard + 1) * size]}
        save_file(own, directory / file)
        weight_map |= dict.fromkeys(own, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (directory / INDEX_NAME).write_text(json.dumps(index))


def write_tokenizer(file: Path, config: VideoTokenizerConfig, seed: int) -> None:
    """The released form, a torch pickle `{"vae": tensors}`, unused tensors included."""
    model = VideoTokenizer(config)
    randomize(model, seed)
    state = {released_tokenizer_name(n): t.detach() for n, t in model.state_dict().items()}
    channels = config.latent_channels
    for name in ("quantizer", "quantize"):
        state[f"{name}.lfq_semantic.mask"] = 2 ** torch.arange(16)
        state[f"{name}.lfq_detail.mask"] = 2 ** torch.arange(channels)
    for name in ("proj_down_two", "proj_up_two"):
        state[f"{name}.weight"] = torch.eye(channels)
        state[f"{name}.bias"] = torch.zeros(channels)
    torch.save({"vae": state}, file)


def write_text_encoder(directory: Path, channels: int, seed: int) -> None:
    """A small T5 encoder with a byte-level tokenizer, as transformers writes them."""
    library = transformers_library()
    torch.manual_seed(seed)
    tokenizer = library.ByT5Tokenizer()
    config = library.T5Config(
        vocab_size=len(tokenizer),
        d_model=channels,
        d_kv=8,
        d_ff=2 * channels,
        num_layers=2,
        num_heads=4,
    )
    library.T5EncoderModel(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def write_checkpoint(
    directory: Path,
    *,
    layout: str = "manifest",
    seed: int = 0,
    sides: tuple[int, ...] | None = None,
) -> Path:
    """Write all of a checkpoint; returns its directory.

    Args:
        directory: where; made if need be.
        layout: `manifest` or `released`.
        seed: of the weights.
        sides: manifest only: side lengths of a pyramid of its own, in place of 192p's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if layout == "released":
        spec = RELEASED_MODELS[1]
        names = [spec.transformer, RELEASED_MODELS[2].transformer]
        tokenizer, text_encoder = spec.tokenizer, spec.text_encoder
    else:
        names, tokenizer, text_encoder = ["transformer"], "videovae.pth", "text_encoder"
        (directory / "istar.json").write_text(json.dumps(manifest(sides), indent=2))
    for number, name in enumerate(names):
        write_transformer(directory / name, TRANSFORMER, seed + number)
    write_tokenizer(directory / tokenizer, TOKENIZER, seed)
    write_text_encoder(directory / text_encoder, TRANSFORMER.text_channels, seed)
    return directory


def write_quick_tiny(directory: Path) -> Path:
    """Write a model as the bundled one in all but its pictures, which are noise; returns it.

    It has that one's scales, sizes of pictures, settings and text encoder, and takes about half of
    its time.
    """
    shutil.copytree(bundled.DIRECTORY / "text_encoder", directory / "text_encoder")
    described = json.loads((bundled.DIRECTORY / MANIFEST_NAME).read_text())
    del described["hashes"]
    described["transformer"]["sizes"] = asdict(QUICK_TRANSFORMER)
    described["tokenizer"]["sizes"] = asdict(QUICK_TOKENIZER)
    (directory / MANIFEST_NAME).write_text(json.dumps(described))
    write_transformer(directory / described["transformer"]["path"], QUICK_TRANSFORMER, seed=0)
    tokenizer = VideoTokenizer(QUICK_TOKENIZER)
    randomize(tokenizer, seed=0)
    save_video_tokenizer(directory / described["tokenizer"]["path"], tokenizer)
    return directory


def manifest(sides: tuple[int, ...] | None = None) -> dict[str, object]:
    """An `istar.json` for a model of few pixels that can do everything."""
    budget: object = "0.06M"
    if sides:
        budget = {"name": "own", "resolution": "192p", "sides": sides}
    scales = len(sides or PIXEL_BUDGETS["0.06M"].sides)
    return {
        "istar": 1,
        "name": "random",
        "transformer": {"path": "transformer"},
        "tokenizer": {"path": "videovae.pth", "sizes": {"channels": [8, 8, 16, 16, 16]}},
        "text_encoder": {"path": "text_encoder"},
        "pixel_budget": budget,
        "semantic_scales": min(8, scales - 1),
        "repeats": {"image": [1] * scales, "video": [1] * scales},
        "guidance": {"kind": "apg", "scale": 34},
        "tau": {"image": 1.0, "video": 0.4},
        "prompt": {"prefix": "<<<t={seconds}s>>>", "suffix": ", in detail"},
        "clip_frames": 20,
        "max_seconds": 10,
        "interact": {
            "repeats": [1] * scales,
            "guidance": {"kind": "cfg", "scale": 3},
            "tau": 0.5,
            "context_scale": min(7, scales - 1),
        },
        "notice": NOTICE,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--layout", choices=("manifest", "released"), default="manifest")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(write_checkpoint(arguments.directory, layout=arguments.layout, seed=arguments.seed))
