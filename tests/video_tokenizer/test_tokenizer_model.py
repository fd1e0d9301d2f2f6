from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import product

import pytest
import torch

from istar.bench.meter import Meter
from istar.errors import CheckpointError
from istar.video_tokenizer.config import (
    SPATIAL_STRIDE,
    VideoTokenizerConfig,
    latent_frames,
)
from istar.video_tokenizer.conv import CausalConv3d, FrameHistory
from istar.video_tokenizer.model import VideoTokenizer, _over_channels, to_range
from istar.video_tokenizer.pieces import Piece

HEIGHT, WIDTH = 2, 3
TOLERANCE = {"atol": 1e-5, "rtol": 0.0}


def latents(random: torch.Generator, frames: int) -> torch.Tensor:
    return torch.randn(1, 64, frames, HEIGHT, WIDTH, generator=random)


def pictures(random: torch.Generator, frames: int) -> torch.Tensor:
    size = (HEIGHT * SPATIAL_STRIDE, WIDTH * SPATIAL_STRIDE)
    return torch.rand(1, 3, frames, *size, generator=random) * 2 - 1


def decode_at_once(tokenizer: VideoTokenizer, z: torch.Tensor) -> torch.Tensor:
    """The decoder over all frames in one chunk."""
    z = (z / tokenizer.latent_scales[0]).movedim(1, -1)  # B T h w C
    z = z @ tokenizer.project_out.weight.T + tokenizer.project_out.bias
    z = z.unflatten(-1, (16, 2, 2))  # B T h w C row column
    z = z.permute(0, 4, 1, 2, 5, 3, 6).flatten(5).flatten(3, 4)  # B C T 2h 2w
    return tokenizer.decoder(z, FrameHistory())


def encode_at_once(tokenizer: VideoTokenizer, x: torch.Tensor) -> torch.Tensor:
    """The encoder over all frames in one chunk."""
    moments = tokenizer.encoder(x, FrameHistory())  # B 2·C T 2h 2w
    z = moments[:, :16].unflatten(3, (-1, 2)).unflatten(5, (-1, 2))  # B C T h row w column
    z = z.permute(0, 2, 3, 5, 1, 4, 6).flatten(4)  # B T h w C·row·column
    z = z @ tokenizer.project_in.weight.T + tokenizer.project_in.bias
    return z.movedim(-1, 1) * tokenizer.latent_scales[0]


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 8])
def test_decode_equals_one_pass_over_all_frames(
    tokenizer: VideoTokenizer, random: torch.Generator, frames: int
) -> None:
    z = latents(random, frames)
    whole = decode_at_once(tokenizer, z)
    found = tokenizer.decode(z)
    assert found.shape == (1, 3, 4 * (frames - 1) + 1, 16 * HEIGHT, 16 * WIDTH)
    torch.testing.assert_close(found, whole, **TOLERANCE)
    assert whole.std() > 0.1


@pytest.mark.parametrize("cut", [[1] * 7, [1, 2, 4], [3, 3, 1], [5, 1, 1], [7]])
def test_how_latents_are_cut_does_not_matter(
    tokenizer: VideoTokenizer, random: torch.Generator, cut: list[int]
) -> None:
    z = latents(random, 7)
    chunks = tokenizer._bottleneck(z).split(cut, dim=2)
    history = FrameHistory()
    parts = []
    for number, chunk in enumerate(chunks):
        parts.append(tokenizer.decoder(chunk, history))
        history.next_chunk()
        assert parts[-1].shape[2] == 4 * cut[number] - (3 if number == 0 else 0)
    torch.testing.assert_close(torch.cat(parts, dim=2), decode_at_once(tokenizer, z), **TOLERANCE)


def assembled(pieces: Iterator[Piece], size: tuple[int, int]) -> torch.Tensor:
    """Pieces put together, every pixel of them once."""
    frames: dict[int, dict[int, torch.Tensor]] = {}
    for piece in pieces:
        assert piece.row not in frames.setdefault(piece.frame, {})
        frames[piece.frame][piece.row] = piece.pictures
    assert sorted(frames) == list(range(min(frames), max(frames) + 1))
    rows = [torch.cat([own[row] for row in sorted(own)], dim=3) for own in frames.values()]
    assert {one.shape[3:] for one in rows} == {size}
    return torch.cat(rows, dim=2)


@pytest.mark.parametrize(
    ("frames", "skip"),
    [(1, 0), (2, 0), (6, 0), (6, 1), (6, 5), pytest.param(24, 21, marks=pytest.mark.slow)],
)
def test_frame_by_frame_from_any_frame_on_is_the_same(
    tokenizer: VideoTokenizer, random: torch.Generator, frames: int, skip: int
) -> None:
    z = latents(random, frames)
    with torch.inference_mode():
        whole = tokenizer.decode(z)[:, :, max(0, 4 * skip - 3) :]
        pieces = tokenizer.decode_pieces(z, skip=skip)
        assert torch.equal(assembled(pieces, (16 * HEIGHT, 16 * WIDTH)), whole)


@pytest.mark.parametrize(
    ("rows", "strip_rows", "frames", "skip"),
    [(5, 1, 3, 1), (26, 5, 2, 0), (26, 13, 2, 1), (2, 9, 1, 0)],
)
def test_strips_are_the_whole(
    tokenizer: VideoTokenizer,
    random: torch.Generator,
    rows: int,
    strip_rows: int,
    frames: int,
    skip: int,
) -> None:
    """But for the order in which some CPUs' convolutions add for other heights."""
    z = torch.randn(1, 64, frames, rows, 1, generator=random)
    with torch.inference_mode():
        whole = tokenizer.decode(z)[:, :, max(0, 4 * skip - 3) :]
        pieces = tokenizer.decode_pieces(z, skip=skip, strip_rows=strip_rows)
        assert torch.allclose(assembled(pieces, (16 * rows, 16)), whole, rtol=0, atol=1e-5)


def test_how_far_stages_look(tokenizer: VideoTokenizer) -> None:
    stages = tokenizer.decoder.stages()
    assert (stages[0].past, stages[0].margin) == (58, 24)
    # The last level, at half the size of the pictures, and what follows it.
    last = [stage for stage in stages if stage.scale >= 4]
    assert [(stage.past, stage.margin) for stage in last] == [
        (8, 2),
        (6, 2),
        (4, 1),
        (2, 1),
        (1, 1),
    ]


@pytest.mark.parametrize(("frames", "skip"), [(1, 0), (4, 0), (8, 3)])
def test_decoding_takes_the_operations_that_are_counted(
    tokenizer: VideoTokenizer, frames: int, skip: int
) -> None:
    meter = Meter(torch.device("cpu"))
    with torch.inference_mode(), meter:
        meter.restart()
        for _ in tokenizer.decode_pieces(torch.zeros(1, 64, frames, 2, 3), skip=skip):
            pass
        counted = meter.read().flop
    flop = sum(
        tokenizer.decoder.frame_flop(4, 6, first=number == 0, ahead=max(skip - number, 0))
        for number in range(frames)
    )
    # The convolutions inside the norms are left out.
    assert 0.98 * counted < flop < counted


def test_what_is_skipped_costs_no_more_than_it_must(
    tokenizer: VideoTokenizer, random: torch.Generator
) -> None:
    calls: Counter[int] = Counter()
    for level, one in enumerate(tokenizer.decoder.levels):
        one.blocks[0].register_forward_pre_hook(
            lambda *_, level=level: calls.update([level])  # type: ignore[misc]
        )
    with torch.inference_mode():
        list(tokenizer.decode_pieces(latents(random, 41), skip=40))
    # Besides the frame that is wanted: 22 for the third level, 8 for the last, where each is two.
    assert calls == {0: 41, 1: 37, 2: 23, 3: 18}


def test_pictures_come_before_later_latents_are_decoded(
    tokenizer: VideoTokenizer, random: torch.Generator
) -> None:
    seen: list[int] = []
    tokenizer.decoder.conv_in.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].shape[2])
    )
    with torch.inference_mode():
        pieces = tokenizer.decode_pieces(latents(random, 3))
        assert next(pieces).pictures.shape[2] == 1
        assert seen == [1]
        assert [piece.pictures.shape[2] for piece in pieces] == [4, 4]
    assert seen == [1, 1, 1]


@pytest.mark.parametrize(
    "frames", [1, 5, 9, 17, *(pytest.param(one, marks=pytest.mark.slow) for one in (13, 21, 33))]
)
def test_encode_equals_one_pass_over_all_frames(
    tokenizer: VideoTokenizer, random: torch.Generator, frames: int
) -> None:
    x = pictures(random, frames)
    whole = encode_at_once(tokenizer, x)
    found = tokenizer.encode(x)
    assert found.shape == (1, 64, (frames - 1) // 4 + 1, HEIGHT, WIDTH)
    torch.testing.assert_close(found, whole, **TOLERANCE)
    assert whole.std() > 0.1


def as_given(random: torch.Generator, *size: int) -> torch.Tensor:
    """Pictures laid out as they come from a file."""
    return to_range(torch.randint(256, (*size, 3), generator=random, dtype=torch.uint8))


@pytest.mark.parametrize("frames", [1, 5, 17, pytest.param(33, marks=pytest.mark.slow)])
def test_picture_by_picture_is_the_same(
    tokenizer: VideoTokenizer, random: torch.Generator, frames: int
) -> None:
    for x in (pictures(random, frames), as_given(random, 2, frames, 80, 32)):
        with torch.inference_mode():
            whole = _over_channels(tokenizer.project_in, tokenizer._encode_chunks(x))
            whole = whole * tokenizer.latent_scales[0]
            assert torch.equal(tokenizer.encode(x), whole)
        assert whole.std() > 0.1


def test_training_gives_the_latents_of_inference(
    tokenizer: VideoTokenizer, random: torch.Generator
) -> None:
    x = pictures(random, 17)
    trained = tokenizer.requires_grad_(True).encode(x)
    trained.square().mean().backward()
    assert all(p.grad is not None for p in tokenizer.encoder.parameters())
    with torch.no_grad():
        torch.testing.assert_close(tokenizer.encode(x), trained, **TOLERANCE)


def test_later_pictures_do_not_reach_earlier_latents(
    tokenizer: VideoTokenizer, random: torch.Generator
) -> None:
    x = pictures(random, 17)
    other = x.clone()
    other[:, :, 5:] = pictures(random, 12)
    one, two = tokenizer.encode(x), tokenizer.encode(other)
    torch.testing.assert_close(one[:, :, :2], two[:, :, :2], **TOLERANCE)
    assert (one[:, :, 2:] - two[:, :, 2:]).abs().amax((0, 1, 3, 4)).min() > 1e-2


def test_an_image_encodes_to_the_first_latent_of_its_video(
    tokenizer: VideoTokenizer, random: torch.Generator
) -> None:
    x = pictures(random, 9)
    torch.testing.assert_close(
        tokenizer.encode(x[:, :, :1]), tokenizer.encode(x)[:, :, :1], **TOLERANCE
    )


def test_later_latents_do_not_reach_earlier_pictures(
    tokenizer: VideoTokenizer, random: torch.Generator
) -> None:
    z = latents(random, 6)
    other = z.clone()
    other[:, :, 3:] = latents(random, 3)
    one, two = tokenizer.decode(z), tokenizer.decode(other)
    torch.testing.assert_close(one[:, :, :9], two[:, :, :9], **TOLERANCE)
    assert (one[:, :, 9:] - two[:, :, 9:]).abs().amax((0, 1, 3, 4)).min() > 1e-2


def test_bf16_weights_give_float32_results(
    tokenizer: VideoTokenizer, random: torch.Generator
) -> None:
    z = latents(random, 2)
    full = tokenizer.decode(z)
    tokenizer.bfloat16()
    half = tokenizer.decode(z)
    assert half.dtype == tokenizer.encode(full).dtype == torch.float32
    assert (half - full).abs().mean() < 0.1 * full.std()


def test_the_decoder_alone_may_be_bf16(tokenizer: VideoTokenizer, random: torch.Generator) -> None:
    z = latents(random, 3)
    as_loaded = tokenizer.project_out.weight.clone()
    x = pictures(random, 9)
    with torch.inference_mode():
        full, encoded = tokenizer.decode(z), tokenizer.encode(x)
        tokenizer.decode_in(torch.bfloat16)
        half = torch.cat([piece.pictures for piece in tokenizer.decode_pieces(z)], dim=2)
        assert torch.equal(tokenizer.encode(x), encoded)
    assert torch.equal(tokenizer.project_out.weight, as_loaded)  # it names the weights
    kernels = [m.weight for m in tokenizer.decoder.modules() if isinstance(m, CausalConv3d)]
    last = torch.channels_last_3d
    assert all(kernel.is_contiguous(memory_format=last) for kernel in kernels)
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().mean() < 0.03 * full.std()


@pytest.mark.parametrize(("pictures", "latents"), [(1, 1), (5, 2), (77, 20), (81, 21), (161, 41)])
def test_counting_frames(pictures: int, latents: int) -> None:
    assert latent_frames(pictures) == latents


@pytest.mark.parametrize(
    "channels",
    [
        (8, 8, 16, 16),
        (8, 8, 16, 16, 0),
        (8, 8, 16, 16, "16"),
        (8, 8, 16, 16, True),
        (8, 8, 16, 16.0, 16),
        [8, 8, 16, 16, 16],
        16,
        (8, 8, 16, 16, 32),
        (8, 6, 8, 8, 8),
        (2, 16, 16, 16, 16),
        (8, 12, 24, 24, 24),
        (6, 16, 16, 16, 16),
    ],
)
def test_widths_that_make_no_network(channels: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match="tokenizer: "):
        VideoTokenizerConfig(channels=channels)  # type: ignore[arg-type]


@pytest.mark.parametrize("bottleneck", [0, -16, True, 16.0, "16", None])
def test_invalid_bottlenecks(bottleneck: object) -> None:
    with pytest.raises(CheckpointError, match="bottleneck_channels"):
        VideoTokenizerConfig(bottleneck_channels=bottleneck)  # type: ignore[arg-type]


def runs(channels: tuple[int, ...]) -> bool:
    """Whether a network of these widths can be built and computes, its sizes not checked."""
    config = VideoTokenizerConfig(channels=(8, 8, 8, 8, 8), bottleneck_channels=1)
    object.__setattr__(config, "channels", channels)
    try:
        tokenizer = VideoTokenizer(config)
        with torch.inference_mode():
            tokenizer.decode(tokenizer.encode(torch.zeros(1, 3, 5, 16, 16)))
    except (RuntimeError, ZeroDivisionError):
        return False
    return True


@pytest.mark.parametrize(
    ("widths", "least"), [((4, 6), 4), pytest.param((4, 6, 16), 11, marks=pytest.mark.slow)]
)
def test_what_is_refused_is_what_cannot_run(widths: tuple[int, ...], least: int) -> None:
    accepted = 0
    for first, second, third in product(widths, repeat=3):
        for fourth, last in {(third, third), (16, 16), (third, 4)}:
            channels = (first, second, third, fourth, last)
            try:
                VideoTokenizerConfig(channels=channels, bottleneck_channels=1)
            except CheckpointError:
                assert not runs(channels), channels
            else:
                accepted += 1
                assert runs(channels), channels
    assert accepted >= least
