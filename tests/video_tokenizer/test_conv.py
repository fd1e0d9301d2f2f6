from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from istar.video_tokenizer.conv import (
    CausalConv3d,
    ChannelRMSNorm,
    FrameHistory,
    average_first_two_frames,
    average_frame_pairs,
    depth_to_space,
    space_to_depth,
)
from istar.video_tokenizer.decoder import ConditionedNorm, Upsample, resize
from istar.video_tokenizer.encoder import Downsample


def frames(*values: float) -> torch.Tensor:
    """One channel, one pixel."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1, 1, 1)


def test_space_to_depth_orders_channels_row_column_channel() -> None:
    x = torch.tensor([[[0.0, 1], [2, 3]], [[10, 11], [12, 13]]]).reshape(1, 2, 1, 2, 2)
    assert space_to_depth(x).flatten().tolist() == [0, 10, 1, 11, 2, 12, 3, 13]


def test_depth_to_space_orders_channels_row_column_channel() -> None:
    x = torch.tensor([0.0, 10, 1, 11, 2, 12, 3, 13]).reshape(1, 8, 1, 1, 1)
    y = depth_to_space(x, time_factor=1)
    assert y.shape == (1, 2, 1, 2, 2)
    assert y[0, :, 0].tolist() == [[[0, 1], [2, 3]], [[10, 11], [12, 13]]]


def test_depth_to_space_puts_time_outermost() -> None:
    # time, row, column, channel
    x = torch.arange(16.0).reshape(1, 16, 1, 1, 1)
    y = depth_to_space(x, time_factor=2)
    assert y.shape == (1, 2, 2, 2, 2)
    assert y[0, 0].tolist() == [[[0, 2], [4, 6]], [[8, 10], [12, 14]]]
    assert y[0, 1].tolist() == [[[1, 3], [5, 7]], [[9, 11], [13, 15]]]


def test_depth_to_space_undoes_space_to_depth(random: torch.Generator) -> None:
    x = torch.randn(2, 3, 4, 6, 8, generator=random)
    assert torch.equal(depth_to_space(space_to_depth(x), time_factor=1), x)


def test_frame_pairs_are_averaged_and_an_odd_first_stands_alone() -> None:
    assert average_frame_pairs(frames(1, 3, 5, 9)).flatten().tolist() == [2, 7]
    assert average_frame_pairs(frames(1, 3, 5, 9, 11)).flatten().tolist() == [1, 4, 10]
    assert average_frame_pairs(frames(4)).flatten().tolist() == [4]


def test_only_the_first_two_frames_become_one() -> None:
    assert average_first_two_frames(frames(1, 3, 5, 9)).flatten().tolist() == [2, 5, 9]


def test_an_odd_number_of_frames_is_resized_without_its_first() -> None:
    def resized(z: torch.Tensor, count: int) -> list[float]:
        return resize(z, count, 1, 1).flatten().tolist()

    assert resized(frames(1, 2), 4) == [1, 1, 2, 2]
    assert resized(frames(1, 2), 5) == [1, 2, 2, 2, 2]
    assert resized(frames(1, 2, 3), 5) == [1, 2, 2, 3, 3]
    assert resized(frames(1), 1) == [1]
    assert resized(frames(1), 4) == [1, 1, 1, 1]


def test_resizing_takes_the_nearest_pixel() -> None:
    z = torch.arange(4.0).reshape(1, 1, 1, 2, 2)
    assert resize(z, 1, 4, 4)[0, 0, 0].tolist() == [
        [0, 0, 1, 1],
        [0, 0, 1, 1],
        [2, 2, 3, 3],
        [2, 2, 3, 3],
    ]


def test_norm_against_its_formula(random: torch.Generator) -> None:
    norm = ChannelRMSNorm(6)
    norm.gain.data = torch.randn(6, 1, 1, 1, generator=random)
    x = torch.randn(2, 6, 3, 2, 2, generator=random)
    expected = x / x.square().sum(1, keepdim=True).sqrt() * 6**0.5 * norm.gain[None]
    torch.testing.assert_close(norm(x), expected)


def test_conditioned_norm_convolves_the_resized_latent(random: torch.Generator) -> None:
    norm = ConditionedNorm(6, 4).requires_grad_(False)
    x = torch.randn(1, 6, 5, 4, 4, generator=random)
    z = torch.randn(1, 4, 3, 2, 2, generator=random)
    wide = resize(z, 5, 4, 4)  # the order of the released reference: first resized, then convolved
    torch.testing.assert_close(norm(x, z), norm.norm(x) * norm.gain(wide) + norm.bias(wide))


def test_causal_conv_in_chunks_equals_padding_with_the_first_frame(random: torch.Generator) -> None:
    conv = CausalConv3d(2, 3).requires_grad_(False)
    x = torch.randn(1, 2, 6, 3, 4, generator=random)
    padded = torch.cat((x[:, :, :1], x[:, :, :1], x), dim=2)
    expected = F.conv3d(padded, conv.weight, conv.bias, padding=(0, 1, 1))
    for cut in ([6], [1] * 6, [1, 2, 3], [4, 1, 1]):
        history = FrameHistory()
        parts = []
        for chunk in x.split(cut, dim=2):
            parts.append(conv(chunk, history))
            history.next_chunk()
        torch.testing.assert_close(torch.cat(parts, dim=2), expected)


def test_down_shortcut_averages_groups_of_channels(random: torch.Generator) -> None:
    down = Downsample(2, 4, halve_time=True).requires_grad_(False)
    down.conv.weight.zero_()
    down.conv.bias.zero_()  # type: ignore[union-attr]
    x = torch.randn(1, 2, 3, 4, 4, generator=random)
    y = down(x, FrameHistory())
    rearranged = average_frame_pairs(space_to_depth(x))  # 8 channels (group, out): 2 groups of 4
    torch.testing.assert_close(y, (rearranged[:, :4] + rearranged[:, 4:]) / 2)


def test_up_shortcut_tiles_channels(random: torch.Generator) -> None:
    up = Upsample(4, 2, double_time=True).requires_grad_(False)
    up.conv.weight.zero_()
    up.conv.bias.zero_()  # type: ignore[union-attr]
    x = torch.randn(1, 4, 2, 3, 3, generator=random)
    later = FrameHistory()
    later.next_chunk()
    expected = depth_to_space(torch.cat([x] * 4, dim=1), time_factor=2)
    torch.testing.assert_close(up(x, later), expected)
    torch.testing.assert_close(up(x, FrameHistory()), average_first_two_frames(expected))


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_the_cpus_fast_convolution_is_the_same(random: torch.Generator, frames: int) -> None:
    conv = CausalConv3d(6, 8)
    x = torch.randn(1, 6, frames, 12, 10, generator=random)
    trained = conv(x, FrameHistory())
    with torch.inference_mode():
        generated = conv(x, FrameHistory())
    assert trained.requires_grad
    assert torch.allclose(generated, trained, atol=1e-6)
