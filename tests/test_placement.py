from __future__ import annotations

import pytest
import torch

from istar.placement import Placement, exact_convolutions


@pytest.mark.parametrize(
    ("device", "dtype", "decoding"),
    [
        ("cuda", torch.bfloat16, torch.bfloat16),
        ("cuda", torch.float32, torch.float32),
        ("cpu", torch.bfloat16, torch.float32),
    ],
)
def test_pictures_are_decoded_in_bf16_on_cuda_only(
    device: str, dtype: torch.dtype, decoding: torch.dtype
) -> None:
    placement = Placement(device=torch.device(device), dtype=dtype)
    assert placement.decoding_dtype == decoding


def tf32() -> object:
    cudnn = torch.backends.cudnn
    return cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else cudnn.allow_tf32


@pytest.mark.parametrize("asked", ["tf32", "ieee"])
def test_the_processs_setting_comes_back(asked: str) -> None:
    cudnn = torch.backends.cudnn
    if not hasattr(cudnn, "conv"):
        pytest.skip("this torch has one setting for all operations")
    before = tf32()
    try:
        cudnn.conv.fp32_precision = asked
        with exact_convolutions():
            assert tf32() == "ieee"
        assert tf32() == asked
        with pytest.raises(ZeroDivisionError), exact_convolutions():
            torch.zeros(2)[int(1 / 0)]
        assert tf32() == asked
    finally:
        cudnn.conv.fp32_precision = before


def test_the_older_setting_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:
        allow_tf32 = True

    monkeypatch.setattr(torch.backends, "cudnn", Older)
    with exact_convolutions():
        assert Older.allow_tf32 is False
    assert Older.allow_tf32 is True
