"""One lock-step environment step of all lanes, from observation to replay, and its updates.

On a GPU the environments step while updates run: `train_step_`.

Axes: L lanes, E environments per lane, N = L * E rows of the simulator (lane-major), D real
features, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.algorithms.actor_critic import ActorCritic
from fastanf.graphs import Graphs
from fastanf.instrument import Stage, end_frame, stage
from fastanf.learner import Learner
from fastanf.replay import LaneReplay
from fastanf.rng import LaneRng, Stream
from fastanf.simulator import Simulator

# In plain torch products with few columns are slow, and round differently alone and in a batch (MKL
# 2024.2, 8 lanes x [256, 850]: 1.7 ms for 1 or 10 columns, 0.44 ms for 16); there, rows of
# observations are filled up to a multiple of this.
_ROW_MULTIPLE = 16


def row_multiple(device: torch.device) -> int:
    """Of how many rows the networks act on a multiple; 1 where fast kernels act."""
    return _ROW_MULTIPLE if kernels.implementation(device.type) == "reference" else 1


def fill_rows(rows: Tensor) -> Tensor:
    """[L, E, .] -> [L, E', .] with E' the next multiple of `row_multiple`; the new rows repeat
    the first.
    """
    missing = -rows.shape[1] % row_multiple(rows.device)
    if missing == 0:
        return rows
    return torch.cat([rows, rows[:, :1].expand(-1, missing, *rows.shape[2:])], 1)


def finite_actions(actions: Tensor) -> Tensor:
    """Actions with 0 in place of what is not finite, as a broken lane gives it: a simulator would
    stop at it or complain at every step. Finite ones keep every bit.
    """
    return actions.nan_to_num(0.0, 0.0, 0.0)


class Collector:
    """Steps the environments of a block and stores what happens.

    Args:
        simulator: N = L * E rows, on the replay's device.
        algorithm: acts.
        replay: receives the transitions.
        rng: random numbers of the lanes.
        permute_period: environment steps of a lane after which its features change places, at the
            end of the episode that is going on; 0 is never. Counted after the random steps.
        graphs: record and replay the act; None calls every operation each time.
    """

    def __init__(
        self,
        simulator: Simulator,
        algorithm: ActorCritic,
        replay: LaneReplay,
        rng: LaneRng,
        permute_period: int = 0,
        graphs: Graphs | None = None,
    ):
        self.simulator, self.algorithm, self.replay, self.rng = simulator, algorithm, replay, rng
        self.features = algorithm.features
        self.num_lanes, self.envs_per_lane = replay.obs.shape[0], replay.envs_per_lane
        self.device = replay.obs.device
        self._low, self._high = (
            torch.tensor(limits, device=self.device)
            for limits in (simulator.spec.action_low, simulator.spec.action_high)
        )
        self.permute_period = permute_period
        self.num_periods = torch.zeros(self.num_lanes, dtype=torch.int64)
        # Returns of the running episodes so far.
        self.returns = torch.zeros(
            self.num_lanes, self.envs_per_lane, dtype=torch.float64, device=self.device
        )
        self._finished: list[list[float]] = [[] for _ in range(self.num_lanes)]
        # Lanes and returns of episodes that ended, as long as nobody asks on the host.
        self._ended: list[tuple[list[int], Tensor]] = []
        # How often a simulation broke down, per lane, since the run began.
        self.num_failures = torch.zeros(self.num_lanes, dtype=torch.int64)
        self.overlaps_updates = self.device.type == "cuda"
        """Whether updates may run while the environments step (`may_update_early`)."""
        self._graphs = graphs if algorithm.is_capturable else None
        self._is_on_host = self.device.type == "cpu"
        self._host_rng = LaneRng(rng.key.cpu())
        self._action: Tensor | None = None  # [L, E, A] of the step that was begun
        self.begin_episodes_()

    def begin_episodes_(self) -> None:
        """Reset every environment; episodes that were under way end where they were."""
        self.replay.start_(self._per_lane(self.simulator.reset()))
        self.returns.zero_()

    def _per_lane(self, rows: Tensor) -> Tensor:
        """[N, ...] -> [L, E, ...]."""
        return rows.view(self.num_lanes, self.envs_per_lane, *rows.shape[1:])

    def random_step_(self) -> None:
        """One step of every environment with actions drawn uniformly from the action range."""
        self._observe_(self.replay.time)
        shape = (self.envs_per_lane, len(self._low))
        uniform = self.rng.uniform(Stream.RANDOM_ACTION, self.replay.time, shape)
        self._hand_over_(self._low + uniform * (self._high - self._low))
        self.finish_(num_learning_steps=0)

    def step_(self, num_learning_steps: int) -> None:
        """One step of every environment with the policy's exploring actions.

        Args:
            num_learning_steps: steps of a lane after the random ones, this one included.
        """
        self.begin_()
        self.finish_(num_learning_steps)

    def begin_(self) -> None:
        """The first half of a step: act, and hand the actions to the simulator.

        The replay's time is the one after the step from here on. What the features' statistics
        count, they count here: updates see the same ones before and after `finish_`.
        """
        replay = self.replay
        with stage(Stage.ACT):
            if self._graphs is None:
                action = self._act_(replay.time if self._is_on_host else replay.clock)
            else:
                layout = replay.layout_version, self.features.layout_version
                action = self._graphs.run("act", layout, lambda: self._act_(replay.clock))
            self._hand_over_(action)

    def _act_(self, time: int | Tensor) -> Tensor:
        self._observe_(time)
        return finite_actions(self.explore(time))

    def _observe_(self, time: int | Tensor) -> None:
        if self.features.statistics is None:
            return
        rows, stream = self._rows(time)
        self.features.observe_(self.replay.observations(time), rows, stream)

    def explore(self, time: int | Tensor) -> Tensor:
        """Exploring actions [L, E, A] on the newest observations.

        Args:
            time: theirs. As the replay's clock it is not read by the host, and nothing else that
                is changes from step to step, so that a CUDA graph can be made of this.
        """
        rows, stream = self._rows(time)
        obs = self.replay.observations(time)
        x = self.features.draw(fill_rows(obs), fill_rows(rows), stream)
        return self.algorithm.explore(x, time)[:, : self.envs_per_lane]

    def _rows(self, time: int | Tensor) -> tuple[Tensor, Stream]:
        """[L, E] rows of the noise that is shown with the newest observations, and their stream."""
        if not self.features.redraws_per_call:
            return self.replay.newest_id(time), Stream.STEP_FEATURES
        rows = time * self.envs_per_lane + torch.arange(self.envs_per_lane, device=self.device)
        return rows.expand(self.num_lanes, -1), Stream.COLLECT_FEATURES

    def _hand_over_(self, action: Tensor) -> None:
        self._action = action
        self.simulator.begin(action.reshape(-1, action.shape[-1]))
        self.replay.advance_()

    def may_update_early(self, update: int, batch_size: int) -> bool:
        """Whether an update may run between `begin_` and `finish_`, and gives what it would give
        after them: its minibatch is known beforehand and holds no transition that is under way.

        Args:
            update: its number; all before it have run.
            batch_size: B.
        """
        # Features change places in `finish_`, and the networks are to see them so.
        if not self.overlaps_updates or self.permute_period:
            return False
        return not self.replay.draws_newest(self._host_rng, update, batch_size)

    def finish_(self, num_learning_steps: int) -> None:
        """The second half of a step: simulate, and store what happened.

        Args:
            num_learning_steps: as `step_`.
        """
        assert self._action is not None, "no step was begun"
        with stage(Stage.ENV_STEP):
            step, is_over, has_failed = self.simulator.finish()
        finished, failed = self._per_lane(is_over), self._per_lane(has_failed)
        with stage(Stage.REPLAY_ADD):
            self.replay.store_(
                self._action,
                self._per_lane(step.reward),
                self._per_lane(step.terminated),
                finished | failed,
                self._per_lane(step.final_obs),
                self._per_lane(step.obs),
                failed,
            )
        self._action = None
        self.returns += self._per_lane(step.reward)
        if finished.any() or failed.any():
            self._end_episodes_(finished, failed, num_learning_steps)

    def _end_episodes_(self, finished: Tensor, failed: Tensor, num_learning_steps: int) -> None:
        done = finished | failed
        lanes, envs = finished.nonzero(as_tuple=True)
        row = (lanes * self.envs_per_lane + envs).to(self.device, non_blocking=True)
        self._ended.append((lanes.tolist(), self.returns.view(-1)[row]))
        self.returns.masked_fill_(done.to(self.device, non_blocking=True), 0.0)
        self.num_failures += failed.sum(1)
        if self.permute_period:
            num_due = num_learning_steps // self.permute_period
            is_due = done.any(1) & (self.num_periods < num_due)
            if is_due.any():
                self.num_periods[is_due] = num_due
                self.features.permute_(is_due.to(self.device), self.replay.time)

    @property
    def finished(self) -> list[list[float]]:
        """Returns of the episodes that ended since they were taken, per lane."""
        if self._ended:
            lanes = [lane for ended, _ in self._ended for lane in ended]
            values = torch.cat([returns for _, returns in self._ended]).tolist()
            self._ended.clear()
            for lane, value in zip(lanes, values, strict=True):
                self._finished[lane].append(value)
        return self._finished

    def state_dict(self) -> dict[str, Tensor]:
        """Counters, the running episodes' returns, and those that ended since they were taken."""
        finished = self.finished
        return {
            "num_periods": self.num_periods,
            "num_failures": self.num_failures,
            "returns": self.returns,
            "num_finished": torch.tensor([len(returns) for returns in finished]),
            "finished": torch.tensor(
                [value for returns in finished for value in returns], dtype=torch.float64
            ),
        }

    def load_state_dict_(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            ValueError: a tensor has another shape.
        """
        for name in ("num_periods", "num_failures", "returns"):
            own, given = getattr(self, name), state[name]
            if given.shape != own.shape:
                raise ValueError(
                    f"checkpoint tensor {name} has shape {tuple(given.shape)}; this run expects "
                    f"{tuple(own.shape)}"
                )
            own.copy_(given)
        counts = state["num_finished"].tolist()
        if len(counts) != self.num_lanes or sum(counts) != len(state["finished"]):
            raise ValueError("checkpoint's episodes are not those of this run's lanes")
        parts = state["finished"].split(counts)
        self._finished = [part.tolist() for part in parts]
        self._ended.clear()

    def take_finished(self) -> list[list[float]]:
        """Returns of the episodes that ended since the last call, per lane."""
        taken, self._finished = self.finished, [[] for _ in range(self.num_lanes)]
        return taken


def train_step_(
    collector: Collector, learner: Learner, num_learning_steps: int, num_updates: int
) -> None:
    """One step of every environment and the updates that follow it, each half of the step and
    each update a frame (instrument.py).

    Updates that do not need the step run while it is simulated, where the collector allows it. No
    number depends on that.

    Args:
        collector: steps.
        learner: of the same replay.
        num_learning_steps: steps of a lane after the random ones, this one included.
        num_updates: after this step.
    """
    num_early = 0
    collector.begin_()
    while num_early < num_updates and collector.may_update_early(
        learner.num_updates + 1, learner.batch_size
    ):
        end_frame()
        learner.update_()
        num_early += 1
    if num_early:
        end_frame()
    collector.finish_(num_learning_steps)
    end_frame()
    for _ in range(num_updates - num_early):
        learner.update_()
        end_frame()
