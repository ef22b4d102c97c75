"""Lanes grouped into the blocks that train together: their static settings agree.

Axes: F features with noise. Blocks run one after the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from envs import noise, registry
from envs.interface import EnvSpec
from fastanf.config import TrainConfig, block_key
from fastanf.lanes import LaneTable, group_lanes
from fastanf.layouts import block_layouts
from fastanf.networks import NetworkPlan, lane_networks
from fastanf.settings import TaskConfig


def simulator_options(task: TaskConfig, device: str) -> dict[str, str]:
    """What a simulator that lives on the learner's device is told; nothing for one on the host."""
    if not registry.lives_on_device(task.backend):
        return {}
    return {"device": device, "impl": task.mjx_impl}


@dataclass(frozen=True)
class Block:
    """Lanes that train together: their static settings agree."""

    indices: tuple[int, ...]
    """Position of each lane in the study."""
    lanes: tuple[TrainConfig, ...]
    device: str = "cpu"
    """What it is going to train on: cpu, cuda or cuda:N."""
    split: str = ""
    """Why it is but a part of the lanes that could train together (splitting.py)."""

    @property
    def config(self) -> TrainConfig:
        """The first lane's settings, for everything static."""
        return self.lanes[0]

    @property
    def spec(self) -> EnvSpec:
        return registry.spec(self.config.task.env, self.config.task.backend)

    @property
    def num_features(self) -> int:
        """F, noise included."""
        return noise.num_features(self.spec.num_features, self.config.noise.noise_fraction)

    @cached_property
    def table(self) -> LaneTable:
        """The settings as columns over the lanes."""
        return LaneTable([lane.flat() for lane in self.lanes])

    @cached_property
    def simulation_bytes(self) -> int:
        """About what a simulator takes that lives on the block's device; 0 for one on the host.

        Raises:
            ValueError: the simulator cannot run there.
        """
        task = self.config.task
        num_rows = max(task.envs_per_lane, self.config.schedule.eval_episodes) * len(self.lanes)
        options = simulator_options(task, self.device)
        return registry.preflight(task.env, task.backend, num_rows, **options)

    @cached_property
    def networks(self) -> tuple[tuple[NetworkPlan, NetworkPlan], ...]:
        """Actor and critic of each lane."""
        return tuple(lane_networks(lane, self.spec) for lane in self.lanes)

    @cached_property
    def layouts(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """How each layer of the actor and of the critics is stored, the same in all lanes."""
        return block_layouts(self.lanes, self.networks, self.device)


def block_of(lanes: Sequence[TrainConfig], device: str = "cpu") -> Block:
    """One block of lanes that are known to train together."""
    return Block(tuple(range(len(lanes))), tuple(lanes), device)


def make_blocks(lanes: Sequence[TrainConfig], device: str = "cpu") -> tuple[Block, ...]:
    """The lanes grouped by their static settings, by SGD against Adam and by the layouts of their
    layers, in first-seen order.

    Args:
        lanes: of a study.
        device: what they are going to train on.
    """
    keys = [(block_key(lane), block_of([lane], device).layouts) for lane in lanes]
    groups = group_lanes([{"key": key} for key in keys], ["key"])
    return tuple(Block(group, tuple(lanes[index] for index in group), device) for group in groups)
