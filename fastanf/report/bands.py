"""Summaries of learning curves at each step, the same in figures and tables.

Axes: n lanes of an arm, S steps.
"""

from typing import NamedTuple

import numpy as np

from fastanf.bootstrap import Statistic, learning_curve
from fastanf.statistics import interquartile_mean, mean_of_tasks


class Band(NamedTuple):
    """A summary of the lanes of an arm at each step and its interval, [S] each, nan where none."""

    centre: np.ndarray
    low: np.ndarray
    high: np.ndarray


def mean_band(returns: np.ndarray) -> Band:
    """Mean over lanes and its 95% bootstrap interval at each step.

    Args:
        returns: [n, S]; nan is left out.
    """
    return _band(returns, mean_of_tasks)


def iqm_band(returns: np.ndarray) -> Band:
    """Interquartile mean over lanes and its 95% bootstrap interval, as `mean_band`."""
    return _band(returns, interquartile_mean)


def _band(returns: np.ndarray, statistic: Statistic) -> Band:
    band = learning_curve([returns], statistic)
    return Band(band.value, band.low, band.high)
