"""What first layers are connected to while they train: real features or noise.

Grooten et al. 2023, arXiv 2302.06548, plot the mean connections of a real and of a noise feature;
the shares are defined in connections.py.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from fastanf.curve_lines import CurvePanel, Line
from fastanf.curve_panels import Scales, curve_figure
from fastanf.picture import PALE, Style
from fastanf.report.arms import Arm, Key, styles
from fastanf.report.bands import mean_band
from fastanf.report.connections import NETWORKS, FirstLayer
from fastanf.report.drawing import (
    STEPS,
    count_range,
    empty_figure,
    full_title,
    labels_of,
    sentence,
    shared_name,
    short_title,
)

REAL, NOISE = Style("#5B2A86"), Style("#8C8C8C")
"""The two kinds of features in all figures: colours that no arm has."""
LEVEL = Style(PALE, (0, (4, 3)))


def mean_connections(
    layers: Sequence[FirstLayer], events: Mapping[Arm, Sequence[int]] | None = None
) -> Figure:
    """Mean connections of a real and of a noise feature over time, a panel an arm and network.

    Args:
        layers: of one or several arms and networks; dense ones say that they are.
        events: of an arm, steps at which its features changed places.
    """
    shown = _by_arm([layer for layer in layers if np.isfinite(layer.precision).any()])
    if not shown:
        return empty_figure("Connections of a feature", "no sparse first layer is recorded")
    several_arms = len({layer.arm for layer in shown}) > 1
    labels = labels_of([layer.arm.key for layer in shown])
    tasks = {layer.arm.panel for layer in shown}
    panels = []
    for layer in shown:
        arm, title = layer.arm, layer.network
        if several_arms:
            title = ", ".join([*labels[arm.key], short_title(arm.panel, tasks), title])
        panels.append(
            CurvePanel(
                _kinds(layer),
                title=title.replace(", , ", ", "),
                group="connections",
                events=(events or {}).get(arm, ()),
            )
        )
    name = shared_name([layer.arm.key for layer in shown]) if several_arms else shown[0].arm.label
    caption = sentence(
        _counts(shown),
        "even: the same connections, spread evenly",
        *_words(panels),
        _left_out(layers, shown),
    )
    scales = Scales(STEPS, "active connections of a feature", starts_at_0=True, num_columns=2)
    return curve_figure(
        panels, full_title(tasks, name, "connections of a feature"), caption, scales
    )


def precision_curves(
    layers: Sequence[FirstLayer], looks: Mapping[Key, Style] | None = None
) -> Figure:
    """Share of the input connections that start at real features, of all arms with a mask."""
    return _share_figure(
        layers,
        looks,
        lambda layer: layer.precision,
        "connections on real features",
        "share of the input connections",
    )


def weight_share_curves(
    layers: Sequence[FirstLayer], looks: Mapping[Key, Style] | None = None
) -> Figure:
    """Share of |weight| of the first layer on real features: for dense and gated layers too."""
    return _share_figure(
        layers,
        looks,
        lambda layer: layer.weight_share,
        "|weight| on real features",
        "share of the sum of |weight|",
    )


def _by_arm(layers: Sequence[FirstLayer]) -> list[FirstLayer]:
    arms = list(dict.fromkeys(layer.arm for layer in layers))
    order = list(NETWORKS)
    return sorted(layers, key=lambda one: (arms.index(one.arm), order.index(one.network)))


def _kinds(layer: FirstLayer) -> list[Line]:
    lines = [
        _line(layer.steps, layer.per_real_feature, ("real",), REAL),
        _line(layer.steps, layer.per_noise_feature, ("noise",), NOISE),
    ]
    even = mean_band(layer.per_any_feature).centre
    lines.append(Line(("even",), LEVEL, layer.steps, even, is_level=True))
    return [line for line in lines if line.is_drawn]


def _line(steps: np.ndarray, values: np.ndarray, label: tuple[str, ...], style: Style) -> Line:
    singles = [(steps, lane) for lane in values] if len(values) > 1 else []
    return Line(label, style, steps, *mean_band(values), singles)


def _level(steps: np.ndarray, value: float) -> Line:
    ends = np.array([min(0, steps[0]), steps[-1]]) if len(steps) else np.zeros(2)
    return Line(("random",), LEVEL, ends, np.full(2, value), is_level=True)


def _share_figure(
    layers: Sequence[FirstLayer],
    looks: Mapping[Key, Style] | None,
    values: Callable[[FirstLayer], np.ndarray],
    what: str,
    y_label: str,
) -> Figure:
    looks = looks or styles([layer.arm for layer in layers])
    given, layers = layers, [layer for layer in layers if np.isfinite(values(layer)).any()]
    if not layers:
        return empty_figure(what[:1].upper() + what[1:], "no such layer is recorded")
    labels = labels_of([layer.arm.key for layer in layers])
    tasks = sorted({layer.arm.panel for layer in layers})
    networks = [name for name in NETWORKS if any(layer.network == name for layer in layers)]
    panels = []
    for task in tasks:
        for network in networks:
            here = [one for one in layers if (one.arm.panel, one.network) == (task, network)]
            lines = [
                _line(one.steps, values(one), labels[one.arm.key], looks[one.arm.key])
                for one in here
            ]
            longest = max(
                here, key=lambda one: one.steps[-1] if len(one.steps) else 0, default=None
            )
            if longest is not None and len(longest.steps):
                lines.append(_level(longest.steps, longest.random_level))
            parts = [short_title(task, tasks), network if len(networks) > 1 else ""]
            panels.append(CurvePanel(lines, title=", ".join(part for part in parts if part)))
    name = shared_name([layer.arm.key for layer in layers])
    if len(networks) == 1:
        what = f"{what}, {networks[0]}"
    caption = sentence(
        _counts(layers), "random: share of the features that are real",
        *_words(panels), _left_out(given, layers),
    )  # fmt: skip
    scales = Scales(
        STEPS,
        y_label,
        y_number=lambda share: f"{100 * share:.4g}%",
        starts_at_0=True,
        num_columns=2 if len(networks) == 2 else 0,
    )
    return curve_figure(panels, full_title(tasks, name, what), caption, scales)


def _counts(layers: Sequence[FirstLayer]) -> str:
    """Features and seeds."""
    real, every = {one.num_real for one in layers}, {one.num_features for one in layers}
    features = (
        f"{real.pop()} of {every.pop()} features are real" if len(real) == len(every) == 1 else ""
    )
    return sentence(features, count_range([len(one.arm.lanes) for one in layers], "seed"))


def _left_out(layers: Sequence[FirstLayer], shown: Sequence[FirstLayer]) -> str:
    """Names the arms of which there is nothing to show."""
    drawn = {layer.arm for layer in shown}
    names = dict.fromkeys(layer.arm.label for layer in layers if layer.arm not in drawn)
    return f"dense or not recorded: {', '.join(names)}" if drawn and names else ""


def _words(panels: Sequence[CurvePanel]) -> list[str]:
    lines = [line for panel in panels for line in panel.lines]
    has_band = any(np.isfinite(line.low).any() for line in lines)
    return [
        "thick: mean over seeds" if any(line.singles for line in lines) else "",
        "thin: single seeds" if any(panel.has_singles for panel in panels) else "",
        "band: 95% bootstrap interval of the mean" if has_band else "",
        "critics: mean of both" if any("critics" in panel.title for panel in panels) else "",
        "dashed verticals: the features change places" if any(p.events for p in panels) else "",
    ]
