"""Processes that measure one tree each, asked round by round from outside.

    python profiling/workers.py SCRIPT --serve ...

A worker is the measuring script with its tree first on PYTHONPATH: the measuring code is this
tree's in both, fastanf and envs are the tree's own. Requests and answers are lines of JSON on stdin
and stdout; what libraries print goes to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from benchmark import Benchmark, Figures, Point, Round


class Side(Protocol):
    """One of the two that are compared."""

    def prepare(self, index: int) -> None:
        """Build the point of that index."""
        ...

    def measure(self, index: int, seconds: float) -> Figures:
        """One round of a prepared point."""
        ...


class Worker:
    """A process that measures a tree.

    Args:
        label: what it is called in errors.
        tree: holds fastanf and envs.
        script: the measuring script.
        arguments: of the script, --compare and its value left out.

    Raises:
        ValueError: the process does not take the arguments, or imports another fastanf.
    """

    def __init__(self, label: str, tree: Path, script: Path, arguments: Sequence[str]):
        self.label = label
        self._stderr = tempfile.TemporaryFile(mode="w+")  # noqa: SIM115, closed by close()
        paths = [str(tree), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(script), "--serve", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
        try:
            hello = self._ask({"do": "points"})
            self.points: list[Point] = hello["points"]
            for imported in hello["imported"]:
                if not Path(imported).resolve().is_relative_to(tree.resolve()):
                    raise ValueError(f"--compare: {label} imported {imported}, not its own code")
        except ValueError:
            self.close()
            raise

    def prepare(self, index: int) -> None:
        """Build the point of that index."""
        self._ask({"do": "prepare", "point": index})

    def measure(self, index: int, seconds: float) -> Figures:
        """One round of a prepared point."""
        return self._ask({"do": "measure", "point": index, "seconds": seconds})["figures"]

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                pipe.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError:
            pass  # it has ended: there is no answer
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            raise ValueError(f"--compare: {self.label} cannot be measured: {answer['error']}")
        return answer

    def _last_words(self) -> str:
        self._stderr.seek(0)
        lines = self._stderr.read().strip().splitlines()
        code = self._process.wait()
        return lines[-1].removeprefix("fastanf: error: ") if lines else f"it ended with code {code}"


def serve(benchmark: Benchmark, own: argparse.Namespace, rest: list[str]) -> int:
    """Answer requests until stdin ends; the worker's main loop.

    Returns:
        The exit code.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # nothing but answers goes to the pipe
    return answer_requests(benchmark, own, rest, sys.stdin, answers)


def answer_requests(
    benchmark: Benchmark,
    own: argparse.Namespace,
    rest: list[str],
    requests: IO[str],
    answers: IO[str],
) -> int:
    """One line of JSON for each line of JSON.

    Returns:
        The exit code.
    """
    points: list[Point] = []
    rounds: dict[int, Round] = {}

    def answer(request: dict[str, Any]) -> dict[str, Any]:
        match request["do"]:
            case "points":
                points.extend(benchmark.points(own, rest))
                return {"points": points, "imported": _imported()}
            case "prepare":
                rounds[request["point"]] = benchmark.prepare(points[request["point"]])
                return {}
            case "measure":
                return {"figures": rounds[request["point"]](request["seconds"])}
        raise ValueError(f"unknown request {request['do']!r}")

    for line in requests:
        try:
            reply = answer(json.loads(line))
        except ValueError as error:
            reply = {"error": str(error)}
        except Exception as error:  # an earlier revision may lack anything
            reply = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(reply) + "\n")
        answers.flush()
    return 0


def _imported() -> list[str]:
    """Files of all modules that should be the tree's own."""
    return [
        str(module.__file__)
        for name, module in sys.modules.items()
        if name.partition(".")[0] in ("fastanf", "envs") and getattr(module, "__file__", None)
    ]


def _run_script(arguments: Sequence[str]) -> None:
    # An editable installation's finder would give an earlier revision those modules of this tree
    # that it does not have.
    sys.meta_path[:] = [
        finder
        for finder in sys.meta_path
        if not getattr(finder, "__module__", "").startswith("__editable__")
    ]
    sys.argv[:] = arguments
    runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    _run_script(sys.argv[1:])
