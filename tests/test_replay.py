"""The ring of transitions against a plain list of everything that was ever added."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Any

import pytest
import scipy.stats
import torch
from torch import Tensor

from fastanf.replay import FAILED, Batch, LaneReplay, replay_bytes
from fastanf.replay_state import begin_restore_, newest_state, restore_span_, span_tensors
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


def restore_(replay: LaneReplay, given: LaneReplay, cuts: tuple[float, ...] = ()) -> None:
    """Bring a replay to the state of another one, through spans that are cut at shares of it."""
    begin_restore_(replay, newest_state(given))
    oldest, time = given.oldest, given.time
    bounds = [oldest, *(oldest + int(cut * (time - oldest)) for cut in cuts), time]
    for first, end in itertools.pairwise(bounds):
        if first < end:
            restore_span_(replay, span_tensors(given, first, end), first, first, end)


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


@pytest.mark.parametrize("cuts", [(), (0.5,), (0.1, 0.4, 0.9)])
@pytest.mark.parametrize("num_steps", [0, 4, 75])
def test_a_restored_replay_goes_on_alike(num_steps: int, cuts: tuple[float, ...]) -> None:
    made = history(60, 2)  # its 62 crowded slots just fit the first side table
    made.add_(num_steps, is_crowded=True)
    restored = History(LaneReplay(3, 60, D, A, 2), lanes=made.lanes, counter=made.counter)
    restored.replay.start_(torch.full((3, 2, D), -1.0))  # as a new run does before it restores
    restore_(restored.replay, made.replay, cuts)
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
    tensors = [tensor for tensor in tensors if tensor.ndim > 1]  # not the clock, not flags
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert held == 2 * replay_bytes(capacity, 5, 4, E)


@pytest.mark.parametrize("E", [1, 3])
@pytest.mark.parametrize("num_steps", [1, 5, 6, 40])
@pytest.mark.parametrize("fails", [False, True])
def test_an_update_number_on_the_device_gives_the_same_minibatch(
    E: int, num_steps: int, fails: bool
) -> None:
    """In a ring of 7 slots; its clock is what the device knows of the time."""
    made = history(6 * E, E)
    replay = made.replay
    for time in range(num_steps):
        reward, ended, obs = torch.rand(3, E), torch.rand(3, E) < 0.3, made.observation()
        failed = (torch.arange(3) == time % 4 - 1).unsqueeze(1).expand(3, E) & fails
        made.newest = made.observation()
        replay.add_(torch.rand(3, E, A), reward, ended, ended | failed, obs, made.newest, failed)
    assert int(replay.clock) == replay.time == num_steps
    assert bool((replay.final_slot == FAILED).any()) == (fails and num_steps > 1)
    for update in (1, 2, 2**40 + 3):
        on_host = replay.sample(LaneRng(SEEDS), update, 33)
        on_device = replay.sample(LaneRng(SEEDS), torch.tensor(update), 33)
        for name, one, other in zip(on_host._fields, on_host, on_device, strict=True):
            assert torch.equal(one, other), name
    replay.check()


@pytest.mark.parametrize("E", [1, 3])
def test_a_recorded_sample_stays_right_while_transitions_are_added(E: int) -> None:
    """It goes by the clock and the rings alone, whatever the host knew when it was recorded."""
    pytest.importorskip("triton", reason="Triton is not installed")
    from tests.recorded_graph import RecordedGraph

    made = history(20 * E, E)
    made.add_(3)
    replay, rng, B = made.replay, LaneRng(SEEDS), 9
    update, version = torch.tensor(0), replay.layout_version
    with RecordedGraph() as graph:
        batch = replay.sample(rng, update, B)
    graph.replay()
    for number in range(1, 50):
        made.add_(1)
        update.fill_(number)
        graph.replay()
        for one, other in zip(batch, replay.sample(rng, number, B), strict=True):
            assert torch.equal(one, other)
    assert replay.layout_version == version


@pytest.mark.parametrize("is_on_device", [False, True])
def test_a_lane_of_which_nothing_is_sound_is_marked(is_on_device: bool) -> None:
    replay = history(6, 1).replay
    replay.start_(torch.zeros(3, 1, D))
    failed = torch.tensor([[False], [True], [False]])
    zero, obs = torch.zeros(3, 1), torch.zeros(3, 1, D)
    for _ in range(3):
        replay.add_(torch.zeros(3, 1, A), zero, failed, failed, obs, obs, failed)
    assert replay.is_barren.tolist() == [0, 0, 0]
    batch = replay.sample(LaneRng(SEEDS), torch.tensor(4) if is_on_device else 4, 5)
    assert batch.obs.shape == (3, 5, D)
    assert replay.is_barren.tolist() == [0, 1, 0]


def test_the_layout_version_rises_with_every_tensor_that_is_replaced() -> None:
    made = history(150, 1)
    replay = made.replay
    version, table = replay.layout_version, replay.final_obs
    names = ("obs", "action", "reward", "not_terminated", "final_slot", "clock")
    addresses = [getattr(replay, name).data_ptr() for name in names]
    for _ in range(200):
        made.add_(1, is_crowded=True)
        assert (replay.layout_version > version) == (replay.final_obs is not table)
        version, table = replay.layout_version, replay.final_obs
    assert version == 2
    restore_(replay, made.replay)
    assert replay.layout_version == 3 and replay.final_obs is table
    assert [getattr(replay, name).data_ptr() for name in names] == addresses


@pytest.mark.parametrize("E", [1, 3])
def test_observations_and_ids_of_the_clock_are_those_of_the_time(E: int) -> None:
    made = history(5 * E, E)
    for _ in range(9):
        made.add_(1)
        replay = made.replay
        assert made.newest is not None
        assert torch.equal(replay.observations(replay.clock), made.newest)
        assert torch.equal(replay.observations(replay.time), made.newest)
        assert torch.equal(replay.newest_id(replay.clock), replay.newest_id())


def add_and_sample_early_(made: History, updates: range, B: int) -> dict[int, Batch]:
    """One step, and the minibatches of the updates that need not wait for it, drawn before it is
    stored.
    """
    replay, rng, before = made.replay, LaneRng(SEEDS), {}
    store = replay.store_

    def sample_first(*arguments: Any, **named: Any) -> None:
        for update in updates:
            if not replay.draws_newest(rng, update, B):
                number = torch.tensor(update) if update % 2 else update
                before[update] = replay.sample(rng, number, B)
        store(*arguments, **named)

    replay.store_ = sample_first
    made.add_(1, is_crowded=True)
    replay.store_ = store
    return before


@pytest.mark.parametrize("E", [1, 3])
def test_updates_that_do_not_draw_the_newest_may_come_before_it_is_stored(E: int) -> None:
    """They sample then what they sample afterwards; the ring goes around and both kinds occur."""
    early, late = history(12 * E, E), history(12 * E, E)
    num_early, num_steps, B = 0, 60, 5
    for time in range(num_steps):
        updates = range(10 * time, 10 * time + 10)
        torch.manual_seed(time)
        before = add_and_sample_early_(early, updates, B)
        torch.manual_seed(time)
        late.add_(1, is_crowded=True)
        num_early += len(before)
        for update in updates:
            batch = late.replay.sample(LaneRng(SEEDS), update, B)
            has_newest = bool((batch.obs_id // (2 * E) == time).any())
            assert has_newest == (update not in before)
            for one, other in zip(batch, before.get(update, batch), strict=True):
                assert torch.equal(one, other)
    assert num_steps < num_early < 9 * num_steps


def test_no_update_comes_early_while_a_failed_transition_is_in_the_ring() -> None:
    replay = history(8, 1).replay
    failed = torch.tensor([[False], [True], [False]])
    zero, obs, sound = torch.zeros(3, 1), torch.zeros(3, 1, D), torch.zeros_like(failed)
    is_any_early = []
    for time in range(30):
        now = failed if time == 9 else sound
        replay.add_(torch.zeros(3, 1, A), zero, now, now, obs, obs, now)
        is_any_early.append(
            not all(replay.draws_newest(LaneRng(SEEDS), update, 1) for update in range(40))
        )
    assert is_any_early == [time > 0 and not 9 <= time < 18 for time in range(30)]


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
    other = LaneReplay(2, 6, D, A)
    with pytest.raises(ValueError, match=r"^newest of the replay has shape \(3, 1, 3\) .*expects"):
        begin_restore_(other, newest_state(made.replay))
    with pytest.raises(ValueError, match=r"^obs of the replay has shape \(3, 3, 1, 3\) .*expects"):
        restore_span_(other, span_tensors(made.replay, 0, 3), 0, 0, 3)
