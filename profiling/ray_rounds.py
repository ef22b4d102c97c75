"""Rounds of bench_gatherer.py: what Ray's part of the gatherer costs, with workers that are silent.

Axes: N blocks. A few processes of this machine stand for the workers: each answers the exchanges of
many. The gatherer has as many exchanges on their way as it would, but fewer connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmark import Figures

from fastanf.cluster.connection import HERE, connected
from fastanf.cluster.crew import Hand, wait_between
from fastanf.cluster.driver import LISTEN_S
from fastanf.cluster.mailbox import Answer, Message

NUM_PROCESSES = 4
_MOST_CALLS = 100_000
"""That a process has at a time."""
_PATHS = (Path(__file__).parent, Path(__file__).parent.parent)


class SilentWorker:
    """Stands for a `BlockWorker` that says the same at each exchange.

    Args:
        said: at each exchange.
        most_wait_s: an exchange waits no longer than that.
    """

    def __init__(self, said: Sequence[Message], most_wait_s: float) -> None:
        self._said, self._most_wait_s = list(said), most_wait_s

    async def exchange(
        self, answers: Sequence[Answer], is_asked_to_stop: bool, wait_s: float
    ) -> list[Message]:
        """As `BlockWorker.exchange`, with nothing that is urgent."""
        del answers, is_asked_to_stop
        await asyncio.sleep(min(wait_s, self._most_wait_s))
        return self._said


@contextlib.contextmanager
def local_ray() -> Iterator[None]:
    """Within, Ray runs on this machine's loopback interface, in a folder of its own, so that it is
    no other cluster of this machine; its processes find these files.
    """
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "RAY_TMPDIR")}
    paths = [*map(str, _PATHS), *filter(None, [before["PYTHONPATH"]])]
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        os.environ |= {"PYTHONPATH": os.pathsep.join(paths), "RAY_TMPDIR": folder}
        try:
            with connected(HERE):
                yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


class ExchangesRound:
    """The gatherer exchanges with N blocks, as fastanf/cluster/driver.py does.

    Args:
        num_blocks: N.
        said: by each at each exchange.
        most_wait_s: as of `SilentWorker`.
    """

    def __init__(
        self, num_blocks: int, said: Sequence[Message] = (), most_wait_s: float = float("inf")
    ) -> None:
        self.num_blocks, self.said, self.most_wait_s = num_blocks, list(said), most_wait_s

    def measure(self, seconds: float) -> Figures:
        """Connected with Ray: for that time, and until each block was heard at least."""
        import ray

        from fastanf.cluster.ray_crew import RayCrew

        make: Any = ray.remote(SilentWorker)
        num_processes = min(self.num_blocks, NUM_PROCESSES)
        workers = [
            make.options(num_cpus=0, max_concurrency=_MOST_CALLS).remote(
                self.said, self.most_wait_s
            )
            for _ in range(num_processes)
        ]
        ray.get([worker.exchange.remote([], False, 0.0) for worker in workers])
        crew, wait_s = RayCrew(), min(wait_between(self.num_blocks), self.most_wait_s)
        for number in range(self.num_blocks):  # spread over the time, as blocks that began somewhen
            hand = Hand(None, workers[number % num_processes])  # type: ignore[arg-type]
            first_wait_s = wait_s * number / self.num_blocks
            hand.awaited = hand.worker.exchange.remote([], False, first_wait_s)
            crew._hands[hand.awaited] = hand
        self._exchange(crew, wait_s)
        num, listens, wall_s, cpu_s = self._exchange(crew, max(seconds, wait_s))
        for worker in workers:
            ray.kill(worker, no_restart=True)
        figures = {
            "exchanges_per_s": num / wall_s,
            "exchange_cpu_ms": 1e3 * cpu_s / num,
            "gatherer_share": cpu_s / wall_s,
            "listens_per_s": listens / wall_s,
        }
        if self.said:
            figures["message_bytes"] = float(len(pickle.dumps(self.said)))
        return figures

    def _exchange(self, crew: Any, seconds: float) -> tuple[int, int, float, float]:
        """Exchanges and calls of `listen` in so much time, the time, and this process's CPU."""
        start, cpu_start = time.perf_counter(), time.process_time()
        num = num_listens = 0
        while (wall_s := time.perf_counter() - start) < seconds or not num:
            for hand, _ in crew.listen(LISTEN_S):
                crew.go_on(hand)
                num += 1
            num_listens += 1
        return num, num_listens, wall_s, time.process_time() - cpu_start
