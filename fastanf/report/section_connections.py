"""The section on what first layers are connected to: real features or noise."""

from collections.abc import Mapping, Sequence

from fastanf.curves import panel_title
from fastanf.picture import Style
from fastanf.report.arms import Key, label_among
from fastanf.report.connection_data import ArmLayers, lane_map, median_lane, permutation_steps
from fastanf.report.connections import ACTOR, FeatureMap
from fastanf.report.feature_names import feature_names
from fastanf.report.figures_connections import (
    mean_connections,
    precision_curves,
    weight_share_curves,
)
from fastanf.report.figures_features import feature_heat_map
from fastanf.report.figures_histograms import connection_histograms
from fastanf.report.figures_in_page import Shelf
from fastanf.report.markup import Markup, details, element, join, note
from fastanf.report.phrases import left_out

MANY_MAPS = 4
"""Heat maps of further arms are shown on demand only."""


def connections_section(
    found: Sequence[ArmLayers], looks: Mapping[Key, Style], shelf: Shelf
) -> Markup:
    """Shares on real features of all arms, then the connections of the sparse ones."""
    every = [layer for each in found for layer in each.layers]
    sparse = [each for each in found if each.is_sparse]
    parts = [
        note(
            "The input layer of an agent sees real features and noise features; a good one "
            "spends its connections on the real ones. Critics: mean of both. Tasks without noise "
            "features are left out. Numbers of a step are over the lanes that have a record there."
            + _missing(found)
        )
    ]
    if sparse:
        parts += [element("h3", "Connections on real features")]
        figure = precision_curves([layer for each in sparse for layer in each.layers], looks)
        parts.append(
            shelf.put(
                "precision",
                figure,
                "Share of the input connections that start at real features, over time",
                "Share of the active connections of the input layer that start at a real feature. "
                "The dashed level is the share of features that are real: what connections at "
                "random would have. Bands: 95% bootstrap interval of the mean over lanes. Dense "
                "layers have every connection and are not shown.",
            )
        )
    if any(layer.real_weight.size and (layer.real_weight > 0).any() for layer in every):
        parts += [element("h3", "Weight on real features")]
        parts.append(
            shelf.put(
                "weight_share",
                weight_share_curves(every, looks),
                "Share of the absolute weights of the input layer on real features, over time",
                "Share of the sum of |weight| of the input layer that lies on real features, for "
                "dense layers too. Dashed level: the share of features that are real.",
            )
        )
    if sparse:
        parts += [element("h3", "Each feature"), *_per_arm(sparse, shelf)]
    return join(parts)


def _missing(found: Sequence[ArmLayers]) -> str:
    """Lanes that lack the last step of their arm's records, which others have."""
    arms = [each.record.arm for each in found]
    missing = left_out(
        (label_among(each.record.arm, arms), each.num_without_last, len(each.record.lanes))
        for each in found
    )
    return f" Not at the last step: {missing}." if missing else ""


def _per_arm(sparse: Sequence[ArmLayers], shelf: Shelf) -> list[Markup]:
    arms = []
    for number, each in enumerate(sparse):
        arm = each.record.arm
        events = {arm: permutation_steps(each.record.lanes[0])}
        figures = [
            shelf.put(
                f"connections_{number}",
                mean_connections(each.layers, events),
                f"Mean connections of a real and of a noise feature, {arm.label}",
                f"{arm.label}, {panel_title(arm.panel)}: mean number of active connections of a "
                "real and of a noise feature. Even: the same connections, spread evenly.",
            )
        ]
        figures += _maps(number, each, shelf)
        arms.append(join(figures))
    shown = arms[:MANY_MAPS]
    if arms[MANY_MAPS:]:
        shown.append(details(f"{len(arms) - MANY_MAPS} further arms", *arms[MANY_MAPS:]))
    return shown


def _maps(number: int, each: ArmLayers, shelf: Shelf) -> list[Markup]:
    """The heat map of the median lane, and the histograms of all lanes."""
    record = each.record
    lane = median_lane(record)
    shown = lane_map(record, lane, ACTOR)
    if shown is None:
        return []
    names = feature_names(record.arm.env)
    names = names if len(names) == shown.num_real else ()
    events = permutation_steps(lane)
    moved = " A vertical line: the features change places; a row stays with its feature."
    figures = [
        shelf.put(
            f"features_{number}",
            feature_heat_map(shown, names, events),
            f"Active connections of each feature over time, {shown.label}",
            f"{shown.label}: active connections of each feature at each evaluation. The lane is "
            "the one in the middle of its arm by final return." + moved * bool(events),
        )
    ]
    maps = [lane_map(record, other, ACTOR) for other in record.lanes]
    known: list[FeatureMap] = [one for one in maps if one is not None]
    title = f"{record.arm.label}, {panel_title(record.arm.panel)}, {ACTOR}"
    figures.append(
        shelf.put(
            f"histogram_{number}",
            connection_histograms(known, title),
            f"How many connections features have, at begin and end, {title}",
            f"{title}: share of the real and of the noise features with so many active "
            f"connections, at the first and at the last evaluation, {len(known)} lanes together.",
        )
    )
    return figures
