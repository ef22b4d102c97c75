"""One lock-step environment step of all lanes, from observation to replay.

Axes: L lanes, E environments per lane, N = L * E rows of the simulator (lane-major), D real
features, A actions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastanf import kernels
from fastanf.algorithms.actor_critic import ActorCritic
from fastanf.instrument import Stage, stage
from fastanf.replay import LaneReplay
from fastanf.rng import LaneRng, Stream
from fastanf.simulator import Simulator

# In plain torch products with few columns are slow, and round differently alone and in a batch (MKL
# 2024.2, 8 lanes x [256, 850]: 1.7 ms for 1 or 10 columns, 0.44 ms for 16); there, rows of
# observations are filled up to a multiple of this.
_ROW_MULTIPLE = 16


def row_multiple(device: torch.device) -> int:
    """Of how many rows the networks act on a multiple; 1 where the compiled kernels act."""
    return 1 if device.type == "cpu" and kernels.NATIVE is not None else _ROW_MULTIPLE


def fill_rows(rows: Tensor) -> Tensor:
    """[L, E, .] -> [L, E', .] with E' the next multiple of `row_multiple`; the new rows repeat
    the first.
    """
    missing = -rows.shape[1] % row_multiple(rows.device)
    if missing == 0:
        return rows
    return torch.cat([rows, rows[:, :1].expand(-1, missing, *rows.shape[2:])], 1)


class Collector:
    """Steps the environments of a block and stores what happens.

    Args:
        simulator: N = L * E rows, on the replay's device.
        algorithm: acts.
        replay: receives the transitions.
        rng: random numbers of the lanes.
        permute_period: environment steps of a lane after which its features change places, at the
            end of the episode that is going on; 0 is never. Counted after the random steps.
    """

    def __init__(
        self,
        simulator: Simulator,
        algorithm: ActorCritic,
        replay: LaneReplay,
        rng: LaneRng,
        permute_period: int = 0,
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
        self.finished: list[list[float]] = [[] for _ in range(self.num_lanes)]
        # How often a simulation broke down, per lane, since the run began.
        self.num_failures = torch.zeros(self.num_lanes, dtype=torch.int64)
        replay.start_(self._per_lane(simulator.reset()))

    def _per_lane(self, rows: Tensor) -> Tensor:
        """[N, ...] -> [L, E, ...]."""
        return rows.view(self.num_lanes, self.envs_per_lane, *rows.shape[1:])

    def random_step_(self) -> None:
        """One step of every environment with actions drawn uniformly from the action range."""
        shape = (self.envs_per_lane, len(self._low))
        uniform = self.rng.uniform(Stream.RANDOM_ACTION, self.replay.time, shape)
        self._step_(self._low + uniform * (self._high - self._low), num_learning_steps=0)

    def step_(self, num_learning_steps: int) -> None:
        """One step of every environment with the policy's exploring actions.

        Args:
            num_learning_steps: steps of a lane after the random ones, this one included.
        """
        time, replay = self.replay.time, self.replay
        obs = replay.obs[:, time % replay.num_slots]
        if self.features.redraws_per_call:
            stream = Stream.COLLECT_FEATURES
            rows = time * self.envs_per_lane + torch.arange(self.envs_per_lane, device=self.device)
            rows = rows.expand(self.num_lanes, -1)
        else:
            stream, rows = Stream.STEP_FEATURES, replay.newest_id()
        with stage(Stage.ACT):
            x = self.features.draw(fill_rows(obs), fill_rows(rows), stream)
            action = self.algorithm.explore(x, time)[:, : self.envs_per_lane]
        self._step_(action, num_learning_steps)

    def _step_(self, action: Tensor, num_learning_steps: int) -> None:
        with stage(Stage.ENV_STEP):
            step = self.simulator.step(action.reshape(-1, action.shape[-1]))
        # The one thing that the host must know of a step, and so waits for the device.
        ends = torch.stack([step.terminated | step.truncated, step.failed]).cpu()
        finished, failed = (self._per_lane(rows) for rows in ends)
        with stage(Stage.REPLAY_ADD):
            self.replay.add_(
                action,
                self._per_lane(step.reward),
                self._per_lane(step.terminated),
                finished | failed,
                self._per_lane(step.final_obs),
                self._per_lane(step.obs),
                failed,
            )
        self.returns += self._per_lane(step.reward)
        if finished.any() or failed.any():
            self._finish_(finished, failed, num_learning_steps)

    def _finish_(self, finished: Tensor, failed: Tensor, num_learning_steps: int) -> None:
        done = finished | failed
        rows = finished.nonzero()
        values = self.returns[finished.to(self.device)].tolist()
        for lane, value in zip(rows[:, 0].tolist(), values, strict=True):
            self.finished[lane].append(value)
        self.returns[done.to(self.device)] = 0.0
        self.num_failures += failed.sum(1)
        if self.permute_period:
            num_due = num_learning_steps // self.permute_period
            is_due = done.any(1) & (self.num_periods < num_due)
            if is_due.any():
                self.num_periods[is_due] = num_due
                self.features.permute_(is_due.to(self.device), self.replay.time)

    def take_finished(self) -> list[list[float]]:
        """Returns of the episodes that ended since the last call, per lane."""
        taken, self.finished = self.finished, [[] for _ in range(self.num_lanes)]
        return taken
