"""A run that trains in processes of its own, which are watched, killed and gone on with (soak.py).

An aimed kill comes while files of a checkpoint are being written: such moments are short, and a
random one hardly meets them.
"""

from __future__ import annotations

import csv
import math
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import process_status
import result_rows
from soak_figures import Kill, Sample
from watched_folder import folder_state, is_being_saved, owner, seconds_since_saved

PROGRAM = (sys.executable, "-m", "fastanf")
SPREAD = (0.5, 1.5)
"""Of the mean time until a kill: a process lives so long at least and at most."""
PATIENCE_S, LOOK_S, INTO_SAVING_S = 120.0, 0.001, 0.05
"""An aimed kill waits so long at most, looks so often, and comes within so long after files began
to be written."""
MOST_IDLE = 5
"""Processes in a row that were killed at the same step: the run does not come on any more."""
STOP_S = 300.0
"""A process that got SIGTERM must have stopped after so long."""
CLOCK_S = 0.1
"""Files' times are those of the last tick of a coarser clock."""
STOPPED = 130
"""Exit code of a run that was asked to stop."""
MIB = 2**20


class Failed(Exception):
    """The run did what no run must do."""


class Soak:
    """Processes that train one run, and what was seen of them.

    Args:
        folder: for all that the soak writes.
        name: of the run, and of its folder in `folder`.
        command: of train.py, --run_dir left out.
        sample_s: seconds between two looks.
    """

    def __init__(self, folder: Path, name: str, command: Sequence[str], sample_s: float):
        self.folder, self.name, self.run_dir = folder, name, folder / name
        self.command, self.sample_s = command, sample_s
        self.samples: list[Sample] = []
        self.kills: list[Kill] = []
        self.num_processes = 0
        self.process_s = 0.0
        self._begun_at = self._started_at = time.monotonic()
        self._training_since: dict[tuple[int, int], float] = {}  # by process and block

    @property
    def soak_s(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self._begun_at

    def kill_until(self, end_s: float, kill_every_s: float, aim: float, rng: random.Random) -> bool:
        """Train and kill until the time is over; the last process is stopped by SIGTERM.

        Returns:
            Whether the run was finished before.
        """
        while self.soak_s < end_s:
            life_s = kill_every_s * rng.uniform(*SPREAD)
            is_aimed, into_s = rng.random() < aim, rng.uniform(0, INTO_SAVING_S)
            is_last = self.soak_s + life_s >= end_s
            with self._started() as process:
                if self._watch(process, min(self.soak_s + life_s, end_s)):
                    return True
                if is_last:
                    # So that what it then saves is known to be newer.
                    self._await(process, lambda: seconds_since_saved(self.run_dir) < self._age_s)
                    return self._stop(process)
                if is_aimed:
                    self._await(process, self._is_being_saved)
                    time.sleep(into_s)
                self._kill(process)
            if folder_state(self.run_dir).has_finished:
                return True
            self._check_comes_on()
        return False

    def finish(self) -> None:
        """Train to the end, nothing killed."""
        with self._started() as process:
            self._watch(process, math.inf)

    def _started(self) -> _Child:
        self.num_processes += 1
        self._started_at = time.monotonic()
        words = ["train", *self.command, "--plain", "--run_dir", str(self.run_dir)]
        if (self.run_dir / "manifest.json").exists():
            words = ["resume", str(self.run_dir)]
        return _Child(words, self.folder / "output.txt", self)

    def _watch(self, process: _Child, end_s: float) -> bool:
        """Look at a process until some time; whether it has finished the run before.

        Raises:
            Failed: it ended with an error.
        """
        next_s = self.soak_s + self.sample_s
        while self.soak_s < end_s:
            code = process.wait(max(0.0, min(next_s, end_s) - self.soak_s))
            if code is not None:
                process.check(code, 0)
                return True
            if self.soak_s >= next_s:
                next_s += self.sample_s
                self._sample(process)
        return False

    def _sample(self, process: _Child) -> None:
        try:
            now = process_status.status(process.pid)
        except OSError:  # it has just ended: the next wait says how
            return
        state = folder_state(self.run_dir)
        key, trained_s = (self.num_processes, state.block), -1.0
        if state.step and state.saved_at > time.time() - self._age_s:
            trained_s = self.soak_s - self._training_since.setdefault(key, self.soak_s)
        sample = Sample(
            self.name, self.soak_s, self.num_processes, self._age_s, trained_s, state.block,
            state.step, now.rss_mib, now.peak_mib, now.num_threads, now.num_files,
            state.num_checkpoints, state.num_bytes / MIB,
        )  # fmt: skip
        self.samples.append(sample)
        _append(self.folder / "samples.csv", [sample])

    @property
    def _age_s(self) -> float:
        return time.monotonic() - self._started_at

    def _is_being_saved(self) -> bool:
        return is_being_saved(self.run_dir, time.time() - self._age_s)

    def _await(self, process: _Child, has_come: Callable[[], bool]) -> None:
        """Wait for something to be seen in the folder, `PATIENCE_S` at most."""
        end_s = self.soak_s + PATIENCE_S
        while self.soak_s < end_s and not has_come() and process.wait(LOOK_S) is None:
            pass

    def _kill(self, process: _Child) -> None:
        process.send(signal.SIGKILL)
        code = process.wait(STOP_S)
        if code == -signal.SIGKILL:
            self._note_kill("SIGKILL", process.pid)
        else:
            process.check(code, 0)

    def _stop(self, process: _Child) -> bool:
        asked_at = time.time()
        process.send(signal.SIGTERM)
        code = process.wait(STOP_S)
        if code == 0:
            return True
        process.check(code, STOPPED)
        if folder_state(self.run_dir).saved_at < asked_at - CLOCK_S:
            since_s = time.time() - folder_state(self.run_dir).saved_at
            raise Failed(f"SIGTERM saved nothing: the checkpoint is of {since_s:.0f} s ago")
        self._note_kill("SIGTERM", process.pid)
        return False

    def _note_kill(self, name: str, pid: int) -> None:
        state, phase = folder_state(self.run_dir), "training"
        since_s = seconds_since_saved(self.run_dir)
        if name == "SIGKILL" and self._is_being_saved():
            phase = "saving"
        elif name == "SIGKILL" and owner(self.run_dir) != pid:
            phase = "starting"
        elif state.step == 0:
            phase = "no checkpoint"
        lost_s = min(since_s, self._age_s) if name == "SIGKILL" else 0.0
        kill = Kill(self.soak_s, self.num_processes, self._age_s, name, phase, state.block,
                    state.step, lost_s)  # fmt: skip
        self.kills.append(kill)
        _append(self.folder / "kills.csv", [kill])

    def _check_comes_on(self) -> None:
        last = [(kill.block, kill.step) for kill in self.kills[-MOST_IDLE:]]
        if len(last) == MOST_IDLE and len(set(last)) == 1:
            raise Failed(f"{MOST_IDLE} processes in a row were killed at step {last[0][1]}")


class _Child:
    """A process of the package, never left behind; a context manager.

    Args:
        words: of its command line, behind `python -m fastanf`.
        output: file that what it says is added to.
        soak: whose process it is, to count its time.
    """

    def __init__(self, words: Sequence[str], output: Path, soak: Soak):
        self._words, self._output, self._soak = words, output, soak

    def __enter__(self) -> _Child:
        with self._output.open("ab") as file:
            file.write(f"$ python -m fastanf {shlex.join(self._words)}\n".encode())
            file.flush()
            self._said_from = file.tell()
            self._process = subprocess.Popen(
                [*PROGRAM, *self._words],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=result_rows.ROOT,
            )
        self.pid = self._process.pid
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._soak.process_s += self._soak._age_s

    def wait(self, seconds: float) -> int | None:
        """The exit code; None while it runs."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        self._process.send_signal(number)

    def check(self, code: int | None, expected: int) -> None:
        """Raise Failed, with what it said, for another exit code than the expected one."""
        if code == expected:
            return
        with self._output.open("rb") as file:
            file.seek(self._said_from)
            said = file.read().decode(errors="replace")
        ended = f"did not stop in {STOP_S:.0f} s" if code is None else f"ended with code {code}"
        raise Failed(f"`fastanf {shlex.join(self._words)}` {ended}, not {expected}:\n{said}")


def _append(path: Path, rows: Sequence[Any]) -> None:
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if is_new:
            writer.writerow(rows[0]._fields)
        writer.writerows([f"{v:.3f}" if isinstance(v, float) else v for v in row] for row in rows)
