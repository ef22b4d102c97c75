"""Training on MJX: it learns, is resumed exactly, and a lane is the same alone and among others.

Axes: L lanes, E environments per lane.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import envs
from fastanf import runner
from fastanf.__main__ import main
from fastanf.block import TrainingBlock, compile_aloud
from fastanf.cli import parse_command_line
from fastanf.collect import Collector, train_step_
from fastanf.config import TrainConfig
from fastanf.simulator import DeviceSimulator
from tests.helpers import all_state, copy_block, unequal_names
from tests.interruptions import at_call, records, send
from tests.tiny_runs import newest

pytest.importorskip("jax", reason="needs the extra fastanf[mjx]")

from envs import mjx_backend

SMALL = {
    "env": "Hopper-v4", "backend": "mjx", "envs_per_lane": 8, "hidden": (64, 64), "batch_size": 64,
    "max_timesteps": 6400, "start_timesteps": 800, "eval_episodes": 2, "noise_fraction": 0.5,
    "input_layer_sparsity": 0.5, "updates_per_step": 4, "topology_period": 100,
}  # fmt: skip
COMMAND = [
    "train", "--policy", "ANF-SAC", "SAC", "--env", "Hopper-v4", "--backend", "mjx",
    "--envs_per_lane", "4", "--fake_features", "0.5", "--hidden", "8", "5", "--batch_size", "8",
    "--start_timesteps", "40", "--max_timesteps", "160", "--eval_freq", "40",
    "--eval_episodes", "2", "--tensorboard", "false", "--layout", "masked",
    "--noise_redraw", "per_step", "--plain",
]  # fmt: skip


def make_block(seeds: tuple[int, ...], **values: object) -> TrainingBlock:
    base = TrainConfig.of(**{**SMALL, **values})
    return TrainingBlock([base.replace(seed=seed) for seed in seeds], torch.device("cpu"))


def test_a_hopper_learns_to_stay_up() -> None:
    block = make_block((0, 1))
    while block.replay.time < block.num_random_steps:
        block.collector.random_step_()
    first = [sum(returns) / len(returns) for returns in block.collector.take_finished()]
    for step in range(1, 501):
        block.collector.step_(8 * step)
        for _ in range(4):
            block.learner.update_()
    assert max(first) < 30  # a random hopper falls after a dozen steps
    returns = block.evaluate().mean(1)
    assert returns.min() > 100, returns
    assert int(block.collector.num_failures.sum()) == 0
    block.close()


def test_a_lane_alone_is_the_lane_among_others() -> None:
    together, alone = make_block((3, 4, 5)), make_block((4,))
    for block in (together, alone):
        for _ in range(30):
            block.collector.random_step_()
        for step in range(1, 41):
            block.collector.step_(8 * step)
            block.learner.update_()
    assert torch.equal(together.replay.obs[1], alone.replay.obs[0])
    assert torch.equal(together.replay.reward[1], alone.replay.reward[0])
    weights = [block.algorithm.actor_mlp.layers[0].to_dense() for block in (together, alone)]
    assert torch.equal(weights[0][1], weights[1][0])
    assert (together.evaluate()[1] == alone.evaluate()[0]).all()


def test_the_halves_of_its_step_are_its_step() -> None:
    """And the host is told which episodes ended and which simulations broke down."""
    env, plain = (mjx_backend.MjxVecEnv(envs.spec("Hopper-v4", "mjx"), range(8)) for _ in range(2))
    simulator = DeviceSimulator(env)
    assert torch.equal(simulator.reset(), plain.reset_tensor())
    actions = torch.rand(40, 8, 3, generator=torch.Generator().manual_seed(0)) * 2 - 1
    actions[20, 3] = torch.nan
    num_over = num_failed = 0
    for action in actions:
        simulator.begin(action)
        expected = plain.step_tensors(action)
        step, is_over, has_failed = simulator.finish()
        for one, other in zip(step, expected, strict=True):
            assert torch.equal(one, other)
        assert torch.equal(is_over, expected.terminated | expected.truncated)
        assert torch.equal(has_failed, expected.failed)
        num_over, num_failed = num_over + int(is_over.sum()), num_failed + int(has_failed.sum())
    assert num_over > 5 and num_failed == 1
    with pytest.raises(ValueError, match="no step of the simulator was begun"):
        simulator.finish()


def test_updates_while_it_steps_are_those_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [make_block((3, 4), batch_size=8) for _ in range(2)]
    for block in blocks:
        for _ in range(30):
            block.collector.random_step_()
    overlapping, strict = blocks
    collector, learner = overlapping.collector, overlapping.learner
    collector.overlaps_updates = True
    may, answers = collector.may_update_early, []

    def noted(update: int, batch_size: int) -> bool:
        answers.append(may(update, batch_size))
        return answers[-1]

    monkeypatch.setattr(collector, "may_update_early", noted)
    for step in range(1, 21):
        train_step_(collector, learner, 8 * step, 2)
        strict.collector.step_(8 * step)
        for _ in range(2):
            strict.learner.update_()
    assert any(answers) and not all(answers)
    assert not unequal_names(*map(all_state, blocks))
    assert (overlapping.evaluate() == strict.evaluate()).all()


def test_a_copy_that_went_through_a_checkpoint_goes_on_alike(tmp_path: Path) -> None:
    """Evaluations before it included, and episodes of every length."""
    block = make_block((3, 4), batch_size=8, envs_per_lane=5)  # a part of rows is not full
    for _ in range(30):
        block.collector.random_step_()
    block.evaluate()
    copy = copy_block(block, tmp_path)
    assert not unequal_names(all_state(block), all_state(copy))
    for each in (block, copy):
        for step in range(1, 31):
            train_step_(each.collector, each.learner, 5 * step, 1)
    assert (block.evaluate() == copy.evaluate()).all()
    assert not unequal_names(all_state(block), all_state(copy))
    assert sum(map(len, copy.collector.take_finished())) > 5


@pytest.mark.parametrize(
    ("owner", "name", "number"),
    [(Collector, "random_step_", 5), (Collector, "begin_", 17), (Collector, "begin_", 39)],
)
def test_a_resumed_run_is_the_unbroken_one(
    tmp_path: Path, owner: type, name: str, number: int
) -> None:
    """The simulators' state, the running episodes and their returns included; 10 random steps."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main([*COMMAND, "--run_dir", str(whole)]) == 0
    with at_call(owner, name, number, send):
        assert main([*COMMAND, "--run_dir", str(broken)]) == runner.EXIT_INTERRUPTED
    assert "env/qpos" in newest(broken).tensors(1 << 30)
    assert main(["resume", str(broken)]) == 0
    found, expected = records(broken), records(whole)
    assert found == expected and len(expected["eval.csv"]) == 2 * 4
    ends = [newest(run).tensors(1 << 30) for run in (whole, broken)]
    weights = [name for name in ends[0] if name.startswith("learner/actor")]
    assert weights and all(torch.equal(ends[0][name], ends[1][name]) for name in weights)


def test_compiling_is_announced_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, bool]] = []
    monkeypatch.setattr(mjx_backend.MjxVecEnv, "compile", lambda env: 12.34)
    env = mjx_backend.MjxVecEnv(envs.spec("Hopper-v4", "mjx"), range(16))
    compile_aloud(env, lambda text, stays: said.append((text, stays)))
    assert said == [
        ("compiling 16 environments of Hopper-v4", False),
        ("compiled 16 environments of Hopper-v4 in 12.3 s", True),
    ]


def test_the_plan_names_memory_and_regime(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--env", "Ant-v3", "--backend", "mjx", "--envs_per_lane", "64", "--num_seeds", "4"]
    study = parse_command_line([*arguments, "--device", "cpu"])
    text = study.plan.text()
    assert "4 lanes x 64 environments, SAC on Ant-v3 (mjx)" in text and ", simulation " in text
    assert "note: 1 update for 64 environment steps of a lane, 0.0156 each: not the papers'" in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "mjx", "--mjx_impl", "warp"], "mjx_impl warp needs an NVIDIA GPU"),
        (["--mjx_impl", "warp"], "mjx_impl warp needs backend mjx, got envpool"),
        (["--backend", "mjx", "--env", "Swimmer-v4"], "unknown to backend 'mjx'"),
        (["--backend", "mjx", "--env", "Humanoid-v3", "--envs_per_lane", "1000000",
          "--start_timesteps", "1000000", "--replay_capacity", "400000000"],
         "needs more memory than"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_before_anything_is_compiled(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(mjx_backend.MjxVecEnv, "compile", None)
    with pytest.raises(SystemExit) as raised:
        main(["train", *arguments, "--device", "cpu", "--run_dir", str(tmp_path / "run")])
    captured = capsys.readouterr()
    assert raised.value.code == 2 and words in captured.err and captured.err.count("\n") == 1
    assert not (tmp_path / "run").exists()
