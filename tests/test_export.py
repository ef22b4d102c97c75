"""Exported files act as their agent, whatever its settings; files that would not are not kept."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import backend
from torch import Tensor

from fastanf.activations import ACTIVATIONS, make_activation
from fastanf.agent import Agent, load_agent
from fastanf.export import formats
from fastanf.export.checked import TOLERANCE, write_checked
from fastanf.export.formats import FORMATS, Format
from fastanf.export.onnx_activations import activate
from fastanf.export.onnx_graph import _with_gaps, onnx_graph
from fastanf.export.onnx_nodes import Nodes
from fastanf.export.policy import Policy, about, policy_of
from fastanf.export.torch_program import ABOUT, PolicyModule
from tests import fake_env
from tests.agent_samples import ALGORITHMS, make_lanes, make_run, save_run, train

SETTINGS: dict[str, dict[str, Any]] = {
    "sparse": {},
    "dense": {"policy": "{}"},
    "sparse everywhere": {"policy": "TowS-{}", "global_sparsity": 0.5, "sparse_output_layer": True},
    "nearly dense": {"input_layer_sparsity": 0.1},
    "no noise": {"noise_fraction": 0.0},
    "permuted": {"permute_period": 2},
    "normalised": {"normalize_observations": True, "permute_period": 2},
    "layer norm": {"layer_norm": True, "activation": "tanh"},
    "gated": {"input_gate": True},
    "all at once": {
        "layer_norm": True, "input_gate": True, "normalize_observations": True,
        "activation": "srelu", "activation_per_neuron": True, "hidden": (8, 5, 4),
    },
}  # fmt: skip
# Two float32 programs of three layers of at most 10 inputs round a few units in the last place
# apart, of values of order one.
CLOSE = 2e-6


@pytest.fixture(autouse=True)
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)


def make_agent(path: Path, algorithm: str = "SAC", policy: str = "ANF-{}", **values: Any) -> Agent:
    return load_agent(make_run(path / "run", policy.format(algorithm), **values), 1)


def random_features(agent: Agent, num_rows: int) -> np.ndarray:
    rng = np.random.default_rng(num_rows)
    return rng.normal(scale=2, size=(num_rows, agent.num_features)).astype(np.float32)


def act_by_onnx(policy: Policy, features: np.ndarray) -> np.ndarray:
    model = onnx.load_from_string(onnx_graph(policy, {}))
    return np.asarray(backend.prepare(model, "CPU").run([features])[0])


def act_by_torch(policy: Policy, features: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return PolicyModule(policy)(torch.from_numpy(features)).numpy()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_graph_and_program_act_as_the_agent(tmp_path: Path, algorithm: str, setting: str) -> None:
    agent = make_agent(tmp_path, algorithm, **SETTINGS[setting])
    policy = policy_of(agent)
    for n in (1, 9):
        features = random_features(agent, n)
        expected = agent.act_on_features(features)
        assert expected.std() > 0.01
        np.testing.assert_allclose(act_by_onnx(policy, features), expected, rtol=0, atol=CLOSE)
        np.testing.assert_allclose(act_by_torch(policy, features), expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("per_neuron", [False, True])
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_activation_is_exported(
    tmp_path: Path, algorithm: str, name: str, per_neuron: bool
) -> None:
    if per_neuron and not make_activation(name).is_learnable:
        return
    agent = make_agent(
        tmp_path, algorithm, activation=name, activation_per_neuron=per_neuron, hidden=(8, 5, 4)
    )
    policy, features = policy_of(agent), random_features(agent, 7)
    expected = agent.act_on_features(features)
    assert expected.std() > 0.01
    np.testing.assert_allclose(act_by_onnx(policy, features), expected, rtol=0, atol=CLOSE)
    np.testing.assert_allclose(act_by_torch(policy, features), expected, rtol=0, atol=CLOSE)


ARGS: dict[str, tuple[float, ...]] = {
    "elu": (0.3,), "leakyrelu": (-0.2,), "allrelu": (0.3,), "nonlex": (0.8, 1.5, 0.4, 0.3),
    "lex": (0.8, 1.5, 0.4, 0.3), "fixedsrelu": (0.6, -0.5, -0.1, 2.0),
    "srelu": (0.6, -0.5, -0.1, 2.0),
}  # fmt: skip


@pytest.mark.parametrize("layer_index", [0, 1])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_onnx_activations_are_those_of_training_point_by_point(name: str, layer_index: int) -> None:
    """With arguments of their own, at 0 and at every threshold, and where exp would overflow."""
    activation = make_activation(name, ARGS.get(name, ()))
    values = [0.0, -0.0, 1.0, -1.0, 0.6, -0.1, 1e-30, -1e-30, 100.0, -100.0]
    h = torch.cat([torch.tensor(values), torch.linspace(-4, 4, 101)]).view(1, -1)
    learned: dict[str, Tensor] = activation.initial_parameters((1,), h.shape[1], True)
    nodes = Nodes()
    arrays = {part: tensor[0, :, 0].numpy() for part, tensor in learned.items()}
    last = activate(nodes, activation, "h", layer_index, arrays)
    nodes.add("Identity", last, output="y")
    taken, given = (
        onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, list(h.shape))
        for end in ("h", "y")
    )
    graph = onnx.helper.make_graph(nodes.nodes, "one", [taken], [given], nodes.initializers)
    opset = onnx.helper.make_opsetid("", 18)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8)
    found = np.asarray(backend.prepare(model, "CPU").run([h.numpy()])[0])
    expected = activation(h.t().unsqueeze(0), layer_index, **learned)[0].t().numpy()
    np.testing.assert_allclose(found, expected, rtol=3e-6, atol=3e-7)  # a few ulp of exp and pow


def test_a_norm_of_units_far_from_zero_is_exact_enough(tmp_path: Path) -> None:
    """Where a variance by differences of squares would have lost its digits."""
    agent = make_agent(tmp_path, layer_norm=True)
    tensors = dict(agent.state.tensors)
    tensors["actor.0.bias"] = tensors["actor.0.bias"] + 300
    agent = Agent(dataclasses.replace(agent.state, tensors=tensors))
    policy, features = policy_of(agent), random_features(agent, 7)
    expected = agent.act_on_features(features)
    # 300 is known to 1.5e-5, its differences of order one to as much
    np.testing.assert_allclose(act_by_onnx(policy, features), expected, rtol=0, atol=2e-4)
    np.testing.assert_allclose(act_by_torch(policy, features), expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("density", [0.0005, 0.003, 0.2, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 171), (5, 1711)])
def test_gaps_lead_back_to_the_weight(shape: tuple[int, int], density: float) -> None:
    rng = np.random.default_rng(0)
    mask = rng.random(shape) < density
    mask[-1, -1] = True
    weight = np.where(mask, rng.normal(size=shape), 0).astype(np.float32)
    values, gaps = _with_gaps(weight, mask)
    assert gaps.dtype == np.uint8 and gaps.min() > 0
    assert len(values) <= mask.sum() + mask.size // 255
    places = gaps.astype(np.int64).cumsum() - 1
    found = np.zeros(mask.size, dtype=np.float32)
    found[places] = values
    np.testing.assert_array_equal(found.reshape(shape), weight)


def test_outputs_without_a_connection_give_their_bias(tmp_path: Path) -> None:
    agent = make_agent(tmp_path, layout="masked", num_steps=0)
    tensors = {name: tensor.clone() for name, tensor in agent.state.tensors.items()}
    weight, mask = tensors["actor.0.weight"], tensors["actor.0.weight.mask"]
    for rows in (slice(0, 2), slice(-1, None)):
        weight[:, rows], mask[:, rows] = 0, False
    tensors["actor.0.bias"] += 0.5
    agent = Agent(dataclasses.replace(agent.state, tensors=tensors))
    features = random_features(agent, 3)
    for act in (act_by_onnx, act_by_torch):
        found = act(policy_of(agent), features)
        np.testing.assert_allclose(found, agent.act_on_features(features), rtol=0, atol=CLOSE)


@pytest.fixture
def wide_agent(tmp_path: Path) -> Agent:
    """With 300 features and a first layer of 95% sparsity: most of its bytes are that layer's."""
    lanes = make_lanes("ANF-SAC", noise_fraction=0.99, hidden=(96, 8), input_layer_sparsity=0.95)
    return load_agent(save_run(tmp_path / "run", train(lanes, 3)), 1)


def test_files_of_sparse_agents_are_smaller_than_dense_ones(
    wide_agent: Agent, tmp_path: Path
) -> None:
    policy = policy_of(wide_agent)
    num_dense = 4 * (300 * 96 + 96 * 8 + 8 * 2 + 96 + 8 + 2)
    assert policy.num_dense_bytes == num_dense
    num_connections = int(wide_agent.state.tensors["actor.0.weight.mask"].sum())
    for name, bytes_each in (("onnx", 5), ("torch", 6), ("agent", 6)):
        exported = write_checked(wide_agent, policy, name, tmp_path / f"file{FORMATS[name].suffix}")
        assert exported.num_bytes == exported.path.stat().st_size
        # The rest is dense layers, names and the graph, which in a .pt2 is JSON.
        overhead = 40_000 if name == "torch" else 8_000
        assert exported.num_bytes < bytes_each * num_connections + 4 * 1000 + overhead < num_dense


def test_a_graph_says_what_it_is_and_takes_any_number_of_rows(wide_agent: Agent) -> None:
    model = onnx.load_from_string(onnx_graph(policy_of(wide_agent), about(wide_agent)))
    onnx.checker.check_model(model, full_check=True)
    (taken,), (given,) = model.graph.input, model.graph.output
    assert (taken.name, given.name) == ("features", "action")
    shapes = [end.type.tensor_type.shape.dim for end in (taken, given)]
    assert [shape[0].dim_param for shape in shapes] == ["n", "n"]
    assert [shape[1].dim_value for shape in shapes] == [300, 2]
    told = json.loads({prop.key: prop.value for prop in model.metadata_props}["fastanf"])
    assert told["env"] == fake_env.ROWS_ENV_ID and told["policy"] == "ANF-SAC"
    assert told["real_places"] == [0, 1, 2] and told["lane"] == 1 and told["updates"] == 3


ALONE = """
import sys
sys.modules["fastanf"] = sys.modules["envs"] = None  # to import them is an error
import json, torch
extra = {"fastanf.json": ""}
module = torch.export.load(sys.argv[1], extra_files=extra).module()
features = torch.load(sys.argv[2])
for n in (1, 5):
    assert torch.equal(module(features[:n]), module(features)[:n]) or n == 1
torch.save(module(features), sys.argv[3])
print(json.loads(extra["fastanf.json"])["env"])
"""


def test_a_torch_program_needs_nothing_of_this_package(tmp_path: Path) -> None:
    agent = make_agent(tmp_path, **SETTINGS["all at once"])
    path = tmp_path / "program.pt2"
    exported = write_checked(agent, policy_of(agent), "torch", path)
    assert exported.largest_difference < CLOSE
    features = random_features(agent, 5)
    given, taken = tmp_path / "features.pt", tmp_path / "actions.pt"
    torch.save(torch.from_numpy(features), given)
    done = subprocess.run(
        [sys.executable, "-c", ALONE, str(path), str(given), str(taken)],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [fake_env.ROWS_ENV_ID]
    expected = agent.act_on_features(features)
    np.testing.assert_allclose(torch.load(taken).numpy(), expected, rtol=0, atol=CLOSE)
    held = torch.export.load(path, extra_files={ABOUT: ""})
    assert held.module()(torch.zeros(1, agent.num_features)).shape == (1, 2)


# Files that are not kept.


@pytest.mark.parametrize("factor", [1 + 20 * TOLERANCE, np.nan])
def test_a_file_that_acts_otherwise_is_not_written_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    agent = make_agent(tmp_path)
    policy = policy_of(agent)
    path = tmp_path / "out" / "actor.onnx"
    path.parent.mkdir()
    path.write_bytes(b"the one before")
    wrong = dataclasses.replace(policy, action_scale=policy.action_scale * np.float32(factor))
    with pytest.raises(ValueError, match=r"--format onnx: .* differ .* it is not written"):
        write_checked(agent, wrong, "onnx", path)
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"the one before"]
    with monkeypatch.context() as patch:
        too_few = dataclasses.replace(
            FORMATS["onnx"], read=lambda content: lambda x: np.zeros((1, 2))
        )
        patch.setitem(formats.FORMATS, "onnx", too_few)
        with pytest.raises(ValueError, match=r"actions \[1, 2\] where the agent gives \[7, 2\]"):
            write_checked(agent, policy, "onnx", path)
    assert [file.read_bytes() for file in path.parent.iterdir()] == [b"the one before"]
    assert write_checked(agent, policy, "onnx", path).largest_difference < CLOSE


def test_more_is_allowed_where_the_agent_itself_rounds_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large values that cancel leave actions known to few digits, in every program."""
    agent = make_agent(tmp_path)
    tensors = dict(agent.state.tensors)
    tensors["actor.1.bias"] = tensors["actor.1.bias"] + 3000
    lifted = 3000 * tensors["actor.2.weight"].double().sum(2)
    tensors["actor.2.bias"] = (tensors["actor.2.bias"] - lifted).float()
    coarse = Agent(dataclasses.replace(agent.state, tensors=tensors))
    span = np.array(agent.spec.action_high) - np.array(agent.spec.action_low)

    def a_little_off(agent: Agent) -> Format:
        def act(features: np.ndarray) -> np.ndarray:
            return agent.act_on_features(features) + np.float32(1.5 * TOLERANCE) * span

        return dataclasses.replace(FORMATS["onnx"], read=lambda content: act)

    monkeypatch.setitem(formats.FORMATS, "onnx", a_little_off(coarse))
    exported = write_checked(coarse, policy_of(coarse), "onnx", tmp_path / "a.onnx")
    assert exported.largest_difference > TOLERANCE * span.max()
    monkeypatch.setitem(formats.FORMATS, "onnx", a_little_off(agent))
    with pytest.raises(ValueError, match="differ"):
        write_checked(agent, policy_of(agent), "onnx", tmp_path / "b.onnx")


def test_a_parameter_that_no_format_knows_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = make_agent(tmp_path, num_steps=0)
    parameters = list(agent.mlp.parameters())
    odd = parameters[1]._replace(name="0.wonder")
    monkeypatch.setattr(agent.mlp, "parameters", lambda: iter([*parameters, odd]))
    with pytest.raises(ValueError, match=r"parameter 0\.wonder .* cannot be exported"):
        policy_of(agent)
