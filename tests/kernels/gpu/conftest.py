"""The tests of Triton's kernels run on a GPU where there is one; else they are interpreted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastanf import kernels

pytest.importorskip("triton", reason="Triton is not installed")


@pytest.fixture
def device() -> Iterator[torch.device]:
    """The device of Triton's kernels, which compute there during the test, in exact float32."""
    before = kernels.NATIVE, kernels.TRITON, kernels.PRECISION
    kernels.use("triton")
    kernels.use_precision("float32")
    yield torch.device(kernels.TRITON[0])
    kernels.use_precision(before[2])
    kernels.NATIVE, kernels.TRITON, kernels.PRECISION = before
