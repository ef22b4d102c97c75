"""An arm of a study: lanes that differ only in their seed, and the look it has in every figure.

Axes: n lanes of an arm, S evaluation steps.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from fastanf.curves import panel_title
from fastanf.picture import Style, style_at

Lane = int | tuple[str, int]
"""A lane's number, or the name of its run and its number there."""
Key = tuple[str, str]
"""Policy and variant: what an arm is told apart by within its panel."""
Panel = tuple[str, float]
"""Environment and noise fraction."""


@dataclass(frozen=True, eq=False)
class Arm:
    """The evaluations of the lanes of one policy and variant on one task.

    Raises:
        ValueError: shapes that do not belong together, steps that do not ascend.
    """

    env: str
    noise_fraction: float
    policy: str
    variant: str
    """What sets it apart from other arms of its policy; may be empty."""
    lanes: tuple[Lane, ...]
    steps: np.ndarray
    """[S] int, ascending: environment steps after the random start."""
    returns: np.ndarray
    """[n, S] nan where a lane was not evaluated (yet) or its return was not finite."""

    def __post_init__(self) -> None:
        if self.returns.shape != (len(self.lanes), len(self.steps)):
            raise ValueError(
                f"returns of {self.label!r} have shape {self.returns.shape}; "
                f"its lanes and steps ask for {(len(self.lanes), len(self.steps))}"
            )
        if np.any(np.diff(self.steps) <= 0):
            raise ValueError(f"steps of {self.label!r} do not ascend")

    @property
    def key(self) -> Key:
        """What its look hangs on: the same in every panel."""
        return self.policy, self.variant

    @property
    def panel(self) -> Panel:
        """The task."""
        return self.env, self.noise_fraction

    @property
    def label(self) -> str:
        """Policy and variant on one line."""
        return label_of(self.key)


def label_of(key: Key) -> str:
    """Policy and variant on one line."""
    return ", ".join(part for part in key if part)


def label_among(arm: Arm, arms: Iterable[Arm]) -> str:
    """Policy and variant, with the task where these arms are of several."""
    is_alone = all(other.panel == arm.panel for other in arms)
    return arm.label if is_alone else f"{arm.label} ({panel_title(arm.panel)})"


def styles(arms: Iterable[Arm]) -> Mapping[Key, Style]:
    """Colour, dashes and marker of each policy and variant, in the order of their first arm."""
    keys = dict.fromkeys(arm.key for arm in arms)
    return MappingProxyType({key: style_at(number) for number, key in enumerate(keys)})


def panels_of(arms: Iterable[Arm]) -> dict[Panel, list[Arm]]:
    """Arms by task; tasks sorted, arms in their order."""
    panels: dict[Panel, list[Arm]] = {}
    for arm in arms:
        panels.setdefault(arm.panel, []).append(arm)
    return dict(sorted(panels.items()))
