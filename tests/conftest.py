"""The order of the tests; and, before Triton is loaded, that it interprets without a GPU."""

from __future__ import annotations

import importlib.util
import os

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
    if importlib.util.find_spec("triton") is not None:
        from tests import interpreter_patches

        interpreter_patches.install()

LONGEST = (
    "test_mjx_tasks.py", "test_graphs.py", "test_ray.py", "test_interface.py",
    "test_triton_linear.py", "test_gpu_code.py", "test_kills.py", "test_lane_independence.py",
    "test_rival_graphs.py", "test_tutorial.py", "test_mjx_training.py",
)  # fmt: skip
"""Files that take longest, which come first: a process that begins one at last runs it alone."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files go to processes in this order (pytest --no-loadscope-reorder)."""
    place = {name: index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))
