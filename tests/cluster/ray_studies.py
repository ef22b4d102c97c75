"""Studies that train in seconds on a Ray cluster of this machine's processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastanf.__main__ import main
from tests.interruptions import records

STUDY = """
name = "four"
about = "Four blocks of one lane."
policy = ["ANF-SAC", "SAC"]
env = "HalfCheetah-v3"
num_seeds = 2

[settings]
max_timesteps = {steps}
start_timesteps = 40
eval_freq = 60
eval_episodes = 1
batch_size = 16
noise_fraction = 0.5
hidden = [16, 16]
topology_period = 20
"""
OPTIONS = ("--lanes_per_block", "1", "--plain", "--no-tensorboard", "--num_threads", "1")


def write_study(folder: Path, steps: int) -> str:
    """The file of the study."""
    file = folder / "four.toml"
    file.write_text(STUDY.format(steps=steps))
    return str(file)


def study(file: str, run_dir: Path | str, *more: str) -> int:
    """`python -m fastanf study`, in this process; the exit code."""
    return main(["study", file, *OPTIONS, "--run_dir", str(run_dir), *more])


def tables(path: Path) -> dict[str, Any]:
    """All tables of a run, but for what the clock says, and that in which order they came."""
    return records(path)


@contextmanager
def ray_cluster(num_nodes: int) -> Iterator[Any]:
    """A head without CPUs and nodes of one CPU each, on the loopback interface alone."""
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # see fastanf/cluster/connection.py
    os.environ.setdefault("RAY_worker_niceness", "0")
    from ray.cluster_utils import Cluster

    options = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}
    cluster = Cluster(head_node_args={**options, "num_cpus": 0, "include_dashboard": False})
    cluster.add_node(**options, num_cpus=0, include_dashboard=False)
    try:
        for _ in range(num_nodes):
            cluster.add_node(**options, num_cpus=1)
        yield cluster
    finally:
        cluster.shutdown()


def add_node(cluster: Any) -> Any:
    """One more node of a CPU."""
    return cluster.add_node(node_ip_address="127.0.0.1", object_store_memory=80 * 2**20, num_cpus=1)


def kill_node(node: Any) -> None:
    """End all processes of a node at once, workers first, as when its power fails."""
    own = [info.process.pid for infos in node.all_processes.values() for info in infos]
    children = subprocess.run(
        ["pgrep", "-P", ",".join(map(str, own))], capture_output=True, text=True, check=True
    )
    for pid in [*map(int, children.stdout.split()), *own]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextmanager
def once(
    condition: Callable[[], bool], action: Callable[[], object]
) -> Iterator[list[BaseException]]:
    """Within, `action` is done in a thread as soon as a condition holds.

    Raises:
        AssertionError: at the end, where it never did, or the action failed.
    """
    is_over, done, problems = threading.Event(), threading.Event(), []

    def watch() -> None:
        while not is_over.wait(0.02):
            if condition():
                try:
                    action()
                except BaseException as error:
                    problems.append(error)
                done.set()
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield problems
    is_over.set()
    thread.join()
    assert done.is_set(), "the moment never came"
    assert not problems, problems


def listening_addresses() -> set[str]:
    """Addresses on which processes with `ray` in their command line accept connections."""
    inodes = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                if b"ray" not in (folder / "cmdline").read_bytes():
                    continue
                links = [os.readlink(link) for link in (folder / "fd").iterdir()]
            except OSError:
                continue
            inodes |= {link[8:-1] for link in links if link.startswith("socket:[")}
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and words[9] in inodes:  # LISTEN
                text = bytes.fromhex(words[1].partition(":")[0])
                parts = [text[i : i + 4][::-1] for i in range(0, len(text), 4)]
                found.add(socket.inet_ntop(family, b"".join(parts)))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Raises: AssertionError: it did not come to be within that time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.02)
