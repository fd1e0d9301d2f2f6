from __future__ import annotations

import pytest
import torch

from istar.placement import exact_convolutions


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
