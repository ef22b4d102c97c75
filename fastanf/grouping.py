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
from fastanf.networks import NetworkPlan, lane_networks


@dataclass(frozen=True)
class Block:
    """Lanes that train together: their static settings agree."""

    indices: tuple[int, ...]
    """Position of each lane in the study."""
    lanes: tuple[TrainConfig, ...]

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
    def networks(self) -> tuple[tuple[NetworkPlan, NetworkPlan], ...]:
        """Actor and critic of each lane."""
        return tuple(lane_networks(lane, self.spec) for lane in self.lanes)


def block_of(lanes: Sequence[TrainConfig]) -> Block:
    """One block of lanes that are known to train together."""
    return Block(tuple(range(len(lanes))), tuple(lanes))


def make_blocks(lanes: Sequence[TrainConfig]) -> tuple[Block, ...]:
    """The lanes grouped by their static settings and by SGD against Adam, in first-seen order."""
    groups = group_lanes([{"key": block_key(lane)} for lane in lanes], ["key"])
    return tuple(Block(group, tuple(lanes[index] for index in group)) for group in groups)
