"""Blocks in parts that fit: how many, how even, and that no lane's numbers depend on it."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf import memory, runner, splitting
from fastanf.cli import parse_command_line
from fastanf.grouping import Block, make_blocks
from fastanf.memory import MIB, block_memory
from fastanf.plan import make_plan
from fastanf.presets import expand
from fastanf.splitting import split_blocks
from tests import fake_env

FREE = 2**40
"""Bytes, more than any block needs."""
LANES = expand(
    ["ANF-SAC", "SAC"], {"learning_rate": [1e-3, 1e-4]}, 3, {"layout": "masked"}
).lanes  # one block of 12


def sizes(blocks: tuple[Block, ...]) -> list[int]:
    return [len(block.lanes) for block in blocks]


def test_blocks_that_fit_stay_whole() -> None:
    blocks = make_blocks(LANES)
    assert split_blocks(blocks, block_memory(blocks[0]).total) == blocks
    assert split_blocks(blocks, FREE, lanes_per_block=12) == blocks
    assert [block.split for block in blocks] == [""]


def test_a_block_that_does_not_fit_is_split_into_the_fewest_even_parts() -> None:
    (block,) = make_blocks(LANES)
    five = block_memory(Block(block.indices[:5], block.lanes[:5])).total
    parts = split_blocks([block], five)
    assert sizes(parts) == [4, 4, 4]
    assert all(block_memory(part).total <= five for part in parts)
    assert parts[2].split.startswith("part 3 of 3: 12 lanes together need ")
    assert parts[2].split.endswith(f", and {memory.mib_text(five)} are free on cpu")


@pytest.mark.parametrize(
    ("lanes_per_block", "expected"),
    [(12, [12]), (11, [6, 6]), (5, [4, 4, 4]), (7, [6, 6]), (1, [1] * 12)],
)
def test_blocks_hold_at_most_the_lanes_asked_for(lanes_per_block: int, expected: list[int]) -> None:
    parts = split_blocks(make_blocks(LANES), FREE, lanes_per_block)
    assert sizes(parts) == expected
    if len(parts) > 1:
        assert parts[0].split == (
            f"part 1 of {len(parts)}: at most {lanes_per_block} lanes in a block "
            "(--lanes_per_block)"
        )


@settings(max_examples=30, deadline=None)
@given(num_lanes=st.integers(1, 12), lanes_per_block=st.integers(0, 14), share=st.floats(0.05, 1.2))
def test_parts_are_the_lanes_in_their_order_even_and_no_more_than_needed(
    num_lanes: int, lanes_per_block: int, share: float
) -> None:
    lanes = LANES[:num_lanes]
    (block,) = make_blocks(lanes)
    available = int(share * block_memory(block).total)
    parts = split_blocks([block], available, lanes_per_block)
    assert tuple(itertools.chain.from_iterable(part.lanes for part in parts)) == lanes
    assert tuple(itertools.chain.from_iterable(p.indices for p in parts)) == tuple(range(num_lanes))
    assert max(sizes(parts)) - min(sizes(parts)) <= 1
    assert not lanes_per_block or max(sizes(parts)) <= lanes_per_block
    single = max(block_memory(part).total for part in splitting._even_parts(block, num_lanes))
    if single > available:
        assert len(parts) == num_lanes
        return
    assert all(block_memory(part).total <= available for part in parts)
    fewer = len(parts) - 1
    if fewer >= max(1, -(-num_lanes // (lanes_per_block or num_lanes))):
        larger = splitting._even_parts(block, fewer)
        assert any(block_memory(part).total > available for part in larger)


def test_lanes_that_do_not_fit_alone_are_refused_one_by_one() -> None:
    blocks = split_blocks(make_blocks(LANES[:2]), 20 * MIB)
    assert sizes(blocks) == [1, 1]
    with pytest.raises(ValueError, match=r"1 lane in block 1 needs more memory than the 20\.0 MiB"):
        make_plan(blocks, "cpu", 20 * MIB).check_memory()


def test_the_plan_says_why_a_block_is_a_part() -> None:
    blocks = split_blocks(make_blocks(LANES), FREE, 6)
    text = make_plan(blocks, "cpu", FREE).text()
    assert text.startswith("plan: 12 lanes in 2 blocks\n")
    assert "\n  part 2 of 2: at most 6 lanes in a block (--lanes_per_block)\n" in text


# --- trainings ------------------------------------------------------------------------------------

OPTIONS = (
    f"--policy SAC ANF-SAC --num_seeds 2 --env {fake_env.ROWS_ENV_ID} --backend fake --hidden 8 "
    "--batch_size 4 --noise_fraction 0.7 --topology_period 3 --max_timesteps 12 "
    "--start_timesteps 9 --eval_freq 5 --eval_episodes 2 --no_tensorboard --device cpu --plain "
    "--layout masked"
)


def rows(path: Path, name: str) -> list[dict[str, str]]:
    untimed = ("wall_s", "env_steps_per_s", "lane_updates_per_s")
    with open(path / name, newline="") as file:
        found = [{k: v for k, v in row.items() if k not in untimed} for row in csv.DictReader(file)]
    return sorted(found, key=lambda row: (int(row["lane"]), int(row.get("step", 0))))


def test_a_lane_trains_to_the_same_bits_in_any_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_env.register(monkeypatch)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())

    def train(name: str, more: str = "") -> Path:
        study = parse_command_line([*f"{OPTIONS} {more} --run_dir".split(), str(tmp_path / name)])
        assert runner.train(study) == 0
        return tmp_path / name

    whole = train("whole")
    (block,) = parse_command_line(OPTIONS.split()).blocks
    asked = train("asked", "--lanes_per_block 3")
    three = block_memory(Block(block.indices[:3], block.lanes[:3])).total
    monkeypatch.setattr(memory, "available_bytes", lambda device: three)
    split = train("split")
    for path in (asked, split):
        assert [lane["block"] for lane in rows(path, "lanes.csv")] == ["0", "0", "1", "1"]
        for name in ("eval.csv", "train.csv", "topology.csv", "features.csv"):
            assert rows(path, name) == rows(whole, name)
