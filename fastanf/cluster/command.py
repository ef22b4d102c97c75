"""`python -m fastanf study`: its blocks train here, or at the same time on a Ray cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from fastanf.cli import complain, parse_command_line
from fastanf.cluster.connection import cluster_nodes, connected
from fastanf.cluster.flags import HELP, ClusterFlags, read_cluster_flags
from fastanf.cluster.placement_text import placement_text
from fastanf.cluster.remote_run import RemoteRun
from fastanf.cluster.resources import Node
from fastanf.cluster.site import ClusterSite
from fastanf.cluster.url_folder import StoreError
from fastanf.flags import read_flags
from fastanf.paths import is_url


def study_command(argv: Sequence[str]) -> int:
    """Train a study, or show what it would take.

    Returns:
        The exit code.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        print(HELP)
        return 0
    try:
        flags = read_cluster_flags(argv)
        if flags.address is None:
            return _train_here(flags)
        with connected(flags.address):
            return _train_there(flags, argv)
    except ValueError as error:
        complain(str(error))


def _arguments(flags: ClusterFlags) -> list[str]:
    return ["--study", flags.study, *flags.train_arguments]


def _train_here(flags: ClusterFlags) -> int:
    from fastanf.cluster.probe import measure_here
    from fastanf.runner import train

    study = parse_command_line(_arguments(flags))
    print(study.plan.text(), flush=True)
    if study.run.plan:
        return 0
    if flags.is_dry:
        print(measure_here(study.plan.blocks, study.run), flush=True)
        return 0
    return train(study)


def _train_there(flags: ClusterFlags, typed: Sequence[str]) -> int:
    arguments = _arguments(flags)
    run = read_flags(arguments).run_config
    if run.run_dir is None or not is_url(run.run_dir):
        return _train_on(ClusterSite(*_room(flags)), arguments, flags, typed, None)
    store = RemoteRun(run.run_dir)
    working = Path("runs") / store.url.rstrip("/").rpartition("/")[2]
    arguments += ["--run_dir", str(working)]  # the last one counts
    site = ClusterSite(*_room(flags), has_store=True)
    if flags.is_dry or run.plan:
        return _train_on(site, arguments, flags, typed, store)
    store.take(say=print)
    try:
        note = store.fetch(working) if store.exists() else None
        print(note or f"records: {working}, checkpoints: {store.url}", flush=True)
        try:
            return _train_on(site, arguments, flags, typed, store)
        finally:
            if (working / "manifest.json").exists():
                store.publish(working)
    except StoreError as error:
        raise ValueError(error.strerror) from error
    finally:
        with contextlib.suppress(StoreError):
            store.release()


def _room(flags: ClusterFlags) -> tuple[list[Node], int | None, float | None]:
    return cluster_nodes(), flags.cpus_per_block, flags.gpus_per_block


def _train_on(
    site: ClusterSite,
    arguments: Sequence[str],
    flags: ClusterFlags,
    typed: Sequence[str],
    store: RemoteRun | None,
) -> int:
    from fastanf.cluster.probe import measure_there
    from fastanf.cluster.training import RayTrainer
    from fastanf.runner import train

    study = parse_command_line(arguments, site, ["study", *typed])
    print(study.plan.text(), flush=True)
    blocks = study.plan.blocks
    shares = site.shares(blocks)
    if not blocks:
        return 0 if study.run.plan or flags.is_dry else train(study)
    durations: Sequence[float | None] = [None] * len(blocks)
    if flags.is_dry and not study.run.plan:
        durations = measure_there(blocks, shares, study.run)
    print(f"\n{placement_text(blocks, shares, site.nodes, durations)}", flush=True)
    if study.run.plan or flags.is_dry:
        return 0
    return train(study, RayTrainer(site, store))
