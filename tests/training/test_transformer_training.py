"""Training the transformer: batches, what learns and what does not, and what comes out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from istar.checkpoint.read import load_video_tokenizer
from istar.checkpoint.write import save_transformer, save_video_tokenizer
from istar.errors import UsageError
from istar.pipeline import InfinityStarPipeline
from istar.request import GenerationRequest
from istar.text_encoder import TextEncoder
from istar.training.config import MixConfig, TextConfig, TransformerTraining
from istar.training.distributed import Share
from istar.training.latents import read_prepared
from istar.training.log import LOG_NAME, read_log
from istar.training.losses import bit_loss
from istar.training.sequences import DETAIL, NO_LOSS, SEMANTIC
from istar.training.transformer import TransformerTask
from random_checkpoint import write_text_encoder
from small_training import (
    CPU,
    losses,
    network_of,
    prepared,
    run_config,
    transformer_run,
    write_manifest,
)


def weights_of(task: TransformerTask) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in task.network.named_parameters()}


@pytest.mark.slow
def test_workers_change_nothing(config: TransformerTraining, tmp_path: Path) -> None:
    helped = replace(config, run=run_config(tmp_path / "helped", steps=4, workers=1))
    assert losses(TransformerTask(config), config.run) == losses(
        TransformerTask(helped), helped.run
    )


def test_an_interrupted_run_continues_exactly(config: TransformerTraining, tmp_path: Path) -> None:
    losses(TransformerTask(config), config.run)
    cut = replace(config, run=replace(config.run, output=tmp_path / "cut"))
    losses(TransformerTask(cut), cut.run, stop_after=3)
    losses(TransformerTask(cut), cut.run)
    whole, resumed = (one.run.output for one in (config, cut))
    assert (whole / LOG_NAME).read_bytes() == (resumed / LOG_NAME).read_bytes()
    model = Path("model", "transformer", "model.safetensors")
    assert (whole / model).read_bytes() == (resumed / model).read_bytes()
    line = read_log(whole / LOG_NAME)[-1]
    assert {"loss", "right", "right_0", "right_1", "gradient", "learning_rate"} < line.keys()


@pytest.mark.parametrize(
    "name", ["tokenizer.safetensors", pytest.param("tokenizer.pth", marks=pytest.mark.slow)]
)
def test_what_is_exported_generates(config: TransformerTraining, tmp_path: Path, name: str) -> None:
    manifest = write_manifest(tmp_path / "other")
    manifest.write_text(manifest.read_text().replace("tokenizer.safetensors", name))
    task = TransformerTask(replace(config, model=manifest))
    weights = {name: value + 0.01 for name, value in weights_of(task).items()}
    task.export(weights, tmp_path / "model")
    pipeline = InfinityStarPipeline.from_pretrained(tmp_path / "model", device="cpu")
    found = pipeline.networks.transformer.state_dict()
    for key, value in found.items():
        assert torch.equal(value, weights[f"transformer.{key}"])
    task.network.load_state_dict(
        {k: weights.get(k, v) for k, v in task.network.state_dict().items()}
    )
    text = network_of(task).text_module.get_submodule("encoder.block.0.layer.1")
    loaded = pipeline.networks.text_encoder.module.get_submodule("encoder.block.0.layer.1")
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, text.state_dict()[key])
    picture = pipeline.generate(GenerationRequest(mode="t2i", prompt="a circle", seed=1))
    assert picture.frames.shape == (1, 32, 48, 3)
    clip = pipeline.generate(GenerationRequest(mode="t2v", prompt="a circle", seconds=2, seed=1))
    assert clip.frames.shape[1:] == (32, 48, 3)
    assert len(clip.frames) in (32, 33)


def test_dropped_texts_teach_the_unconditional_features_and_no_encoder(
    config: TransformerTraining,
) -> None:
    gradients = {}
    for share in (0.0, 1.0):
        task = TransformerTask(replace(config, data=replace(config.data, text_dropout=share)))
        batch = task.batch(0, Share())
        assert batch.unconditional.all() if share else not batch.unconditional.any()
        task.loss(batch, 0, CPU).total.backward()
        network = network_of(task)
        learned = network.transformer.unconditional.grad
        assert learned is not None
        encoder = network.text_module.get_submodule("encoder.block.0.layer.0").parameters()
        gradients[share] = [
            float(learned.abs().sum()),
            float(sum(p.grad.abs().sum() for p in encoder if p.grad is not None)),
        ]
        if share:
            longest = int(batch.text_lengths.max())
            assert learned[:longest].abs().sum(1).all()
            assert not learned[longest:].any()
    assert gradients[0.0][0] == 0
    assert gradients[0.0][1] > 0
    assert gradients[1.0][0] > 0
    assert gradients[1.0][1] == 0


def test_self_correction_is_taught_on_the_same_examples(config: TransformerTraining) -> None:
    batches = []
    for most_flips in (0.0, 0.3):
        data = replace(config.data, most_flips=most_flips)
        batches.append(TransformerTask(replace(config, data=data)).batch(0, Share()))
    assert torch.equal(batches[0].texts, batches[1].texts)
    assert torch.equal(batches[0].group, batches[1].group)
    assert not torch.equal(batches[0].inputs, batches[1].inputs)


def test_interactive_examples_need_a_model_that_interacts(
    config: TransformerTraining, tmp_path: Path
) -> None:
    manifest = json.loads(config.model.read_text())
    del manifest["interact"]
    model = tmp_path / "istar.json"
    model.write_text(json.dumps(manifest))
    with pytest.raises(UsageError, match="cannot interact; leave that kind out of the mix"):
        TransformerTask(replace(config, model=model))


def test_recomputing_gives_the_same_gradients(config: TransformerTraining) -> None:
    found = []
    for recompute in (False, True):
        task = TransformerTask(replace(config, recompute=recompute))
        loss = task.loss(task.batch(0, Share()), 0, CPU).total
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in task.network.parameters())])
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's compiler warns of its own doings
def test_compiling_gives_the_same_gradients(config: TransformerTraining) -> None:
    found = []
    for compile_blocks in (False, True):
        task = TransformerTask(replace(config, compile=compile_blocks))
        batches = [task.batch(step, Share()) for step in range(4)]
        assert len({batch.inputs.shape[1] for batch in batches}) == 2
        if compile_blocks:
            with (
                torch.compiler.set_stance("fail_on_recompile"),
                pytest.raises(RuntimeError, match="recompile"),
            ):
                task.loss(batches[0], 0, CPU)
        totals = torch.stack([task.loss(batch, 0, CPU).total for batch in batches])
        totals.sum().backward()
        found.append([totals.detach(), *(p.grad for p in task.network.parameters())])
        if compile_blocks:  # other examples in rows of the same lengths are nothing new
            with torch.compiler.set_stance("fail_on_recompile"):
                task.loss(task.batch(4, Share()), 0, CPU)
    for one, other in zip(*found, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.allclose(one, other, rtol=1e-4, atol=1e-6)


def test_an_encoder_that_does_not_learn_stays_as_it_is(
    config: TransformerTraining, place: Path, tmp_path: Path
) -> None:
    write_text_encoder(tmp_path / "t5", 16, seed=1)
    text = TextConfig(start=tmp_path / "t5", train=False)
    config = replace(config, text=text, run=replace(config.run, steps=2))
    task = TransformerTask(config)
    start_weights = weights_of(task)
    losses(task, config.run)
    for name, value in weights_of(task).items():
        assert torch.equal(value, start_weights[name]) == name.startswith("text_module."), name
    exported = TextEncoder.from_directory(config.run.output / "model" / "text_encoder")
    original = TextEncoder.from_directory(tmp_path / "t5")
    texts = [encoder.encode("a star").features for encoder in (exported, original)]
    assert torch.equal(texts[0], texts[1])


def test_an_encoder_of_another_width_is_refused(
    config: TransformerTraining, tmp_path: Path
) -> None:
    write_text_encoder(tmp_path / "t5", 24, seed=1)
    config = replace(config, text=TextConfig(start=tmp_path / "t5"))
    with pytest.raises(UsageError, match=r"t5 has 24 channels and the transformer reads 16: they"):
        TransformerTask(config)


def test_a_given_encoder_learns_without_its_dropout(
    config: TransformerTraining, tmp_path: Path
) -> None:
    write_text_encoder(tmp_path / "t5", 16, seed=1)
    settings = json.loads((tmp_path / "t5" / "config.json").read_text())
    assert settings["dropout_rate"] > 0
    config = replace(config, text=TextConfig(start=tmp_path / "t5"))
    task = TransformerTask(config)
    task.network.train()
    batch = task.batch(0, Share())
    assert task.loss(batch, 0, CPU).total.item() == task.loss(batch, 0, CPU).total.item()
    losses(task, config.run, stop_after=1)
    moved = weights_of(task)["text_module.encoder.block.0.layer.1.DenseReluDense.wi.weight"]
    given = weights_of(TransformerTask(config))
    assert not torch.equal(
        moved, given["text_module.encoder.block.0.layer.1.DenseReluDense.wi.weight"]
    )


def test_a_transformer_can_start_from_another(config: TransformerTraining) -> None:
    config = replace(config, run=replace(config.run, steps=1))
    losses(TransformerTask(config), config.run)
    model = config.run.output / "model"
    started = TransformerTask(
        replace(
            config,
            start=model / "transformer",
            text=TextConfig(start=model / "text_encoder"),
        )
    )
    trained = InfinityStarPipeline.from_pretrained(model, device="cpu").networks.transformer
    for name, value in trained.state_dict().items():
        assert torch.equal(weights_of(started)[f"transformer.{name}"], value)


def test_heads_are_float32_whatever_the_rest_is(config: TransformerTraining) -> None:
    task = TransformerTask(replace(config, data=replace(config.data, rows=(192,), tokens=1536)))
    batch = task.batch(0, Share())
    exact = task.loss(batch, 0, CPU)
    with torch.autocast("cpu", torch.bfloat16):
        outcome = task.network(batch, train_text=True, recompute=False)
        rounded = task.loss(batch, 0, CPU)
    assert outcome.semantic.dtype == outcome.detail.dtype == torch.float32
    assert rounded.total.item() == pytest.approx(exact.total.item(), rel=1e-2)
    assert float(rounded.measures["right"]) == pytest.approx(
        float(exact.measures["right"]), abs=0.03
    )


def test_bf16_runs(config: TransformerTraining) -> None:
    config = replace(config, run=replace(config.run, precision="bf16", steps=2))
    found = losses(TransformerTask(config), config.run)
    assert all(0.3 < loss < 1.5 for loss in found.values())


@pytest.mark.parametrize("by_magnitude", [False, True])
def test_the_loss_weighs_tokens_as_their_steps(
    config: TransformerTraining, by_magnitude: bool
) -> None:
    """Per step: the mean over bits and tokens; then a mean, weighted by tokens times weight."""
    task = TransformerTask(
        replace(config, data=replace(config.data, weigh_by_magnitude=by_magnitude))
    )
    batch = task.batch(0, Share())
    with torch.no_grad():
        outcome = task.network(batch, train_text=True, recompute=False)
        loss = bit_loss(outcome.semantic, outcome.detail, batch, scales=2)
        found = task.loss(batch, 0, CPU)
    total, weights = torch.zeros(()), torch.zeros(())
    right, count = torch.zeros(2), torch.zeros(2)
    for kind, logits in ((SEMANTIC, outcome.semantic), (DETAIL, outcome.detail)):
        own = batch.kind == kind
        row = torch.arange(len(own))[:, None].expand_as(own)[own]
        targets = batch.targets[own][:, : logits.shape[1]].long()
        bit_weights = batch.bit_weight[own][:, : logits.shape[1]]
        assert bit_weights.eq(1).all() != by_magnitude
        steps_in_batch = torch.stack([row, batch.group[own]], dim=1)
        for one in steps_in_batch.unique(dim=0):
            here = (steps_in_batch == one).all(1)
            entropies = F.cross_entropy(
                logits[here].flatten(0, 1), targets[here].flatten(), reduction="none"
            )
            assert bit_weights[here].mean().item() == pytest.approx(1, rel=1e-5)
            entropy = (entropies * bit_weights[here].flatten()).mean()
            weight = here.sum() * batch.weight[own][here][0]
            total, weights = total + weight * entropy, weights + weight
            scale = int(batch.scale[own][here][0])
            right[scale] += (logits[here].argmax(-1) == targets[here]).sum()
            count[scale] += targets[here].numel()
    assert float(found.total) == pytest.approx(float(total / weights), rel=1e-5)
    assert loss.bits.tolist() == count.tolist()
    assert loss.right.tolist() == right.tolist()
    assert float(found.measures["right"]) == pytest.approx(float(right.sum() / count.sum()))
    assert float(found.measures["right_1"]) == pytest.approx(float(right[1] / count[1]))
    assert (batch.kind == NO_LOSS).any()


def test_a_scale_without_bits_is_not_measured(config: TransformerTraining) -> None:
    """Rows that are too short for the larger one have none of its bits."""
    task = TransformerTask(config)
    batch = task.batch(0, Share())
    kind = batch.kind.masked_fill(batch.scale == 1, NO_LOSS)
    measures = task.loss(batch._replace(kind=kind), 0, CPU).measures
    assert measures.keys() == {"right_0", "right"}
    assert measures["right_0"] == measures["right"]


def test_long_captions_are_counted_at_the_start(
    config: TransformerTraining,
    sets: tuple[Path, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clips = Path(copytree(sets[1], tmp_path / "clips"))
    data = replace(config.data, sets=(clips,), mix=(MixConfig(seconds=1),))

    def started(longest: int) -> TransformerTask:
        captions = iter(["x" * longest, *7 * ["a short one"]])
        for index in sorted(clips.glob("*.jsonl")):
            lines = [json.loads(line) for line in index.read_text().splitlines()]
            own = [json.dumps(line | {"captions": [next(captions)]}) for line in lines]
            index.write_text("\n".join(own) + "\n")
        return TransformerTask(replace(config, data=data))

    most = 96 - len("1s: ") - 1  # and the end mark
    task = started(most + 1)
    batch = task.batch(0, Share())
    note = "captions that are longer than the 96 tokens that the model reads lose their ends: "
    assert task.remarks(batch) == (f"{note}1 of the 8 looked at",)
    assert task.remarks(batch) == ()
    assert started(most).remarks(batch) == ()
    monkeypatch.setattr("istar.training.examples._LOOKED_AT", 3)
    assert started(most + 1).remarks(batch) == (f"{note}1 of the 3 looked at",)


def test_training_reduces_the_loss(config: TransformerTraining, sets: tuple[Path, ...]) -> None:
    run = replace(config.run, steps=20, learning_rate=1e-2, save_every=100, warmup=3)
    data = replace(config.data, sets=sets[1:2], mix=(MixConfig(seconds=1),), tokens=384)
    found = losses(TransformerTask(replace(config, data=data)), run)
    first, last = (sum(found[n] for n in numbers) / 5 for numbers in (range(1, 6), range(16, 21)))
    assert last < 0.85 * first


def test_sets_that_are_too_short_are_refused(
    config: TransformerTraining, sets: tuple[Path, ...]
) -> None:
    data = replace(config.data, sets=sets[:2])
    with pytest.raises(UsageError, match="no prepared clip has the 9 latent frames"):
        TransformerTask(replace(config, data=data))


def test_latents_of_another_size_are_refused(config: TransformerTraining, tmp_path: Path) -> None:
    manifest = write_manifest(tmp_path / "larger", sides=(1, 3))
    with pytest.raises(UsageError, match="2 by 2 are not of the manifest's pixel budget"):
        TransformerTask(replace(config, model=manifest))


def test_captions_of_other_clips_are_refused(
    config: TransformerTraining, sets: tuple[Path, ...], tmp_path: Path
) -> None:
    copy = Path(copytree(sets[2], tmp_path / "set"))
    origin = json.loads((copy / "set.json").read_text())
    assert origin["clip_seconds"] == 1
    (copy / "set.json").write_text(json.dumps(origin | {"clip_seconds": 2}))
    data = replace(config.data, sets=(*sets[:2], copy))
    with pytest.raises(UsageError, match="captions for clips of 2 s, and the manifest's have 1 s"):
        TransformerTask(replace(config, data=data))


def test_a_new_encoder_beside_trained_weights_is_said(
    config: TransformerTraining, tmp_path: Path
) -> None:
    save_transformer(tmp_path, network_of(TransformerTask(config)).transformer)
    task = TransformerTask(replace(config, start=tmp_path))
    assert any("the text encoder is new" in note for note in task.remarks(task.batch(0, Share())))


def test_latents_of_another_tokenizer_are_refused(
    config: TransformerTraining, tmp_path: Path
) -> None:
    tokenizer = load_video_tokenizer(config.tokenizer)
    tokenizer.project_in.weight.data *= 1.1
    other = tmp_path / "other.safetensors"
    save_video_tokenizer(other, tokenizer)
    with pytest.raises(UsageError, match=r"prepared with another tokenizer than .*other\.safet"):
        TransformerTask(replace(config, tokenizer=other))


@pytest.mark.slow
def test_eight_clips_can_be_learned_by_heart(tmp_path: Path) -> None:
    sets = prepared(tmp_path)
    run = run_config(
        tmp_path / "run",
        steps=400,
        learning_rate=5e-3,
        warmup=20,
        save_every=1000,
        clip_norm=1.0,
        ema=0.98,
    )
    mix = (MixConfig(seconds=1),)
    data = {"sets": sets[1:2], "mix": mix, "rows": (256,), "tokens": 1024}
    data |= {"most_flips": 0.0, "text_dropout": 0.0}
    config = transformer_run(tmp_path, sets, run=run, data=data)
    assert len(read_prepared(sets[1])) == 8
    losses(TransformerTask(config), run)
    lines = read_log(run.output / LOG_NAME)
    assert sum(line["right"] for line in lines[-10:]) / 10 > 0.95
