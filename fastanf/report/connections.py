"""What first layers are connected to over time, from the rows of topology.csv and features.csv.

Axes: n lanes of an arm, S steps of their rows, K features of which connections are recorded (the
real ones, then a sample of noise features). nan stands where there is no row.

    per feature     connections on features of a kind / number of such features
    precision       connections on real features / connections on any feature
    weight share    |weight| on real features / |weight| on any feature
    random level    what connections without a preference have: precision D / F
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fastanf.report.arms import Arm
from fastanf.rows import FeatureRow, TopologyRow

ACTOR, CRITICS = "actor", "critics"
NETWORKS = {ACTOR: ("actor",), CRITICS: ("critic1", "critic2")}
"""What is shown as one network -> its rows' networks, of which the mean is taken."""


@dataclass(frozen=True, eq=False)
class FirstLayer:
    """The first layers of one network of the lanes of an arm, by the two kinds of features."""

    arm: Arm
    network: str
    """A key of `NETWORKS`."""
    num_real: int
    num_features: int
    steps: np.ndarray
    """[S]"""
    real_connections: np.ndarray
    """[n, S] nan in a dense layer, as `noise_connections`."""
    noise_connections: np.ndarray
    real_weight: np.ndarray
    """[n, S] mean |weight| of a real feature over hidden units, as `noise_weight`."""
    noise_weight: np.ndarray

    @property
    def num_noise(self) -> int:
        """Noise features."""
        return self.num_features - self.num_real

    @property
    def per_real_feature(self) -> np.ndarray:
        """[n, S] mean connections of a real feature."""
        return self.real_connections / max(1, self.num_real)

    @property
    def per_noise_feature(self) -> np.ndarray:
        """[n, S] mean connections of a noise feature; nan where there is none."""
        return self.noise_connections / (self.num_noise or np.nan)

    @property
    def per_any_feature(self) -> np.ndarray:
        """[n, S] connections of a feature if all had the same; nan in a dense layer.

        In critics they become fewer when the action's columns gain some.
        """
        return (self.real_connections + self.noise_connections) / self.num_features

    @property
    def precision(self) -> np.ndarray:
        """[n, S] share of the connections that start at a real feature."""
        total = self.real_connections + self.noise_connections
        return _share(self.real_connections, total)

    @property
    def weight_share(self) -> np.ndarray:
        """[n, S] share of |weight| on real features."""
        real = self.num_real * self.real_weight
        noise = self.num_noise * self.noise_weight if self.num_noise else np.zeros_like(real)
        return _share(real, real + noise)

    @property
    def random_level(self) -> float:
        """Share of the features that are real."""
        return self.num_real / self.num_features


def first_layer(
    arm: Arm,
    network: str,
    topology: Sequence[Iterable[TopologyRow]],
    features: Sequence[Iterable[FeatureRow]],
    num_real: int,
    num_features: int,
) -> FirstLayer:
    """The first layers of an arm from its lanes' rows.

    Args:
        arm: whose lanes.
        network: a key of `NETWORKS`.
        topology: rows of each lane, in the order of `arm.lanes`; of equal steps the last counts.
        features: likewise; may be empty, as runs before features.csv have it.
        num_real, num_features: of the task with its noise.

    Raises:
        ValueError: not as many lanes as the arm has.
    """
    if not len(topology) == len(features) == len(arm.lanes):
        raise ValueError(
            f"topology and features are of {len(topology)} and {len(features)} lanes; "
            f"{arm.label!r} has {len(arm.lanes)}"
        )
    real, noise, real_weight, noise_weight = [], [], [], []
    for lane_topology, lane_features in zip(topology, features, strict=True):
        rows = [row for row in lane_topology if row.layer == 0]
        real.append(_by_step(network, ((r.network, r.step, r.real_connections) for r in rows)))
        noise.append(_by_step(network, ((r.network, r.step, r.noise_connections) for r in rows)))
        kept = list(lane_features)
        real_weight.append(_by_step(network, ((r.network, r.step, r.real_weight) for r in kept)))
        noise_weight.append(_by_step(network, ((r.network, r.step, r.noise_weight) for r in kept)))
    steps = sorted({step for lane in [*real, *real_weight] for step in lane})
    arrays = [_table(lanes, steps) for lanes in (real, noise, real_weight, noise_weight)]
    return FirstLayer(arm, network, num_real, num_features, np.array(steps), *arrays)


def _by_step(network: str, values: Iterable[tuple[str, int, float]]) -> dict[int, float]:
    """Mean over the networks that are shown as one, at the steps where all have a row."""
    names = NETWORKS[network]
    found: dict[int, dict[str, float]] = {}
    for name, step, value in values:
        if name in names:
            found.setdefault(step, {})[name] = float(value)
    return {
        step: sum(each.values()) / len(names)
        for step, each in found.items()
        if len(each) == len(names)
    }


def _table(lanes: Sequence[Mapping[int, float]], steps: Sequence[int]) -> np.ndarray:
    return np.array(
        [[lane.get(step, np.nan) for step in steps] for lane in lanes], dtype=float
    ).reshape(len(lanes), len(steps))


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full_like(whole, np.nan), where=whole > 0)


@dataclass(frozen=True, eq=False)
class FeatureMap:
    """Connections of each feature of one network of one lane over time."""

    label: str
    """Which lane and network."""
    num_real: int
    num_features: int
    steps: np.ndarray
    """[S]"""
    counts: np.ndarray
    """[K, S] active connections, the real features first."""

    @property
    def real(self) -> np.ndarray:
        """[D, S]"""
        return self.counts[: self.num_real]

    @property
    def noise(self) -> np.ndarray:
        """[K - D, S]"""
        return self.counts[self.num_real :]

    @property
    def random_level(self) -> float:
        """Estimate of the mean connections of a feature, all noise features taken as the sample."""
        if not self.counts.shape[1]:
            return float("nan")
        num_noise = self.num_features - self.num_real
        noise = self.noise[:, 0].mean() if len(self.noise) else 0.0
        return float(self.real[:, 0].sum() + num_noise * noise) / self.num_features


def feature_map(rows: Iterable[FeatureRow], network: str, label: str) -> FeatureMap | None:
    """The connections per feature of one lane; None where its layer is dense or has no row.

    Args:
        rows: of one lane, in the order of their steps; of equal steps the last counts.
        network: "actor", "critic1" or "critic2".
        label: which lane and network it is.
    """
    by_step = {row.step: row for row in rows if row.network == network and row.connections}
    if not by_step:
        return None
    last = by_step[max(by_step)]
    steps = sorted(by_step)
    counts = [[float(word) for word in by_step[step].connections.split()] for step in steps]
    return FeatureMap(label, last.num_real, last.num_features, np.array(steps), np.array(counts).T)
