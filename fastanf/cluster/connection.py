"""Connects this process with Ray: a cluster that is there, or one of this machine alone.

Ray's ports give whoever reaches them the right to run code. What is started here listens on the
loopback interface alone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from typing import Any

from fastanf.cluster.resources import Node
from fastanf.options import shown, start_of

HERE = ""
"""The address that stands for a cluster of this machine alone."""
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
_STORE_BYTES = 256 * 2**20
"""Of Ray's object store: messages are small, tensors never go through it."""
_PROBE_S = 60.0
_KNOCK_S = 10.0


def needs_ray() -> str | None:
    """What to install where Ray is missing, in one line."""
    if util.find_spec("ray") is None:
        return "--ray needs the package ray: pip install 'fastanf[ray]'"
    return None


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Within, this process is connected with Ray.

    Args:
        address: HOST:PORT or `auto`, or `HERE`.

    Raises:
        ValueError: Ray is not installed or cannot be reached; one line says what to do.
    """
    problem = needs_ray()
    if problem:
        raise ValueError(problem)
    host = address.rpartition(":")[0]
    if address == HERE or host in _LOOPBACK:
        # Ray would take the address by which others reach this machine, and listen on all of them;
        # so named for the systems where it is the default.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    if address == HERE:  # Ray would give way to every other process of this machine
        os.environ.setdefault("RAY_worker_niceness", "0")
    import ray

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address == HERE:
            ray.init(
                **options, _node_ip_address="127.0.0.1", include_dashboard=False,
                object_store_memory=_STORE_BYTES,
            )  # fmt: skip
        else:
            _knock(address)
            ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"--ray {address or ''}: no Ray cluster answers there ({start_of(str(error), 120)}); "
            "start one (docs/cluster.md), or leave the address out for this machine alone"
        ) from error
    try:
        for number, handler in before.items():  # Ray takes SIGTERM for itself
            signal.signal(number, handler)
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See whether anybody listens: Ray itself would try for minutes.

    Raises:
        OSError: nobody does.
    """
    host, _, port = address.rpartition(":")
    if host:
        socket.create_connection((host.strip("[]"), int(port)), _KNOCK_S).close()


def cluster_nodes(with_gpus: bool = True) -> list[Node]:
    """The nodes that are alive, with what tasks may take of them.

    Args:
        with_gpus: whether to look at their GPUs' memory, which takes a task on each.

    Raises:
        ValueError: a node's GPUs cannot be looked at.
    """
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    gpus = _gpus([n["NodeID"] for n in alive if n["Resources"].get("GPU") and with_gpus])
    nodes = []
    for node in alive:
        has = node["Resources"]
        memory, name = gpus.get(node["NodeID"], (0, ""))
        nodes.append(
            Node(
                node["NodeID"],
                node["NodeManagerHostname"],
                has.get("CPU", 0.0),
                has.get("GPU", 0.0),
                int(has.get("memory", 0)),
                memory,
                name,
            )
        )
    return nodes


def _gpus(node_ids: list[str]) -> dict[str, tuple[int, str]]:
    """Bytes and name of one GPU of each node."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    look = ray.remote(_look_at_gpu)
    looks = {
        node_id: look.options(
            num_cpus=0,
            num_gpus=1,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False),
        ).remote()
        for node_id in node_ids
    }
    found = {}
    for node_id, result in looks.items():
        try:
            found[node_id] = ray.get(result, timeout=_PROBE_S)
        except Exception as error:
            raise ValueError(
                f"the GPU of node {shown(node_id[:8])} cannot be looked at "
                f"({start_of(str(error).strip().splitlines()[-1], 200)}): see that it is free and "
                "that torch finds it there"
            ) from error
    return found


def _look_at_gpu() -> tuple[int, str]:
    import torch

    facts = torch.cuda.get_device_properties(0)
    return facts.total_memory, facts.name
