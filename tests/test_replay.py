"""The ring of transitions against a plain list of everything that was ever added."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest
import scipy.stats
import torch
from torch import Tensor

from fastanf.replay import Batch, LaneReplay, replay_bytes
from fastanf.rng import LaneRng

D, A = 3, 2
SEEDS = (7, 8, 9)


@dataclass
class History:
    """A replay, and per lane and environment what was added, by its time."""

    replay: LaneReplay
    transitions: dict[tuple[int, int, int], tuple] = field(default_factory=dict)
    newest: Tensor | None = None
    counter: int = 0
    lanes: tuple[int, ...] = ()  # which universe lanes the replay holds

    def observation(self) -> Tensor:
        """[3, E, D] of numbers that no other observation holds, exact in float32."""
        shape = (len(SEEDS), self.replay.envs_per_lane, 1)
        numel = shape[0] * shape[1]
        first = torch.arange(self.counter, self.counter + numel).view(shape)
        self.counter += numel
        return (first + torch.tensor([0.0, 0.25, 0.5]))[list(self.lanes)]

    def start_(self) -> None:
        self.newest = self.observation()
        self.replay.start_(self.newest)

    def add_(self, num_steps: int, is_crowded: bool = False) -> None:
        """Steps in which lane l, environment e ends episodes in its own rhythm."""
        E = self.replay.envs_per_lane
        for _ in range(num_steps):
            time = self.replay.time
            universe = torch.tensor(self.lanes).unsqueeze(1)
            env = torch.arange(E)
            rhythm = torch.where(universe == 0, 1 if is_crowded else 4, 3 + universe + env)
            ends = (time + env) % rhythm == 0
            terminated = ends & ((time + universe) % 2 == 0)
            action = torch.stack([1e3 * time + env + 10 * universe] * A, -1) + torch.rand(A)
            reward = (time * E + env + 0.125 * universe).float()
            after, fresh = self.observation(), self.observation()
            next_obs = torch.where(ends.unsqueeze(-1), fresh, after)
            assert self.newest is not None
            for lane in range(len(self.lanes)):
                for e in range(E):
                    self.transitions[lane, time, e] = (
                        self.newest[lane, e], action[lane, e], reward[lane, e],
                        1.0 - float(terminated[lane, e]), after[lane, e],
                    )  # fmt: skip
            self.replay.add_(action, reward, terminated, ends, after, next_obs)
            self.newest = next_obs

    def stored(self) -> tuple[Tensor, Tensor]:
        """Times and environments [L, n] of all that can be sampled."""
        E = self.replay.envs_per_lane
        n = self.replay.size
        pick = torch.arange(n).expand(len(self.lanes), n)
        return self.replay.time - n // E + pick // E, pick % E

    def assert_true(self, batch: Batch, time: Tensor, env: Tensor) -> None:
        for lane, i in itertools.product(range(len(self.lanes)), range(time.shape[1])):
            t, e = int(time[lane, i]), int(env[lane, i])
            obs, action, reward, not_terminated, next_obs = self.transitions[lane, t, e]
            assert torch.equal(batch.obs[lane, i], obs)
            assert torch.equal(batch.action[lane, i], action)
            assert batch.reward[lane, i] == reward
            assert batch.not_terminated[lane, i] == not_terminated
            assert torch.equal(batch.next_obs[lane, i], next_obs)


def history(capacity: int, E: int, lanes: tuple[int, ...] = (0, 1, 2)) -> History:
    torch.manual_seed(0)
    made = History(LaneReplay(len(lanes), capacity, D, A, E), lanes=lanes)
    made.start_()
    return made


@pytest.mark.parametrize("E", [1, 2, 3])
@pytest.mark.parametrize("num_steps", [1, 6, 7, 8, 40])
def test_every_stored_transition_is_one_that_was_added(E: int, num_steps: int) -> None:
    made = history(7 * E - (E > 1), E)  # also a capacity that E does not divide
    made.add_(num_steps)
    replay = made.replay
    assert replay.size == min(num_steps, 7) * E
    time, env = made.stored()
    made.assert_true(replay.transitions(time, env), time, env)


@pytest.mark.parametrize("E", [1, 2, 3])
def test_samples_are_stored_transitions(E: int) -> None:
    made = history(11 * E, E)
    made.add_(30)
    batch = made.replay.sample(LaneRng(SEEDS), 5, 257)
    time, env = batch.obs_id // (2 * E), batch.obs_id // 2 % E
    assert int(time.min()) == 19 and int(time.max()) == 29
    made.assert_true(batch, time, env)


def test_side_table_grows_and_is_used_again() -> None:
    made = history(150, 1)
    made.add_(600, is_crowded=True)  # lane 0 ends an episode at every step
    time, env = made.stored()
    made.assert_true(made.replay.transitions(time, env), time, env)
    # 151 slots need 151 entries at most: 64 doubled twice, and no further.
    assert made.replay.final_obs.shape[1] == 256


def test_episode_ends_lead_to_the_final_observation_alone() -> None:
    replay = LaneReplay(2, 5, 1, 1)
    replay.start_(torch.zeros(2, 1, 1))
    terminated = torch.tensor([[True], [False]])
    done = torch.tensor([[True], [True]])
    final, fresh = torch.full((2, 1, 1), 5.0), torch.full((2, 1, 1), 9.0)
    zero = torch.zeros(2, 1)
    replay.add_(zero.unsqueeze(-1), zero, terminated, done, final, fresh)
    batch = replay.transitions(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1).long())
    assert batch.next_obs.flatten().tolist() == [5.0, 5.0]
    assert batch.not_terminated.flatten().tolist() == [0.0, 1.0]
    assert replay.obs[:, 1].flatten().tolist() == [9.0, 9.0]


@pytest.mark.parametrize("E", [1, 2, 3])
def test_ids_name_observations(E: int) -> None:
    made = history(9 * E, E)
    names: list[dict[int, tuple]] = [{} for _ in SEEDS]
    for _ in range(25):
        made.add_(1)
        time, env = made.stored()
        batch = made.replay.transitions(time, env)
        for ids, observations in ((batch.obs_id, batch.obs), (batch.next_obs_id, batch.next_obs)):
            for lane in range(len(SEEDS)):
                for name, obs in zip(ids[lane].tolist(), observations[lane].tolist(), strict=True):
                    assert names[lane].setdefault(name, tuple(obs)) == tuple(obs)
        assert made.newest is not None
        newest = made.replay.newest_id()
        for lane in range(len(SEEDS)):
            for e in range(E):
                shown = tuple(made.newest[lane, e].tolist())
                assert names[lane].setdefault(int(newest[lane, e]), shown) == shown
    for lane in range(len(SEEDS)):
        assert len(set(names[lane].values())) == len(names[lane]) > 25 * E


def test_sampling_is_uniform() -> None:
    made = history(49, 1)
    made.add_(70)
    counts = torch.zeros(3, 49)
    for update in range(20):
        ids = made.replay.sample(LaneRng(SEEDS), update, 501).obs_id
        counts += torch.stack([torch.bincount(row // 2 - 21, minlength=49) for row in ids])
    for row in counts:
        # At a fixed seed: a uniform draw falls below 0.001 once in a thousand seeds.
        assert scipy.stats.chisquare(row.numpy()).pvalue > 1e-3
    assert not torch.equal(counts[0], counts[1])


@pytest.mark.parametrize("lane", [0, 1, 2])
def test_a_lane_alone_samples_what_it_samples_among_others(lane: int) -> None:
    together, alone = history(120, 2), history(120, 2, lanes=(lane,))
    for made in (together, alone):
        made.add_(150, is_crowded=True)
    batches = (
        together.replay.sample(LaneRng(SEEDS), 3, 31),
        alone.replay.sample(LaneRng([SEEDS[lane]]), 3, 31),
    )
    for name in ("obs", "next_obs", "obs_id", "next_obs_id", "not_terminated", "reward"):
        assert torch.equal(getattr(batches[0], name)[lane], getattr(batches[1], name)[0])


@pytest.mark.parametrize("num_steps", [0, 4, 75])
def test_a_restored_replay_goes_on_alike(num_steps: int) -> None:
    made = history(60, 2)  # its 62 crowded slots just fit the first side table
    made.add_(num_steps, is_crowded=True)
    state = {name: tensor.clone() for name, tensor in made.replay.state_dict().items()}
    restored = History(LaneReplay(3, 60, D, A, 2), lanes=made.lanes, counter=made.counter)
    restored.replay.start_(torch.full((3, 2, D), -1.0))  # as a new run does before it restores
    restored.replay.load_state_dict_(state)
    restored.transitions, restored.newest = dict(made.transitions), made.newest
    for num_more in (0, 3, 90):
        for each in (made, restored):
            torch.manual_seed(1)
            each.add_(num_more, is_crowded=True)
        if made.replay.size:
            time, env = restored.stored()
            restored.assert_true(restored.replay.transitions(time, env), time, env)
            samples = [each.replay.sample(LaneRng(SEEDS), 1, 9) for each in (made, restored)]
            assert all(torch.equal(a, b) for a, b in zip(*samples, strict=True))
    assert restored.replay.final_obs.shape == made.replay.final_obs.shape


@pytest.mark.parametrize("num_steps", [1, 5, 60])
def test_a_new_start_is_not_linked_to_what_was_before(num_steps: int) -> None:
    made = history(20, 2)
    made.add_(num_steps)
    for _ in range(2):  # a run may be interrupted again before it made a step
        made.start_()
    made.add_(3)
    time, env = made.stored()
    batch = made.replay.transitions(time, env)
    made.assert_true(batch, time, env)
    ids = torch.cat([batch.obs_id, batch.next_obs_id], 1)
    observations = torch.cat([batch.obs, batch.next_obs], 1)
    for lane in range(3):
        pairs = {
            (name, tuple(obs))
            for name, obs in zip(ids[lane].tolist(), observations[lane].tolist(), strict=True)
        }
        assert len(pairs) == len({name for name, _ in pairs}) == len({obs for _, obs in pairs})


@pytest.mark.parametrize("E", [1, 3])
@pytest.mark.parametrize("capacity", [3, 100, 257])
def test_replay_bytes_are_those_of_the_tensors(capacity: int, E: int) -> None:
    replay = LaneReplay(2, capacity, 5, 4, E)
    tensors = [value for value in vars(replay).values() if isinstance(value, Tensor)]
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert held == 2 * replay_bytes(capacity, 5, 4, E)


def test_a_million_transitions_fit() -> None:
    assert replay_bytes(10**6, 17, 6) <= 110e6
    assert replay_bytes(10**6, 376, 17) <= 1.65e9


def test_wrong_uses_are_refused_in_one_line() -> None:
    with pytest.raises(ValueError, match=r"^replay_capacity is 2; .*envs_per_lane \(3\)$"):
        LaneReplay(1, 2, D, A, 3)
    made = history(6, 1)
    with pytest.raises(ValueError, match=r"^replay is empty"):
        made.replay.sample(LaneRng(SEEDS), 1, 2)
    made.add_(3)
    with pytest.raises(ValueError, match=r"^replay.obs has shape \(3, 4, 1, 3\); .*expects"):
        LaneReplay(2, 6, D, A).load_state_dict_(made.replay.state_dict())
