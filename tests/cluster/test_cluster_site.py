"""A cluster as the place where a study trains: its device, blocks, shares, and what it needs."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastanf import disk, runner
from fastanf.cli import Study, parse_command_line
from fastanf.cluster.placement import cut
from fastanf.cluster.resources import Node, Share, block_share, host_bytes, smallest_share
from fastanf.cluster.site import ClusterSite
from fastanf.cluster.training import RayTrainer
from fastanf.disk import BlockDisk, block_disk, run_disk_bytes
from fastanf.grouping import Block, make_blocks
from fastanf.memory import MIB
from fastanf.presets import expand
from fastanf.settings import RunConfig
from tests import fake_env
from tests.cluster.crew_runs import quick, save_every
from tests.cluster.thread_crew import ThreadCrew

GIB = 2**30
LANES = expand(["ANF-SAC"], num_seeds=6, overrides={"layout": "masked"}).lanes
(CPU_BLOCK,) = make_blocks(LANES, "cpu")
(GPU_BLOCK,) = make_blocks(LANES, "cuda")
RUN = RunConfig(run_dir="runs/x")


def cpu_node(num_cpus: float, memory: int = 64 * GIB) -> Node:
    return Node("c", "10.0.0.1", num_cpus, 0, memory)


def gpu_node(num_cpus: float, num_gpus: float, gpu_memory: int = 80 * GIB) -> Node:
    return Node("g", "10.0.0.2", num_cpus, num_gpus, 64 * GIB, gpu_memory, "NVIDIA H200")


def part(block: Block, first: int, last: int) -> Block:
    return Block(block.indices[first:last], block.lanes[first:last], block.device)


def plan_of(site: ClusterSite, blocks: list[Block], run: RunConfig = RUN) -> disk.DiskPlan | None:
    plan = site.plan(blocks, run, ["a note"], num_fixed=0, num_trained=0, standing_blocks=None)
    assert plan.blocks == tuple(blocks) and plan.notes[0] == "a note"
    return plan.disk


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with quick(monkeypatch):
        yield


@pytest.mark.parametrize(
    ("nodes", "asked", "expected"),
    [
        ([cpu_node(4)], "auto", "cpu"),
        ([cpu_node(4)], "cpu", "cpu"),
        ([], "auto", "cpu"),
        ([cpu_node(4), gpu_node(4, 1)], "auto", "cuda"),
        ([cpu_node(4), gpu_node(4, 1)], "cuda", "cuda"),
        ([gpu_node(4, 0.5)], "cpu", "cpu"),
    ],
)
def test_the_device_is_one_that_nodes_have(nodes: list[Node], asked: str, expected: str) -> None:
    assert ClusterSite(nodes).device_for(RunConfig(device=asked)) == expected


@pytest.mark.parametrize(
    ("nodes", "asked", "allowed"),
    [
        ([cpu_node(4)], "cuda", "auto, cpu with"),
        ([cpu_node(4)], "cuda:0", "auto, cpu with"),
        ([gpu_node(4, 2)], "cuda:1", "auto, cpu, cuda with"),
    ],
)
def test_a_device_that_no_node_has_is_refused(nodes: list[Node], asked: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"^device must be one of {allowed} --ray") as caught:
        ClusterSite(nodes).device_for(RunConfig(device=asked))
    assert str(caught.value).endswith(f"got {asked!r}")


def test_shares_are_those_of_blocks_that_go_together() -> None:
    nodes, blocks = [cpu_node(8)], [part(CPU_BLOCK, 0, 4), part(CPU_BLOCK, 4, 6)]
    shares = ClusterSite(nodes).shares(blocks)
    assert shares == [Share(4, 0, host_bytes(block)) for block in blocks]
    assert [share.num_cpus for share in ClusterSite(nodes, 3).shares(blocks)] == [3, 3]
    gpus = ClusterSite([gpu_node(8, 2)], None, 0.5).shares([GPU_BLOCK])
    assert gpus == [block_share(GPU_BLOCK, [gpu_node(8, 2)], None, 0.5, num_blocks=1)]
    assert (gpus[0].num_cpus, gpus[0].num_gpus) == (2, 0.5)


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (Share(1, 0, 1000 * MIB), "1 CPU and 1,000.0 MiB"),
        (Share(2, 1, 1000 * MIB), "2 CPUs, 1 GPU and 1,000.0 MiB"),
        (Share(16, 0.25, MIB // 2), "16 CPUs, 0.25 GPU and 0.5 MiB"),
    ],
)
def test_a_share_can_be_read(share: Share, text: str) -> None:
    assert share.text == text


def test_blocks_are_cut_so_that_they_fill_the_devices() -> None:
    nodes = [cpu_node(2), cpu_node(1)]
    for site, run in (
        (ClusterSite(nodes), RUN),
        (ClusterSite(nodes, cpus_per_block=2), RUN),
        (ClusterSite(nodes), RunConfig(lanes_per_block=1)),
    ):
        expected = cut(
            [CPU_BLOCK],
            nodes,
            cpus_per_block=site.cpus_per_block,
            lanes_per_block=run.lanes_per_block,
        )
        assert site.cut([CPU_BLOCK], run) == expected
    sizes = [len(block.lanes) for block in ClusterSite(nodes).cut([CPU_BLOCK], RUN)]
    assert sizes == [2, 2, 2]
    shared = ClusterSite([gpu_node(8, 1)], gpus_per_block=0.5).cut([GPU_BLOCK], RUN)
    assert sum(len(block.lanes) for block in shared) == 6


# --- plans ----------------------------------------------------------------------------------------


def test_a_plan_is_of_the_blocks_and_the_largest_node() -> None:
    site = ClusterSite([cpu_node(2, 8 * GIB), cpu_node(1, 16 * GIB)])
    plan = site.plan([CPU_BLOCK], RUN, [], num_fixed=1, num_trained=3, standing_blocks=None)
    assert (plan.device, plan.available) == ("cpu", 16 * GIB)
    assert (plan.num_fixed, plan.num_trained) == (1, 3)
    site = ClusterSite([cpu_node(2), gpu_node(8, 1, 40 * GIB), gpu_node(8, 1, 80 * GIB)])
    plan = site.plan([GPU_BLOCK], RUN, [], num_fixed=0, num_trained=0, standing_blocks=None)
    assert (plan.device, plan.available) == ("cuda", 80 * GIB)
    empty = site.plan([], RUN, [], num_fixed=0, num_trained=9, standing_blocks=[])
    assert empty.blocks == () and empty.disk is not None and empty.disk.needed == 0


def test_a_block_that_fits_nowhere_is_refused_by_its_number() -> None:
    blocks = [part(CPU_BLOCK, 0, 1), part(CPU_BLOCK, 1, 6)]
    one = host_bytes(blocks[0])
    with pytest.raises(ValueError, match=r"^block 2 with 5 lanes .* --lanes_per_block 1") as caught:
        plan_of(ClusterSite([cpu_node(4, one)]), blocks)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"^block 1 asks for 8 CPUs"):
        plan_of(ClusterSite([cpu_node(4)], cpus_per_block=8), blocks)
    with pytest.raises(ValueError, match=r"^block 1 has no node"):
        plan_of(ClusterSite([]), blocks)


def test_a_plan_counts_what_blocks_need_that_train_at_the_same_time() -> None:
    blocks = [part(CPU_BLOCK, n, n + 1) for n in range(6)]
    for num_cpus, num_at_once in ((1, 1), (2, 2), (5, 5), (8, 6), (40, 6)):
        found = plan_of(ClusterSite([cpu_node(num_cpus)], 1), blocks)
        assert found is not None and found.num_at_once == num_at_once
        assert found.needed == run_disk_bytes(blocks, RUN, num_at_once=num_at_once)
    assert plan_of(ClusterSite([cpu_node(4)], has_store=True), blocks) is None


def test_blocks_that_go_together_are_counted_by_the_smallest() -> None:
    """Of one large block and many small ones, all the small ones can go at the same time."""
    site = ClusterSite([cpu_node(4, 8 * GIB)])
    shares = [Share(1, 0, 8 * GIB), *[Share(1, 0, GIB)] * 5]
    assert site.num_at_once(shares) == 4 and site.num_at_once(shares[:2]) == 2
    assert site.num_at_once([Share(1, 0, 100 * GIB)]) == site.num_at_once([]) == 1
    assert smallest_share([Share(1, 0.5, 30), Share(4, 0.25, 10)]) == Share(1, 0.25, 10)


def test_the_estimate_of_the_disk_is_the_most_of_all_orders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every set of blocks may train while every other one is finished or has not begun."""
    sizes = {1: (90, 10), 2: (70, 2), 3: (40, 30), 4: (85, 1)}
    disks = {n: BlockDisk(replay=a, tensors=0, final=b, records=7) for n, (a, b) in sizes.items()}
    monkeypatch.setattr(disk, "block_disk", lambda block, *_: disks[len(block.lanes)])
    blocks = [part(CPU_BLOCK, 0, n) for n in sizes]
    for num_at_once in (2, 3, 4, 9):
        most = max(
            sum(disks[n].training if n in chosen else disks[n].final * (n in ended) for n in disks)
            for count in range(min(num_at_once, 4) + 1)
            for chosen in itertools.combinations(disks, count)
            for ended in (set(disks) - set(chosen), set())
        )
        found = run_disk_bytes(blocks, RUN, num_at_once=num_at_once)
        assert found - disk._RUN_BYTES - 4 * 7 == most
    in_turn = run_disk_bytes(blocks, RUN) - disk._RUN_BYTES - 4 * 7
    assert in_turn == max(90, 10 + 70, 10 + 2 + 40, 10 + 2 + 30 + 85)


# --- what they really take ------------------------------------------------------------------------

OPTIONS = (
    f"--policy ANF-SAC --env {fake_env.ROWS_ENV_ID} --backend fake --num_seeds 4 --hidden 32x32 "
    "--batch_size 4 --noise_fraction 0.7 --topology_period 3 --start_timesteps 120 --layout csr "
    "--max_timesteps 24 --eval_freq 12 --eval_episodes 1 --device auto --plain --no_tensorboard "
    "--lanes_per_block 1 --checkpoint_minutes 1e-6"
)


def size_of(folder: Path) -> int:
    files = [Path(path) / name for path, _, names in os.walk(folder) for name in names]
    return sum(file.stat().st_size for file in files)


def study_at(site: ClusterSite, path: Path) -> Study:
    return parse_command_line([*OPTIONS.split(), "--run_dir", str(path)], site)


@pytest.mark.usefixtures("fast")
def test_blocks_that_train_at_the_same_time_write_no_more_than_was_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured whenever all workers wait for the driver, also between a checkpoint and its
    commit: there are never more files.
    """
    site, path = ClusterSite([cpu_node(4)]), tmp_path / "run"
    study, sizes = study_at(site, path), [0]
    assert study.plan.disk is not None and study.plan.disk.num_at_once == len(study.blocks) == 4
    measure = dict.fromkeys(range(1, 1000), lambda: sizes.append(size_of(path / "checkpoints")))
    with ThreadCrew(actions=measure) as crew:
        save_every(monkeypatch, 40)
        assert runner.train(study, RayTrainer(site, crew=crew)) == 0
    assert crew.most_at_once == 4 and len(sizes) > 40
    records = sum(block_disk(block, study.run).records for block in study.blocks)
    said = study.plan.disk.needed - disk._RUN_BYTES - records
    in_turn = run_disk_bytes(study.blocks, study.run) - disk._RUN_BYTES - records
    assert in_turn < max(sizes) <= said < 2 * max(sizes)
    # The records, too.
    tables = sum(file.stat().st_size for file in path.glob("*.csv"))
    assert tables <= records
