"""Lanes of all topologies in training: independent of each other to the bit, resumed in the middle
of their schedules, recorded, and whole runs with every setting in both positions.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fastanf import recording, runner
from fastanf.__main__ import main
from fastanf.block import TrainingBlock
from fastanf.cli import parse_command_line
from fastanf.config import TrainConfig
from fastanf.sparse import masks
from tests import fake_env
from tests.helpers import (
    all_state,
    copy_block,
    make_block,
    make_lane,
    replay_content,
    unequal_names,
)
from tests.interruptions import records, rows_of, signal_at_update

NUM_RANDOM, NUM_UPDATES = 40, 14
SHARED: dict[str, Any] = {
    "hidden": (24, 17), "layout": "masked", "max_timesteps": 12, "noise_fraction": 0.6,
}  # fmt: skip
MIXED: list[tuple[str, dict[str, Any]]] = [
    ("ANF-{}", {"topology": "rigl", "topology_period": 3, "drop_fraction": 0.3}),
    ("ANF-{}", {"topology": "set", "topology_period": 2, "drop_schedule": "cosine"}),
    ("Static-{}", {}),
    ("TowS-{}", {"topology": "pruning", "topology_period": 3, "global_sparsity": 0.7}),
    ("{}", {}),
    # Moments that are not masked, as in DS; a batch of its own would be another block.
    ("TowS-{}", {"topology": "rigl", "topology_period": 1, "drop_schedule": "cosine",
                 "global_sparsity": 0.5, "optimizer": "Adam", "new_weights": "xavier"}),
    ("ANF-{}", {"topology": "pruning", "topology_period": 2, "topology_end": 0.5,
                "evolving_networks": "critic"}),
    ("ANF-{}", {"topology": "rigl", "topology_period": 2, "sparse_networks": "actor"}),
]  # fmt: skip

algorithms = pytest.mark.parametrize("algorithm", ["SAC", "TD3"])


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=["looped", "at once"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Rows one by one, as on the CPU, and all at once, as on a GPU."""
    monkeypatch.setattr(masks, "is_looped", lambda tensor: request.param == "looped")
    return request.param


def mixed_lanes(algorithm: str) -> list[TrainConfig]:
    return [
        make_lane(policy.format(algorithm), 50 + 7 * index, **SHARED, **own)
        for index, (policy, own) in enumerate(MIXED)
    ]


def train(lanes: Sequence[TrainConfig], num_updates: int = NUM_UPDATES) -> TrainingBlock:
    block = make_block(lanes, NUM_RANDOM)
    for _ in range(num_updates):
        block.learner.update_()
    return block


def state_of(block: TrainingBlock, lane: int) -> dict[str, Tensor]:
    """What training changed in one lane; a dense layer is one whose mask is full."""
    L, state = len(block.lanes), {}
    for name, tensor in block.learner.state_dict().items():
        if name == "log_temperature.moments":
            tensor = tensor.transpose(0, 1)
        if not name.endswith(".gradient"):  # of some lanes only; it shows in what grows
            state[name] = tensor.reshape(L, -1)[lane] if tensor.ndim else tensor
    for name, tensor in list(state.items()):
        if name.endswith(".weight") and not name.startswith("target"):
            state.setdefault(f"{name}.mask", torch.ones_like(tensor, dtype=torch.bool))
    replay = replay_content(block.replay)._asdict()
    return state | {f"replay.{name}": tensor[lane] for name, tensor in replay.items()}


def unequal(one: TrainingBlock, lane: int, other: TrainingBlock, other_lane: int) -> list[str]:
    own, among = state_of(one, lane), state_of(other, other_lane)
    assert own.keys() == among.keys()
    return [name for name in own if not torch.equal(own[name], among[name])]


def first_masks(block: TrainingBlock, lane: int) -> list[Tensor]:
    """Of the first layers of actor and critics."""
    state = state_of(block, lane)
    return [state[f"{network}.0.weight.mask"] for network in ("actor", "critic")]


@algorithms
def test_lanes_of_all_topologies_are_the_same_alone(algorithm: str, way: str) -> None:
    lanes = mixed_lanes(algorithm)
    together = train(lanes)
    assert all(
        t.isfinite().all() for lane in range(len(lanes)) for t in state_of(together, lane).values()
    )
    for lane, config in enumerate(lanes):
        assert unequal(train([config]), 0, together, lane) == []


@algorithms
def test_order_of_lanes_and_broken_lanes_do_not_matter(algorithm: str) -> None:
    lanes = mixed_lanes(algorithm)
    forward, backward = train(lanes), make_block(lanes[::-1], NUM_RANDOM)
    with torch.no_grad():
        for network in backward.algorithm.networks().values():
            for _, tensor, _ in network.parameters():
                tensor.view(len(lanes), -1)[::2] = float("nan")
    for _ in range(NUM_UPDATES):
        backward.learner.update_()
    for lane in range(0, len(lanes), 2):
        assert unequal(forward, lane, backward, len(lanes) - 1 - lane) == []


def test_connections_change_in_the_networks_that_evolve_and_in_no_other() -> None:
    lanes = mixed_lanes("SAC")
    begun, trained = train(lanes, 0), train(lanes)
    is_changed = [
        [
            not torch.equal(a, b)
            for a, b in zip(first_masks(begun, i), first_masks(trained, i), strict=True)
        ]
        for i in range(len(lanes))
    ]
    assert is_changed == [
        [True, True], [True, True], [False, False], [True, True], [False, False], [True, True],
        [False, True], [True, False],
    ]  # fmt: skip
    is_full = [[bool(mask.all()) for mask in first_masks(begun, i)] for i in range(len(lanes))]
    assert is_full == [
        [False, False], [False, False], [False, False], [True, True], [True, True], [False, False],
        [False, True], [False, True],
    ]  # fmt: skip


def test_an_end_stops_what_would_go_on() -> None:
    lanes = [
        make_lane("ANF-SAC", 3, **SHARED, topology=topology, topology_period=2, topology_end=end)
        for topology in ("set", "rigl") for end in (1.0, 0.5)
    ]  # fmt: skip
    until_end, later = train(lanes, 6), train(lanes, 12)
    for lane in range(4):
        pairs = zip(first_masks(until_end, lane), first_masks(later, lane), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == (lane % 2 == 1)


@algorithms
@pytest.mark.parametrize("update", [3, 4, 7])
def test_a_checkpoint_between_changes_goes_on_as_if_nothing_had_happened(
    algorithm: str, update: int, tmp_path: Path
) -> None:
    """TD3's connections may grow by the gradient of an update before the checkpoint."""
    unbroken = train(mixed_lanes(algorithm), update)
    resumed = copy_block(unbroken, tmp_path)
    kept = {name for name in unbroken.learner.state_dict() if name.endswith(".gradient")}
    assert kept == (
        {"actor.0.weight.gradient", "actor.1.weight.gradient"} if algorithm == "TD3" else set()
    )
    assert unequal_names(all_state(unbroken), all_state(resumed)) == []
    for block in (unbroken, resumed):
        for step in range(1, 5):
            block.collector.step_(step)
            block.learner.update_()
    assert unequal_names(all_state(unbroken), all_state(resumed)) == []


def test_a_delayed_actor_grows_by_the_gradient_of_its_last_step() -> None:
    lane = make_lane("ANF-TD3", 5, **SHARED, topology="rigl", topology_period=3)
    block = train([lane], 4)  # the actor steps at 2 and 4; connections change after 2 and 5
    (kept,) = block.algorithm.topologies[0].kept_gradients
    before = kept.kept.clone()
    assert bool(before.any())
    mask = first_masks(block, 0)[0].clone()
    block.learner.update_()
    assert torch.equal(kept.kept, before)
    assert not torch.equal(mask, first_masks(block, 0)[0])


def test_a_mask_that_pruning_never_has_is_refused() -> None:
    lane = make_lane("ANF-SAC", 5, **SHARED, topology="pruning", topology_period=1)
    block = train([lane], 4)
    state = block.learner.state_dict()
    state["critic.0.weight.mask"] = torch.zeros_like(state["critic.0.weight.mask"])
    with pytest.raises(ValueError, match="cannot take over 0"):
        block.learner.load_state_dict_(state)


def test_topology_rows_show_pruned_layers_while_they_are_dense_and_no_dense_ones() -> None:
    shared = {**SHARED, "topology_period": 5}
    lanes = [
        make_lane("ANF-SAC", 1, **shared, topology="pruning"),
        make_lane("SAC", 2, **shared),
        make_lane("TowS-SAC", 3, **shared, global_sparsity=0.5),
    ]
    block, densities = make_block(lanes, NUM_RANDOM), []
    for update in (0, 5, 7):
        for _ in range(update):
            block.learner.update_()
        rows = recording.topology_rows(block, [7, 8, 9], step=1, updates=1)
        assert {(row.lane, row.layer) for row in rows} == {(7, 0), (9, 0), (9, 1)}
        densities.append([row.density for row in rows if row.lane == 7])
    assert densities[0] == [1.0] * 3
    assert all(0.2 < density < 1 for density in densities[1])
    for row in (row for row in rows if row.lane == 7):
        assert row.real_connections is not None and row.noise_connections is not None
        assert row.density == pytest.approx(0.2, abs=1 / 200)


OPTIONS = {
    "policy": "SAC ANF-SAC", "env": fake_env.ROWS_ENV_ID, "backend": "fake", "num_seeds": 1,
    "hidden": "8x5", "batch_size": 4, "noise_fraction": 0.7, "topology_period": 3,
    "max_timesteps": 25, "start_timesteps": 9, "eval_freq": 7, "eval_episodes": 3,
    "tensorboard": "false", "device": "cpu",
}  # fmt: skip
VARIED = {
    "topologies": ["topology=set,static,rigl,pruning"],
    "schedules": ["topology=set,rigl", "drop_schedule=constant,cosine", "topology_end=0.5,1"],
    "networks": ["topology=set,rigl,pruning", "sparse_networks=both,actor,critic"],
    "evolving": ["topology=set,rigl,pruning", "evolving_networks=both,actor,critic"],
}


def run(path: Path, vary: Sequence[str], **options: Any) -> int:
    arguments = ["--plain", "--run_dir", str(path), "--vary", *vary]
    for name, value in (OPTIONS | options).items():
        arguments += [f"--{name}", *str(value).split()]
    return runner.train(parse_command_line(arguments))


@pytest.fixture
def fake_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())


@pytest.mark.usefixtures("fake_backend")
@pytest.mark.parametrize("study", VARIED)
@pytest.mark.parametrize("policies", ["SAC ANF-SAC", "DS-TD3"])
def test_runs_with_every_setting_end_with_their_connections(
    tmp_path: Path, study: str, policies: str
) -> None:
    path = tmp_path / "run"
    assert run(path, VARIED[study], policy=policies) == 0
    lanes, topology = rows_of(path, "lanes.csv"), rows_of(path, "topology.csv")
    last: dict[tuple[str, str, str], set[str]] = {}
    for row in topology:
        if row["step"] == "25":
            last.setdefault((row["lane"], row["network"], row["layer"]), set()).add(row["active"])
    for lane in lanes:
        own = {network for number, network, _ in last if number == lane["lane"]}
        sparse = {"both": {"actor", "critic1", "critic2"}, "actor": {"actor"},
                  "critic": {"critic1", "critic2"}}[lane["sparse_networks"]]  # fmt: skip
        assert own == (set() if lane["policy"] == "SAC" else sparse)
    # In the end all topologies have the same number of connections.
    counts: dict[tuple[str, str], set[str]] = {}
    for (_, network, layer), active in last.items():
        counts.setdefault((network, layer), set()).update(active)
    assert counts and all(len(active) == 1 for active in counts.values())


@pytest.mark.usefixtures("fake_backend")
def test_a_run_interrupted_in_the_middle_of_pruning_goes_on(tmp_path: Path) -> None:
    path, whole, vary = tmp_path / "run", tmp_path / "whole", VARIED["topologies"]
    assert run(whole, vary, policy="ANF-TD3", layout="masked") == 0
    with signal_at_update(12):
        assert run(path, vary, policy="ANF-TD3", layout="masked") == 130
    assert main(["resume", str(path)]) == 0
    assert records(path) == records(whole)
    rows = [row for row in rows_of(path, "topology.csv") if row["network"] == "critic1"]
    pruned = [int(row["active"]) for row in rows if row["lane"] == "3"]
    assert len(pruned) == 4 and pruned == sorted(pruned, reverse=True)
    assert len({row["active"] for row in rows if row["lane"] != "3"} | {str(pruned[-1])}) == 1


@pytest.mark.usefixtures("fake_backend")
@pytest.mark.parametrize("topology", ["rigl", "pruning"])
def test_csr_is_refused_in_one_line(topology: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["train", "--policy", "ANF-SAC", "--topology", topology, "--layout", "csr"])
    assert end.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert f"layout csr does not go with topology {topology}" in line
