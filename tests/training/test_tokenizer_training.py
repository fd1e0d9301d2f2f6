"""Training the tokenizer: what is learned, from what it starts, and what comes out."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from istar.checkpoint.read import load_video_tokenizer
from istar.errors import CheckpointError, UsageError
from istar.generation.canvas import Canvas
from istar.generation.residual import bits_of_latent
from istar.generation.schedule import PyramidKind, nearest_template
from istar.lab.world import random_scene
from istar.media import write_picture
from istar.plan import Window
from istar.training.config import (
    ClipsConfig,
    InheritanceConfig,
    QuantizerConfig,
    ReconstructionConfig,
    TokenizerTraining,
)
from istar.training.discriminator import Discriminator, adversarial_terms
from istar.training.distributed import Share
from istar.training.events import Remarked, Saved
from istar.training.log import LOG_NAME, read_log
from istar.training.tokenizer import ClipBatch, TokenizerTask, clips_of, reconstruct, spread
from istar.training.trainer import train
from istar.video_tokenizer.model import VideoTokenizer
from small_training import (
    CPU,
    losses,
    run_config,
    tokenizer_run,
    write_manifest,
    write_tokenizer,
)


@pytest.fixture
def config(tmp_path: Path) -> TokenizerTraining:
    """A run of a few steps."""
    return tokenizer_run(tmp_path)


def weights_of(task: TokenizerTask) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in task.network.named_parameters()}


def tokenizer_of(task: TokenizerTask) -> VideoTokenizer:
    tokenizer = task.network.get_submodule("tokenizer")
    assert isinstance(tokenizer, VideoTokenizer)
    return tokenizer


def pictures_of(batch: ClipBatch) -> Tensor:
    return batch.pictures.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


@pytest.mark.parametrize("name", ["tokenizer.safetensors", "tokenizer.pth"])
def test_what_is_exported_loads_and_does_as_the_weights_do(
    config: TokenizerTraining, tmp_path: Path, name: str
) -> None:
    manifest = config.model.read_text().replace("tokenizer.safetensors", name)
    config.model.write_text(manifest)
    task = TokenizerTask(config)
    weights = {name: value + 0.01 for name, value in weights_of(task).items()}
    task.export(weights, tmp_path / "model")
    loaded = load_video_tokenizer(tmp_path / "model" / name, task.spec.tokenizer_config)
    task.network.load_state_dict(weights)
    x = pictures_of(task.batch(0, Share()))
    with torch.no_grad():
        latent = loaded.encode(x)
        assert torch.allclose(latent, tokenizer_of(task).encode(x), atol=1e-5)
        assert torch.allclose(loaded.decode(latent), tokenizer_of(task).decode(latent), atol=1e-5)


def test_what_the_run_leaves_is_the_averaged_tokenizer(config: TokenizerTraining) -> None:
    config = replace(config, run=replace(config.run, steps=2, sample_every=2))
    task = TokenizerTask(config)
    losses(task, config.run)
    model = load_video_tokenizer(config.run.output / "model" / "tokenizer.safetensors")
    trained = tokenizer_of(task).state_dict()
    start = tokenizer_of(TokenizerTask(config)).state_dict()
    name = "encoder.conv_in.weight"
    found = model.state_dict()[name]
    assert not torch.equal(found, trained[name])
    assert not torch.equal(found, start[name])
    assert (found - trained[name]).norm() < (start[name] - trained[name]).norm()
    assert (config.run.output / "samples" / "step-00000002.png").is_file()


def test_batches_follow_from_the_step_alone(config: TokenizerTraining) -> None:
    one, other = TokenizerTask(config), TokenizerTask(config)
    for step in range(4):
        a, b = one.batch(step, Share()), other.batch(step, Share())
        assert torch.equal(a.pictures, b.pictures)
        assert torch.equal(a.dropped, b.dropped)
        assert a.pictures.shape[1] in (1, 5)
        assert a.pictures.shape[0] == 10 // a.pictures.shape[1]
    assert len({bytes(one.batch(step, Share()).pictures[0, 0].numpy()) for step in range(4)}) == 4


def test_processes_share_one_batch(config: TokenizerTraining) -> None:
    task = TokenizerTask(config)
    for step in range(4):
        whole = task.batch(step, Share())
        parts = [task.batch(step, Share(rank=rank, processes=2)) for rank in range(2)]
        for rank, part in enumerate(parts):
            assert torch.equal(part.pictures, whole.pictures[rank::2])
            assert torch.equal(part.dropped, whole.dropped[rank::2])


def test_each_of_the_last_scales_is_lost_as_often_as_asked_for(tmp_path: Path) -> None:
    model = write_manifest(tmp_path / "deep", sides=(1, 2, 3))

    def drawn(probability: float, most: int) -> list[tuple[bool, ...]]:
        quantizer = QuantizerConfig(drop_probability=probability, drop_most=most)
        data = ClipsConfig(lengths=(1,), pictures=40)
        config = tokenizer_run(tmp_path, data=data, quantizer=quantizer)
        task = TokenizerTask(replace(config, model=model))
        return [tuple(n) for step in range(5) for n in task.batch(step, Share()).dropped.tolist()]

    assert set(drawn(0.0, 2)) == {(False, False)}
    assert set(drawn(1.0, 0)) == {()}
    assert set(drawn(1.0, 2)) == {(True, True)}
    some = drawn(0.3, 2)
    assert len(set(some)) == 4
    for lost in zip(*some, strict=True):
        assert 0.2 < sum(lost) / len(lost) < 0.4


def test_a_depth_at_which_nothing_is_left_is_refused(tmp_path: Path) -> None:
    config = tokenizer_run(tmp_path, quantizer=QuantizerConfig(drop_most=2))
    with pytest.raises(UsageError, match="drop_most must be below 2, the scales of a clip"):
        TokenizerTask(config)


@pytest.mark.parametrize("pyramid", ["image_first", "one"])
@pytest.mark.parametrize("frames", [1, 3, 9])
def test_clips_are_those_of_generation(
    config: TokenizerTraining, frames: int, pyramid: PyramidKind
) -> None:
    spec = replace(TokenizerTask(config).spec, pyramid=pyramid, extends=False, interact=None)
    latent = torch.arange(frames).view(1, 1, -1, 1, 1).expand(2, 64, -1, 2, 2).float()
    clips = clips_of(latent, spec)
    window = Window(given_seconds=0, new_seconds=(frames - 1) / 4)
    assert [step for _, own in clips for step in own] == list(
        window.steps(spec, nearest_template(1.0))
    )
    assert torch.equal(torch.cat([part for part, _ in clips], dim=2), latent)


def test_a_window_has_the_pyramid_up_to_its_own_size(tmp_path: Path) -> None:
    data = ClipsConfig(lengths=(5,), pictures=10, window=32)
    config = tokenizer_run(tmp_path, data=data)
    write_manifest(tmp_path, sides=(1, 2, 3))
    task = TokenizerTask(config)
    batch = task.batch(0, Share())
    assert batch.pictures.shape == (2, 5, 32, 32, 3)
    clips = clips_of(torch.zeros(2, 64, 2, 2, 2), task.spec)
    for number, (_, own) in enumerate(clips):
        assert [(step.clip, step.grid[1:], step.semantic) for step in own] == [
            (number, (1, 1), True),
            (number, (1, 1), True),
            (number, (2, 2), False),
        ]
    assert task.loss(batch, 0, CPU).total.isfinite()


def test_reconstruction_is_what_generation_would_draw(config: TokenizerTraining) -> None:
    task = TokenizerTask(config)
    tokenizer = tokenizer_of(task)
    x = pictures_of(task.batch(1, Share()))[:1]
    with torch.no_grad():
        latent = tokenizer.encode(x)
        drawn = []
        for part, own in clips_of(latent, task.spec):
            canvas = Canvas(torch.zeros_like(part))
            for step, bits in zip(own, bits_of_latent(part, own, semantic_bits=16), strict=True):
                canvas.add(step, bits)
            drawn.append(canvas.total)
        wanted = tokenizer.decode(torch.cat(drawn, dim=2))
        assert torch.allclose(reconstruct(tokenizer, x, task.spec), wanted, atol=1e-5)


def test_weights_are_inherited(tmp_path: Path) -> None:
    start = write_tokenizer(tmp_path)
    task = TokenizerTask(tokenizer_run(tmp_path, inherit=InheritanceConfig(weights=start)))
    wanted = load_video_tokenizer(start).state_dict()
    found = tokenizer_of(task).state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    absent = InheritanceConfig(weights=tmp_path / "absent.safetensors")
    with pytest.raises(CheckpointError, match=r"absent.safetensors"):
        TokenizerTask(tokenizer_run(tmp_path, inherit=absent))


def test_rescaled_latents_are_as_long_as_codes(tmp_path: Path) -> None:
    start = write_tokenizer(tmp_path)
    inherit = InheritanceConfig(weights=start, rescale=True)
    task = TokenizerTask(tokenizer_run(tmp_path, inherit=inherit))
    tokenizer, before = tokenizer_of(task), load_video_tokenizer(start)
    x = pictures_of(task.batch(0, Share()))
    with torch.no_grad():
        latent = tokenizer.encode(x)
        assert float(latent.std()) == pytest.approx(1 / 8, rel=1e-4)
        assert float(before.encode(x).std()) != pytest.approx(1 / 8, rel=1e-2)
        assert torch.allclose(tokenizer.decode(latent), before.decode(before.encode(x)), atol=1e-4)


def test_a_frozen_part_waits(tmp_path: Path) -> None:
    inherit = InheritanceConfig(weights=write_tokenizer(tmp_path), freeze=("encoder",), until=2)
    run = run_config(tmp_path / "run", steps=3)
    data = ClipsConfig(lengths=(1,), pictures=2)
    task = TokenizerTask(tokenizer_run(tmp_path, run=run, data=data, inherit=inherit))
    start = weights_of(task)
    losses(task, run, stop_after=2)
    now = weights_of(task)
    for name, value in start.items():
        if name.startswith(("tokenizer.encoder.", "tokenizer.project_in.", "tokenizer.latent_sc")):
            assert torch.equal(now[name], value), name
    assert not torch.equal(
        now["tokenizer.decoder.conv_in.weight"], start["tokenizer.decoder.conv_in.weight"]
    )
    losses(task, run)
    name = "tokenizer.encoder.conv_in.weight"
    assert not torch.equal(weights_of(task)[name], start[name])


def test_without_bits_the_quantizer_stays_out_of_it(tmp_path: Path) -> None:
    run = run_config(tmp_path / "run")
    config = tokenizer_run(tmp_path, run=run, quantizer=QuantizerConfig(from_step=3, drop_most=1))
    task = TokenizerTask(config)
    batch = task.batch(0, Share())
    before, after = task.loss(batch, 2, CPU), task.loss(batch, 3, CPU)
    assert before.measures.keys() == {"absolute", "psnr"}
    assert after.measures.keys() == {"absolute", "psnr", "commitment", "entropy", "diversity"}
    with torch.no_grad():
        x = pictures_of(batch)
        tokenizer = tokenizer_of(task)
        wanted = (tokenizer.decode(tokenizer.encode(x)) - x).abs().mean()
    assert before.total.item() == pytest.approx(float(wanted), rel=1e-5)


def test_the_loss_is_the_sum_of_its_terms(tmp_path: Path) -> None:
    quantizer = QuantizerConfig(commitment=0.5, entropy=0.3, diversity=0.2, drop_most=1)
    judged = ReconstructionConfig(absolute=0.7, squared=2.0)
    task = TokenizerTask(tokenizer_run(tmp_path, quantizer=quantizer, reconstruction=judged))
    loss = task.loss(task.batch(0, Share()), 0, CPU)
    squared = 4 * 10 ** (-loss.measures["psnr"] / 10)
    wanted = (
        0.7 * loss.measures["absolute"]
        + 2.0 * squared
        + 0.5 * loss.measures["commitment"]
        + 0.3 * loss.measures["entropy"]
        - 0.2 * loss.measures["diversity"]
    )
    assert loss.total.item() == pytest.approx(float(wanted), rel=1e-5)


def test_relative_errors_count_in_units_of_each_clips_own_spread(tmp_path: Path) -> None:
    judged = ReconstructionConfig(absolute=0.7, squared=2.0, relative=True)
    quantizer = QuantizerConfig(from_step=1, drop_most=1)
    task = TokenizerTask(tokenizer_run(tmp_path, quantizer=quantizer, reconstruction=judged))
    batch = task.batch(0, Share())
    loss = task.loss(batch, 0, CPU)
    wanted, plain = [], []
    for x in pictures_of(batch).split(1):
        with torch.no_grad():
            error = tokenizer_of(task).decode(tokenizer_of(task).encode(x)) - x
        unit = (x - x.mean(dim=(2, 3, 4), keepdim=True)).square().mean().sqrt()
        wanted.append(0.7 * (error / unit).abs().mean() + 2 * (error / unit).square().mean())
        plain.append(error.abs().mean())
    assert loss.total.item() == pytest.approx(float(torch.stack(wanted).mean()), rel=1e-4)
    assert loss.measures["absolute"].item() == pytest.approx(float(torch.stack(plain).mean()))


def test_a_clip_of_one_colour_has_a_spread_to_divide_by() -> None:
    plain = torch.full((2, 3, 1, 4, 4), 0.3)
    assert spread(plain).flatten().tolist() == pytest.approx([0.05, 0.05])


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_lists_what_it_skips_once_and_names_the_first_of_each_kind(
    tmp_path: Path, workers: int
) -> None:
    """Of two broken clips, and after an interruption as well."""
    write_picture(random_scene(1).frames(1, 32, 32)[0], tmp_path / "whole.png")
    names = ["whole", "missing", "whole", "absent"]
    lines = [json.dumps({"path": f"{name}.png", "caption": name}) for name in names]
    (tmp_path / "list.jsonl").write_text("\n".join([*lines, "no line"]))
    data = ClipsConfig(source="list", list=tmp_path / "list.jsonl", lengths=(1,), pictures=8)
    run = run_config(tmp_path / "run", steps=2, save_every=1, workers=workers)
    config = tokenizer_run(tmp_path, data=data, run=run)
    record = run.output / "skipped.jsonl"
    noted, contents = [], []
    for last in (1, 2):
        events = train(TokenizerTask(config), run, CPU)
        for event in events:
            if isinstance(event, Remarked):
                noted.append((last, event.notes))
            if isinstance(event, Saved) and event.path.name == f"step-{last:08d}":
                break
        events.close()
        contents.append([json.loads(line)["line"] for line in record.read_text().splitlines()])
    assert contents == [[2, 4, 5]] * 2
    (_, first), (_, second) = noted
    assert len(first) == len(second) == 3
    assert first[0] == f"{data.list}: line 5 is skipped: it is not JSON"
    assert "cannot read '" in first[1]
    assert first[2] == f"{record} lists all that is skipped"
    assert [line["skipped"] > 0 for line in read_log(run.output / LOG_NAME)] == [True] * 2


@pytest.fixture
def sides(random: torch.Generator) -> tuple[Discriminator, Tensor, Tensor]:
    """A discriminator, real clips, and made ones that have a gradient."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        discriminator = Discriminator()
    real = torch.randn(2, 3, 1, 16, 16, generator=random)
    made = torch.randn(2, 3, 1, 16, 16, generator=random).requires_grad_()
    return discriminator, real, made


def test_each_adversary_learns_from_its_own_loss(
    sides: tuple[Discriminator, Tensor, Tensor],
) -> None:
    discriminator, real, made = sides
    parameters = list(discriminator.parameters())
    generator, critic = adversarial_terms(discriminator, real, made)
    of_generator = torch.autograd.grad(generator, [made, *parameters], allow_unused=True)
    assert of_generator[0].abs().sum() > 0
    assert all(gradient is None for gradient in of_generator[1:])
    of_critic = torch.autograd.grad(critic, [made, *parameters], allow_unused=True)
    assert of_critic[0] is None
    # Within the margin the two halves pull the last bias apart equally.
    assert all(gradient.abs().sum() > 0 for gradient in of_critic[1:-1])
    with torch.no_grad():
        assert generator.item() == pytest.approx(-float(discriminator(made).mean()))


def test_the_adversary_is_there_from_its_step_on(tmp_path: Path) -> None:
    judged = ReconstructionConfig(adversarial=0.1, adversarial_from=2)
    run = run_config(tmp_path / "run", steps=3)
    data = ClipsConfig(lengths=(1,), pictures=2)
    config = tokenizer_run(tmp_path, run=run, data=data, reconstruction=judged)
    task = TokenizerTask(config)
    critic = "discriminator.layers.0.weight"
    start = weights_of(task)
    whole = losses(task, config.run, stop_after=2)
    assert torch.equal(weights_of(task)[critic], start[critic])
    again = TokenizerTask(config)
    whole |= losses(again, config.run)
    assert not torch.equal(weights_of(again)[critic], start[critic])
    apart = replace(config, run=replace(run, output=tmp_path / "apart", save_every=9))
    assert losses(TokenizerTask(apart), apart.run) == whole


def test_a_perceptual_weight_asks_for_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lpips", None)
    config = tokenizer_run(tmp_path, reconstruction=ReconstructionConfig(perceptual=1.0))
    with pytest.raises(UsageError, match="pip install lpips"):
        TokenizerTask(config)


def test_perceptual_distances_of_single_pictures_are_learned_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Distance(nn.Module):
        """Stands in for LPIPS: how unlike two pictures are, by a weight that must not learn."""

        def __init__(self, net: str, *, verbose: bool) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor(3.0))
            self.shapes: list[torch.Size] = []

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            self.shapes.append(x.shape)
            return self.weight * (x - y).square().mean(dim=(1, 2, 3), keepdim=True)

    package = ModuleType("lpips")
    package.LPIPS = Distance  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lpips", package)
    judged = ReconstructionConfig(absolute=0.0, perceptual=0.5)
    quantizer = QuantizerConfig(from_step=1, drop_most=1)
    data = ClipsConfig(lengths=(5,), pictures=10)
    config = tokenizer_run(tmp_path, reconstruction=judged, quantizer=quantizer, data=data)
    task = TokenizerTask(config)
    loss = task.loss(task.batch(0, Share()), 0, CPU)
    squared = 4 * 10 ** (-loss.measures["psnr"] / 10)
    assert loss.measures["perceptual"].item() == pytest.approx(3 * float(squared), rel=1e-4)
    assert loss.total.item() == pytest.approx(1.5 * float(squared), rel=1e-4)
    loss.total.backward()
    judge = task._perceptual
    assert isinstance(judge, Distance)
    assert judge.shapes == [torch.Size((10, 3, 32, 32))]
    assert judge.weight.grad is None
    assert all(p.grad is not None for p in tokenizer_of(task).decoder.parameters())


def test_the_loss_falls_on_one_batch(tmp_path: Path) -> None:
    run = run_config(
        tmp_path / "run", steps=10, save_every=1000, learning_rate=1e-2, warmup=2, betas=(0.9, 0.99)
    )
    data = ClipsConfig(lengths=(5,), pictures=5)
    quantizer = QuantizerConfig(drop_probability=0.0, drop_most=0)

    class OneBatch(TokenizerTask):
        def batch(self, step: int, share: Share) -> ClipBatch:
            return super().batch(0, share)

    task = OneBatch(tokenizer_run(tmp_path, run=run, data=data, quantizer=quantizer))
    found = losses(task, run)
    assert found[10] < 0.6 * found[1], found


def test_without_sizes_the_manifest_means_the_released_bits(tmp_path: Path) -> None:
    """Only a transformer's sizes are left out here; a token's semantic bits are then 16."""
    path = write_manifest(tmp_path)
    text = path.read_text()
    first, last = text.index(', "sizes"'), text.index("}}") + 1
    path.write_text(text[:first] + text[last:])
    config = TokenizerTraining(
        model=path,
        run=run_config(tmp_path / "run"),
        data=ClipsConfig(lengths=(1,), pictures=1),
        quantizer=QuantizerConfig(drop_most=1),
    )
    task = TokenizerTask(config)
    assert task.spec.transformer_config is None
    assert task.loss(task.batch(0, Share()), 0, CPU).total.isfinite()
