"""Settings that are accepted do train: a few steps of tiny runs, whatever the other settings are.

A lane ends with finite records or stands in quarantine. How to try more of them:
tests/fuzz/fuzzing.py.
"""

from __future__ import annotations

import contextlib
import io
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastanf import runner
from fastanf.cli import parse_command_line
from fastanf.config import OPTIONS
from fastanf.presets import PRESETS
from fastanf.rows import read_evaluations, read_lanes, read_quarantine, read_training
from tests import fake_env
from tests.fuzz.fuzzing import command_outcome, tries

MAX_STEPS = 12
TINY = {
    "env": fake_env.ROWS_ENV_ID, "backend": "fake", "max_timesteps": MAX_STEPS,
    "start_timesteps": 9, "eval_freq": 5, "eval_episodes": 2, "batch_size": 4, "hidden": "6x5",
}  # fmt: skip
EXIT_ALL_BROKEN = 3

# What makes a run long or large keeps to small values; all else may be anything allowed.
SMALL = {
    "hidden": ["1", "3", "6x5", "2x3x4", "17"],
    "batch_size": ["1", "2", "5", "16"],
    "envs_per_lane": ["1", "2", "3"],
    "updates_per_step": ["1", "2"],
    "eval_episodes": ["1", "3"],
    "eval_freq": ["1", "4", "1000000000000"],
    "start_timesteps": ["3", "7"],
    "max_timesteps": ["1", "8"],
    "replay_capacity": ["16", "17", "1000000000000"],
    "noise_fraction": ["0", "0.3", "0.9", "0.97"],
    "topology_period": ["1", "2", "1000000000000"],
    "permute_period": ["0", "1", "5", "1000000000000"],
    "target_period": ["1", "3", "1000000000000"],
    "policy_delay": ["1", "2", "1000000000000"],
    "activation_args": ["0.5", "0.4 0.2 -0.4 0.2", "1e30", "0 0 0 0"],
}  # fmt: skip
FREE = [
    name for name, entry in OPTIONS.items()
    if entry.is_flag and name not in (*SMALL, "env", "backend", "policy", "mjx_impl")
]  # fmt: skip
NUMBERS = [
    "0",
    "1e-30",
    "1e-9",
    "0.01",
    "0.5",
    "0.9",
    "0.999999",
    "1",
    "100",
    "1e6",
    "1e15",
    "1e30",
]


@st.composite
def small_runs(draw: Any) -> dict[str, str]:
    """Flags of a run that takes a moment."""
    chosen: dict[str, str] = {"policy": draw(st.sampled_from(sorted(PRESETS)))}
    for name in draw(st.lists(st.sampled_from([*SMALL, *FREE]), max_size=6, unique=True)):
        entry = OPTIONS[name]
        if name in SMALL:
            chosen[name] = draw(st.sampled_from(SMALL[name]))
        elif entry.choices:
            chosen[name] = draw(st.sampled_from(entry.choices))
        elif entry.item is bool:
            chosen[name] = draw(st.sampled_from(["true", "false"]))
        else:
            chosen[name] = draw(st.sampled_from(NUMBERS))
    return chosen


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())


@tries(16, is_slow=True)
@given(flags=small_runs())
def test_accepted_settings_train_to_finite_records_or_quarantine(
    tmp_path: Path, flags: dict[str, str]
) -> None:
    path = tmp_path / "run"
    arguments = ["--plain", "--device", "cpu", "--no-tensorboard", "--run_dir", str(path)]
    for name, value in (TINY | flags).items():
        arguments += [f"--{name}", *str(value).split()]
    study, _ = command_outcome(lambda: parse_command_line(arguments))
    assume(study is not None)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            code = runner.train(study)
        check_records(path, code)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def check_records(path: Path, code: int) -> None:
    """Every lane has finite figures in all rows, but for those where it was stopped."""
    lanes = read_lanes(path)
    stopped = {row.lane: row.step for row in read_quarantine(path, lanes)}
    assert code == (EXIT_ALL_BROKEN if len(stopped) == len(lanes) else 0)
    for row in read_training(path, lanes):
        if row.lane not in stopped:
            assert math.isfinite(row.critic_loss) and math.isfinite(row.q_mean), row
    evaluations = read_evaluations(path, lanes)
    assert all(math.isfinite(row.return_mean) for row in evaluations if row.lane not in stopped)
    E, last = lanes[0]["envs_per_lane"], lanes[0]["max_timesteps"]
    for lane in range(len(lanes)):
        steps = [row.step for row in evaluations if row.lane == lane]
        assert lane in stopped or steps[-1] == -(-last // E) * E
