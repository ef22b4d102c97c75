"""Runs that are stopped at a given moment, as a signal or a kill would do it, and what must be the
same afterwards: their records, but for what the clock says.
"""

from __future__ import annotations

import csv
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fastanf.learner import Learner

Records = dict[str, list[dict[str, str]]]
"""Rows by table."""
TABLES = ("eval.csv", "train.csv", "topology.csv", "features.csv", "quarantine.csv")
UNTIMED = ("wall_s", "env_steps_per_s", "lane_updates_per_s")
"""Columns that the clock fills."""


def rows_of(path: Path, name: str = "eval.csv") -> list[dict[str, str]]:
    """A table of a run."""
    with open(path / name, newline="") as file:
        return list(csv.DictReader(file))


def records(path: Path) -> Records:
    """All tables of a run, what the clock says left out. When checkpoints were written is such."""
    left_out = {*UNTIMED, "checkpoint_step"}
    return {
        name: [{k: v for k, v in row.items() if k not in left_out} for row in rows_of(path, name)]
        for name in TABLES
    }


def call_number(
    number: int, action: Callable[[], object], function: Callable, kind: str = ""
) -> Callable:
    """`function`, preceded by `action` at one of its calls: of those that append such rows."""
    calls = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        is_counted = not kind or any(type(row).__name__ == kind for row in arguments[1])
        calls += is_counted
        if is_counted and calls == number:
            action()
        return function(*arguments, **named)

    return wrapped


@contextmanager
def at_call(owner: Any, name: str, number: int, action: Callable[[], object]) -> Iterator[None]:
    """Within, `action` comes before one of the calls of an attribute of `owner`.

    Args:
        owner: a class or module.
        name: of the attribute; "append EvaluationRow" is `append` of such rows.
        number: of the call, from 1.
        action: what comes before it.

    Raises:
        AssertionError: at the end, where there were fewer calls.
    """
    done: list[bool] = []

    def noted() -> None:
        done.append(True)
        action()

    attribute, _, kind = name.partition(" ")
    with pytest.MonkeyPatch.context() as patch:
        function = getattr(owner, attribute)
        patch.setattr(owner, attribute, call_number(number, noted, function, kind))
        yield
    assert done, f"{name} was called fewer than {number} times"


def send(number: signal.Signals = signal.SIGTERM) -> None:
    """Signal this process, in a run that handles it."""
    handler = signal.getsignal(number)
    assert handler not in (signal.SIG_DFL, signal.default_int_handler), "nobody handles it here"
    os.kill(os.getpid(), number)


@contextmanager
def signal_at_update(number: int) -> Iterator[None]:
    """Within, a signal comes in one of the updates, which is finished before the run stops."""
    with at_call(Learner, "update_", number, send):
        yield


def kill(path: Path, copy: Path) -> Path:
    """What a kill leaves of a run in this moment: its folder as it stands."""
    return Path(shutil.copytree(path, copy))
