"""Trains in processes that can be killed at a given moment, one after the other, without importing
torch and the simulators anew for each: this process imports them once and forks.

Used as a script by `Trainer`. Every line on standard input is JSON: {"argv": [...], "kill_after_s":
number or null, "output": file}. Every line on standard output is {"code": exit code or null where
the process was killed, "seconds": how long it ran}.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Ending:
    """How a process ended."""

    code: int | None
    """None where it was killed."""
    seconds: float


class Trainer:
    """Runs commands of the package, each in a process of its own; a context manager."""

    def __init__(self, output: Path):
        self.output = output
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.killable"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=environment,
            text=True,
        )

    def run(self, *argv: str, kill_after_s: float | None = None) -> Ending:
        """Run `python -m fastanf ARGV`, and kill it after some seconds if it still runs then."""
        order = {"argv": argv, "kill_after_s": kill_after_s, "output": str(self.output)}
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Ending(**json.loads(self._process.stdout.readline()))

    def __enter__(self) -> Trainer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _serve() -> None:
    # Imported before any fork, so that a child has them; no thread may run yet.
    import envpool  # noqa: F401

    import fastanf.runner  # noqa: F401
    from fastanf.__main__ import main

    for line in sys.stdin:
        order = json.loads(line)
        started_at = time.perf_counter()
        child = os.fork()
        if child == 0:
            _become(order, main)
        code = _await(child, order["kill_after_s"])
        answer = {"code": code, "seconds": time.perf_counter() - started_at}
        print(json.dumps(answer), flush=True)


def _become(order: dict[str, Any], main: Any) -> None:
    """Run a command in this process, and end it."""
    code = 1
    try:
        file = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for descriptor in (1, 2):
            os.dup2(file, descriptor)
        code = main(order["argv"])
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    finally:
        sys.stdout.flush()
        os._exit(code)


def _await(child: int, kill_after_s: float | None) -> int | None:
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)  # of a process that has ended, until it is waited for
    status = os.waitpid(child, 0)[1]
    return None if os.WIFSIGNALED(status) else os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    _serve()
