"""What rliable gives for some scores (golden/rliable.json), and our names of its aggregates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastanf.statistics import (
    interquartile_mean,
    mean_of_tasks,
    median_of_tasks,
    optimality_gap,
)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "rliable.json").read_text("utf-8"))
ALGORITHMS: dict[str, Any] = GOLDEN["algorithms"]
AGGREGATES = {
    "iqm": interquartile_mean,
    "mean": mean_of_tasks,
    "median": median_of_tasks,
    "optimality_gap": optimality_gap,
}
VALUE_ERROR = 1e-8
"""The file rounds values to nine decimals."""
