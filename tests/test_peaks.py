"""Peaks: operations and bytes are counted as said, and a real measurement gives finite figures."""

from __future__ import annotations

import pytest
import torch

from fastanf import peaks

CPU = torch.device("cpu")


def test_operations_and_bytes_are_counted_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peaks, "_best_s", lambda work, device: 0.5)
    assert peaks.sgemm_gflop_s(CPU, size=100) == pytest.approx(2 * 100**3 / 0.5 / 1e9)
    # Half of the bytes are read, the other half written.
    assert peaks.copy_gb_s(CPU, 8_000_000) == pytest.approx(8e6 / 0.5 / 1e9)


def test_the_fastest_call_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = iter([0.0, 0.0, 5.0, 5.0, 6.0, 9.0, 10.0, 12.0, 20.0, 21.0, 30.0, 33.0, 40.0])
    monkeypatch.setattr(peaks.time, "perf_counter", lambda: next(moments))
    calls: list[int] = []
    # Until 0.25 s have passed, but five calls at least, after two that warm up.
    assert peaks._best_s(lambda: calls.append(1), CPU) == 1.0
    assert len(calls) == 2 + 5


def test_a_measurement_is_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("_SECONDS", 0.0), ("PRODUCT_SIZE", 64), ("MEMORY_COPY_BYTES", 1 << 21)):
        monkeypatch.setattr(peaks, name, value)
    measured = peaks.measure_peaks(CPU, 1000)
    assert measured.working_set_bytes == 1000
    for value in (measured.gflop_s, measured.memory_gb_s, measured.working_set_gb_s):
        assert 0 < value < 1e6
