"""First layers of all arms with noise features, from their lanes' rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from envs import noise, registry
from fastanf.curves import panel_title
from fastanf.report.collected import LaneRecord
from fastanf.report.connections import (
    NETWORKS,
    FeatureMap,
    FirstLayer,
    feature_map,
    first_layer,
)
from fastanf.report.merging import ArmRecord
from fastanf.statistics import final_mean


@dataclass(frozen=True, eq=False)
class ArmLayers:
    """The first layers of one arm."""

    record: ArmRecord
    layers: tuple[FirstLayer, ...]
    """One a network of `NETWORKS`."""

    @property
    def num_without_last(self) -> int:
        """Lanes that have no row at the last step, because they were stopped or train still."""
        layer = self.layers[0]
        has_row = np.isfinite(layer.real_connections) | np.isfinite(layer.real_weight)
        return int((~has_row[:, -1]).sum()) if layer.steps.size else 0

    @property
    def is_sparse(self) -> bool:
        """Whether any lane has connections to choose."""
        return any(np.isfinite(layer.real_connections).any() for layer in self.layers)


def arm_layers(records: Sequence[ArmRecord]) -> list[ArmLayers]:
    """The first layers of all arms that have noise features and a row of their connections."""
    found = []
    for record in records:
        sizes = feature_counts(record.lanes[0])
        has_rows = any(lane.topology or lane.features for lane in record.lanes)
        if not has_rows or sizes is None or sizes[0] == sizes[1]:
            continue
        topology = [lane.topology for lane in record.lanes]
        features = [lane.features for lane in record.lanes]
        layers = (
            first_layer(record.arm, network, topology, features, *sizes) for network in NETWORKS
        )
        found.append(ArmLayers(record, tuple(layers)))
    return found


def feature_counts(lane: LaneRecord) -> tuple[int, int] | None:
    """Real features and all features of a lane's task; None where it is not known here."""
    if lane.features:
        return lane.features[-1].num_real, lane.features[-1].num_features
    try:
        num_real = registry.spec(lane.env, str(lane.settings.get("backend", ""))).num_features
    except ValueError:
        return None
    return num_real, noise.num_features(num_real, lane.noise_fraction)


def median_lane(record: ArmRecord) -> LaneRecord:
    """The lane in the middle by final return (the lower of two); lanes without one come last."""
    arm = record.arm
    scores = final_mean(arm.returns) if len(arm.steps) else np.full(len(arm.lanes), np.nan)
    order = np.argsort(scores, kind="stable")  # nan comes last
    num_known = max(1, int(np.isfinite(scores).sum()))
    return record.lanes[int(order[(num_known - 1) // 2])]


def lane_map(record: ArmRecord, lane: LaneRecord, network: str) -> FeatureMap | None:
    """Each feature's connections of one lane over time; None where its layer is dense."""
    label = f"{record.arm.label}, {panel_title(record.arm.panel)}, seed {lane.seed}, {network}"
    return feature_map(lane.features, network, label)


def permutation_steps(lane: LaneRecord) -> list[int]:
    """Steps after which the features of a lane changed places, as far as it has trained; none
    where there are more than a picture can show.
    """
    period = lane.config.noise.permute_period if lane.config else 0
    last = max([lane.last_step, *(row.step for row in lane.training[-1:])])
    is_shown = period and last // period <= _MOST_SHOWN
    return list(range(period, last + 1, period)) if is_shown else []


_MOST_SHOWN = 500
