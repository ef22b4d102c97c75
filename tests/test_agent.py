"""Agents act as their lane did in its block, to the bit, whatever it was trained with, also after a
journey through a file of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import fastanf.agent
import fastanf.block
from fastanf import runner
from fastanf.activations import ACTIVATIONS
from fastanf.agent import Agent, load_agent, save_agent
from fastanf.agent_state import AgentState
from fastanf.block import TrainingBlock
from fastanf.cli import parse_command_line
from fastanf.collect import fill_rows
from fastanf.config import TrainConfig
from fastanf.evaluate import evaluate
from fastanf.kernels.layer_input import LayerInput
from fastanf.rng import Stream, row_seeds
from fastanf.rows import read_evaluations
from fastanf.simulator import on_device
from tests import fake_env
from tests.agent_samples import (
    ALGORITHMS,
    change_checkpoint,
    make_lanes,
    make_run,
    save_run,
    train,
)
from tests.fake_env import SPEC, RowsEnv

D, F = SPEC.num_features, 10
SETTINGS: dict[str, dict[str, Any]] = {
    "csr": {"layout": "csr"},
    "masked": {"layout": "masked"},
    "dense": {"policy": "{}"},
    "sparse everywhere": {"policy": "TowS-{}", "global_sparsity": 0.5, "sparse_output_layer": True},
    "no noise": {"noise_fraction": 0.0},
    "loud noise": {"noise_std": 3.0, "noise_redraw": "per_step"},
    "permuted": {"permute_period": 2},
    "permuted, old order": {"permute_period": 2, "permute_replay": False},
    "normalised": {"normalize_observations": True},
    "normalised and permuted": {"normalize_observations": True, "permute_period": 2},
    "layer norm": {"layer_norm": True},
    "gated": {"input_gate": True},
    "gated, dense": {"policy": "{}", "input_gate": True, "layer_norm": True},
    "rigl": {"topology": "rigl"},
    "half pruned": {"topology": "pruning"},
    "pruned": {"topology": "pruning", "topology_end": 0.1},
    "tanh": {"activation": "tanh"},
    "allrelu": {"activation": "allrelu", "hidden": (8, 5, 4)},
    "srelu": {"activation": "srelu", "activation_per_neuron": True},
    "lex": {"activation": "lex", "layout": "csr"},
}


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def trained(algorithm: str, policy: str = "ANF-{}", **values: Any) -> TrainingBlock:
    return train(make_lanes(policy.format(algorithm), **values))


def random_obs(num_rows: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(num_rows, D))).float()


def act_in_block(block: TrainingBlock, obs: Tensor, row: int) -> Tensor:
    """[L, n, A] of all lanes on the same observations [n, D]."""
    n = obs.shape[0]
    repeated = obs.repeat(len(block.lanes), 1)
    return block.eval_act(repeated, row).view(len(block.lanes), n, -1)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_agent_acts_as_its_lane_to_the_bit_also_from_its_file(
    tmp_path: Path, algorithm: str, setting: str
) -> None:
    block = trained(algorithm, **SETTINGS[setting])
    path = save_run(tmp_path / "run", block)
    if "permute_period" in SETTINGS[setting]:
        assert block.features.source is not None and block.features.source.shape[1] > 1
    for lane in range(2):
        agent = load_agent(path, lane)
        save_agent(agent, tmp_path / "agent.safetensors")
        again = load_agent(tmp_path / "agent.safetensors")
        for n in (1, 7):
            obs = random_obs(n, seed=n)
            expected = act_in_block(block, obs, 17)[lane]
            assert torch.equal(agent.act(obs, 17), expected)
            assert torch.equal(again.act(obs, 17), expected)
        assert torch.equal(agent.real_columns, block.features.real_columns()[lane])
        assert torch.equal(again.real_columns, agent.real_columns)


def test_what_is_kept_of_some_lanes_only_is_not_the_agents(tmp_path: Path) -> None:
    lanes = make_lanes("ANF-TD3", layout="masked")
    block = train([lanes[0], lanes[1].replace(topology="rigl")])
    path = save_run(tmp_path / "run", block)
    (kept,) = (
        t for name, t in block.state_dict().items() if name.endswith("actor.0.weight.gradient")
    )
    assert kept.shape[0] == 1
    for lane in range(2):
        agent = load_agent(path, lane)
        save_agent(agent, tmp_path / "agent.safetensors")
        assert not [
            name for name in load_file(tmp_path / "agent.safetensors") if "gradient" in name
        ]
        obs = random_obs(3)
        assert torch.equal(agent.act(obs, 17), act_in_block(block, obs, 17)[lane])


@pytest.mark.parametrize("setting", SETTINGS)
def test_features_that_hold_their_noise_give_the_same_actions(tmp_path: Path, setting: str) -> None:
    block = trained("SAC", **SETTINGS[setting])
    agent = load_agent(save_run(tmp_path / "run", block), 1)
    obs = random_obs(5)
    rows = (17 + torch.arange(5)).expand(2, -1)
    shown = block.features._shown(obs.expand(2, -1, -1), rows, Stream.EVAL_FEATURES, None)
    features = shown.written_out[1].t()
    assert torch.equal(agent.act_on_features(features), agent.act(obs, 17))
    assert torch.equal(features[:, agent.real_places], obs)


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_activation_is_loaded_with_what_it_learned(
    tmp_path: Path, algorithm: str, name: str
) -> None:
    block = trained(algorithm, activation=name)
    agent = load_agent(save_run(tmp_path / "run", block), 1)
    features = torch.randn(6, F, generator=torch.Generator().manual_seed(1))
    filled = fill_rows(features.expand(2, -1, -1))
    expected = block.algorithm.act(LayerInput(filled.transpose(1, 2).contiguous()))[1, :6]
    assert torch.equal(agent.act_on_features(features), expected)


def test_empirical_noise_is_drawn_from_the_same_quantiles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantiles = np.sort(np.random.default_rng(0).normal(size=(D, 257)), axis=1).astype(np.float32)
    for module in (fastanf.block, fastanf.agent):
        monkeypatch.setattr(module, "load_quantiles", lambda env: quantiles)
    block = trained("TD3", noise_distribution="empirical")
    agent = load_agent(save_run(tmp_path / "run", block), 1)
    obs = random_obs(4)
    assert torch.equal(agent.act(obs, 3), act_in_block(block, obs, 3)[1])


class ActOf:
    """An agent in the place of a block's act."""

    num_lanes = 1

    def __init__(self, agent: Agent):
        self.agent = agent

    def __call__(self, obs: Tensor, first_row: int) -> Tensor:
        return self.agent.act(obs, first_row)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_evaluations_of_a_run_are_repeated_to_the_bit(tmp_path: Path, algorithm: str) -> None:
    path = tmp_path / "run"
    arguments = [
        "--plain", "--run_dir", str(path), "--policy", f"ANF-{algorithm}", "--backend", "fake",
        "--env", fake_env.ROWS_ENV_ID, "--num_seeds", "2", "--hidden", "8x5", "--batch_size", "4",
        "--noise_fraction", "0.7", "--max_timesteps", "12", "--start_timesteps", "9",
        "--eval_freq", "6", "--eval_episodes", "3", "--tensorboard", "false", "--device", "cpu",
        "--topology_period", "3",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
        assert runner.train(parse_command_line(arguments)) == 0
    last = {row.lane: row for row in read_evaluations(path) if row.step == 12}
    for lane in range(2):
        agent = load_agent(path, lane)
        assert (agent.step, agent.num_updates) == (12, 12)
        env = RowsEnv(SPEC, row_seeds([lane], 3, purpose=1))
        env.episode += 2  # the first evaluation's, and the one it left unfinished
        act: Any = ActOf(agent)
        returns = evaluate(on_device(env, torch.device("cpu")), act, round_index=1).numpy()
        found = returns.mean(), returns.std(), returns.min(), returns.max()
        row = last[lane]
        assert found == (row.return_mean, row.return_std, row.return_min, row.return_max)
        assert agent.state.evaluation == row
        assert agent.state.versions["torch"] == torch.__version__


def test_an_agent_knows_where_its_training_stands(tmp_path: Path) -> None:
    block = trained("SAC", envs_per_lane=2, updates_per_step=3)
    agent = load_agent(save_run(tmp_path / "run", block), 1)
    assert agent.config == block.lanes[1] and agent.lane == 1
    assert agent.num_updates == block.learner.num_updates == 8
    assert agent.step == 8 // 3 * 2
    assert agent.num_features == F and agent.state.evaluation is None


def test_lanes_of_later_blocks_are_found(tmp_path: Path) -> None:
    blocks = [trained("SAC"), trained("TD3"), trained("SAC", hidden=(6,))]
    path = save_run(tmp_path / "run", *blocks)
    obs = random_obs(2)
    for lane, block, position in ((3, blocks[1], 1), (4, blocks[2], 0)):
        agent = load_agent(path, lane)
        assert agent.config == block.lanes[position]
        assert torch.equal(agent.act(obs), act_in_block(block, obs, 0)[position])


def test_a_dense_lane_among_sparse_ones_is_loaded(tmp_path: Path) -> None:
    lanes = [
        *make_lanes("ANF-SAC", 1, layout="masked"),
        *make_lanes("SAC", 1, layout="masked", weight_decay=2e-4),
    ]
    block = train(lanes)
    path = save_run(tmp_path / "run", block)
    obs = random_obs(3)
    for lane in range(2):
        agent = load_agent(path, lane)
        assert torch.equal(agent.act(obs), act_in_block(block, obs, 0)[lane])
        save_agent(agent, tmp_path / "agent.safetensors")
        again = load_agent(tmp_path / "agent.safetensors")
        assert torch.equal(again.act(obs), agent.act(obs))


def test_arrays_are_answered_with_arrays(tmp_path: Path) -> None:
    agent = load_agent(make_run(tmp_path / "run"))
    obs = random_obs(3)
    of_array = agent.act(obs.numpy().astype(np.float64), 5)
    assert isinstance(of_array, np.ndarray) and of_array.dtype == np.float32
    np.testing.assert_array_equal(of_array, agent.act(obs, 5).numpy())
    assert np.all(of_array >= SPEC.action_low) and np.all(of_array <= SPEC.action_high)
    assert not np.array_equal(of_array, agent.act(obs.numpy(), 6))  # other noise


@pytest.mark.parametrize("shape", [(D,), (2, D + 1), (0, D)])
def test_observations_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    agent = load_agent(make_run(tmp_path / "run", num_steps=0))
    with pytest.raises(ValueError, match=r"obs must have the shape \[n, 3\]"):
        agent.act(torch.zeros(shape))
    with pytest.raises(ValueError, match=r"features must have the shape \[n, 10\]"):
        agent.act_on_features(torch.zeros(2, D))


def states_are_equal(one: AgentState, other: AgentState) -> bool:
    same = [
        getattr(one, name) == getattr(other, name)
        for name in ("config", "spec", "lane", "step", "num_updates", "evaluation", "versions")
    ]
    assert one.tensors.keys() == other.tensors.keys()
    for name, tensor in one.tensors.items():
        assert tensor.dtype == other.tensors[name].dtype, name
        assert torch.equal(tensor, other.tensors[name]), name
    return all(same)


@pytest.mark.parametrize("sparsity", [0.2, 0.8, 0.97])
def test_a_file_holds_the_whole_state_and_little_more_than_its_connections(
    tmp_path: Path, sparsity: float
) -> None:
    lanes = make_lanes("ANF-SAC", noise_fraction=0.99, hidden=(32,), input_layer_sparsity=sparsity)
    agent = load_agent(save_run(tmp_path / "run", train(lanes, 3)), 1)
    path = tmp_path / "agent.safetensors"
    save_agent(agent, path)
    assert states_are_equal(agent.state, load_agent(path).state)
    num_inputs, num_active = 300, int(agent.state.tensors["actor.0.weight.mask"].sum())
    assert num_active == round((1 - sparsity) * num_inputs * 32)
    with safe_open(path, "np") as stored:
        names = set(stored.keys())
        stored_bytes = sum(stored.get_tensor(n).nbytes for n in names if n.startswith("actor.0.w"))
    has_bits = "actor.0.weight.bits" in names
    assert has_bits == (sparsity < 0.9)
    positions = num_inputs * 32 // 8 if has_bits else 2 * num_active + 2 * 32
    assert stored_bytes == 4 * num_active + positions


def test_an_active_connection_of_weight_zero_stays_active(tmp_path: Path) -> None:
    block = trained("SAC", layout="masked", topology_period=6, drop_fraction=0.5)  # grown now
    agent = load_agent(save_run(tmp_path / "run", block))
    tensors = agent.state.tensors
    mask, weight = tensors["actor.0.weight.mask"], tensors["actor.0.weight"]
    assert bool((mask & (weight == 0)).any())
    save_agent(agent, tmp_path / "agent.safetensors")
    again = load_agent(tmp_path / "agent.safetensors").state.tensors
    assert torch.equal(again["actor.0.weight.mask"], mask)


def test_an_agent_of_the_published_size_is_well_under_a_megabyte(tmp_path: Path) -> None:
    config = make_lanes("ANF-SAC", 1, noise_fraction=0.9, hidden=(256, 256))[0]
    # 17 real features of 170, 6 actions
    spec = fake_env.EnvSpec("HalfCheetah-v3", 17, 6, (-1.0,) * 6, (1.0,) * 6, 1000)
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(1, 256, 170, generator=generator) < 0.2
    tensors = {
        "actor.0.weight": torch.where(mask, 1.0, 0.0), "actor.0.weight.mask": mask,
        "actor.1.weight": torch.zeros(1, 256, 256), "actor.2.weight": torch.zeros(1, 12, 256),
        "actor.0.bias": torch.zeros(1, 256), "actor.1.bias": torch.zeros(1, 256),
        "actor.2.bias": torch.zeros(1, 12),
    }  # fmt: skip
    agent = Agent(AgentState(config, spec, 0, 0, 0, None, {}, tensors))
    path = tmp_path / "agent.safetensors"
    save_agent(agent, path)
    dense = 4 * sum(t.numel() for name, t in tensors.items() if not name.endswith("mask"))
    assert path.stat().st_size < dense - 4 * 170 * 256 * 0.75 < 0.35e6


def test_only_the_lane_that_is_asked_for_is_read(tmp_path: Path) -> None:
    """Others may even be broken."""
    block = trained("SAC")
    obs = random_obs(2)
    expected = act_in_block(block, obs, 0)[1]
    path = save_run(tmp_path / "run", block)

    def break_first_lane(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.ndim and not name.startswith("replay"):
                tensor[0] = torch.nan

    change_checkpoint(path, break_first_lane)
    assert torch.equal(load_agent(path, 1).act(obs), expected)


def test_configurations_keep_their_values_in_the_file(tmp_path: Path) -> None:
    values: dict[str, Any] = {"activation": "lex", "activation_args": (1.0, 0.9, 1.0, 0.5)}
    path = make_run(tmp_path / "run", **values)
    agent = load_agent(path)
    save_agent(agent, tmp_path / "agent.safetensors")
    again = load_agent(tmp_path / "agent.safetensors")
    assert isinstance(again.config, TrainConfig) and again.config == agent.config
    assert again.config.network.activation_args == (1.0, 0.9, 1.0, 0.5)
