"""The display of blocks that train at the same time: what is told of each, and of all together."""

import math

import pytest

from fastanf.progress import HEARTBEAT_S, BlockProgress, Progress
from tests.displayed import Clock, blocks_of, lines, live_progress, plain_progress, shown

FOUR = [f"SAC seed {seed}" for seed in range(4)]
EIGHT = [f"{policy} seed {seed}" for policy in ("ANF-SAC", "SAC") for seed in range(4)]


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 100 columns and 24 lines."""
    for name, value in {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)


# The live table.


def test_lane_shows_the_pace_the_time_and_the_phase_of_its_own_block() -> None:
    progress, _ = live_progress(FOUR)
    blocks = blocks_of(progress, 1)
    blocks[0].update(250, 50.0)
    blocks[1].update(900, 5.0)
    blocks[1].phase("saving")
    blocks[2].phase("building")
    table = [" ".join(line.split()) for line in shown(progress)]
    assert table[1:] == [
        "0 SAC seed 0 250 1,000 - 50.0 15 s",
        "1 SAC seed 1 900 1,000 - 5.0 saving",
        "2 SAC seed 2 0 1,000 - building",
        "3 SAC seed 3 0 1,000 - waiting",
        # 750 + 100 + 2 x 1,000 steps, 55 of them a second
        "29% of all steps, 52 s left",
        "3 of 4 blocks at work, 1 waiting",
    ]


def test_blocks_are_counted_by_what_they_do() -> None:
    progress, _ = live_progress(EIGHT)
    blocks = blocks_of(progress, 1)
    for block in blocks[:4]:
        block.update(1000, 50.0)
        block.leave()
    blocks[4].stopped(4, "loss is nan")
    for block in blocks[5:7]:
        block.update(10, 50.0)
    assert shown(progress)[-1] == "2 of 8 blocks at work, 5 finished, 1 waiting"
    blocks[7].update(10, 50.0)
    assert shown(progress)[-1] == "3 of 8 blocks at work, 5 finished"


def test_machine_stands_beside_the_lanes_that_it_trains() -> None:
    progress, _ = live_progress(["SAC seed 0", "SAC seed 1"])
    first, second = progress.block(range(1), "[b]north"), progress.block(range(1, 2), "south")
    first.update(250, 50.0)
    second.update(250, 50.0)
    text = shown(progress)
    assert text[0].split()[-1] == "on"
    assert text[1].split()[-1] == "[b]north" and text[2].split()[-1] == "south"
    second.leave()
    assert shown(progress)[2].split()[-1] == "waiting"


def test_lane_that_stopped_has_no_phase() -> None:
    progress, _ = live_progress(FOUR)
    first, second = blocks_of(progress, 2)
    first.update(10, 1.0)
    second.update(10, 1.0)
    first.stopped(1, "loss is nan")
    first.phase("evaluating")
    text = shown(progress)
    assert text[1].split()[-1] == "evaluating" and text[2].split()[-1] == "stopped"


def test_groups_at_work_come_first_where_not_all_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "7")
    progress, _ = live_progress([f"task{k} seed 0" for k in range(9)])
    blocks = blocks_of(progress, 1)
    blocks[0].restore(0, 1000, 5.0)
    blocks[4].update(250, 50.0)
    blocks[7].update(250, 50.0)
    groups = [line.split(",")[0].strip() for line in shown(progress)[1:4]]
    assert groups == ["task4", "task7", "task1"]


# Time left.


def told_for_100_s(progress: Progress, clock: Clock, steps: list[int]) -> list[BlockProgress]:
    """Blocks of one lane, each this many steps further after 100 s; further lanes wait."""
    blocks = [progress.block(range(lane, lane + 1)) for lane in range(len(progress.labels))]
    for block in blocks[: len(steps)]:
        block.update(0, 99.0)
    clock.now += 100
    for block, step in zip(blocks, steps, strict=False):
        block.update(step, 99.0)
    return blocks


def test_run_ends_with_its_longest_block_where_nothing_waits() -> None:
    progress, clock = plain_progress(FOUR)
    told_for_100_s(progress, clock, [100, 200, 400, 500])  # 900, 400, 150 and 100 s left
    assert progress.seconds_left() == (900.0, 900.0)


def test_what_waits_is_spread_over_the_blocks_at_work() -> None:
    progress, clock = plain_progress([f"SAC seed {k}" for k in range(8)])
    told_for_100_s(progress, clock, [200, 300])  # 5 lane steps/s of all
    assert progress.seconds_left() == (400.0, (800.0 + 700.0 + 6 * 1000.0) / 5)


def test_run_is_never_over_before_its_longest_block() -> None:
    progress, clock = plain_progress(FOUR[:3])
    told_for_100_s(progress, clock, [20, 800])  # (980 + 200 + 1,000) / 8.2 is less than 4,900
    assert progress.seconds_left() == (4900.0, 4900.0)


def test_block_without_a_pace_counts_as_waiting() -> None:
    progress, clock = plain_progress(FOUR[:3])
    blocks = told_for_100_s(progress, clock, [200])
    blocks[1].update(1, math.nan)
    blocks[2].phase("building")
    assert progress.seconds_left() == (400.0, (800.0 + 999.0 + 1000.0) / 2)
    blocks[0].leave()
    seconds = progress.seconds_left()
    assert all(math.isnan(value) for value in seconds)


def test_last_pace_stands_while_no_block_trains() -> None:
    progress, clock = plain_progress(FOUR[:2])
    blocks = told_for_100_s(progress, clock, [200])
    blocks[0].leave()
    clock.now += 50
    block_s, run_s = progress.seconds_left()
    assert math.isnan(block_s) and run_s == (800.0 + 1000.0) / 2


# Plain lines.


def test_phase_names_its_lanes_once_where_several_blocks_work() -> None:
    progress, _ = plain_progress(FOUR)
    first, second = blocks_of(progress, 2)
    with progress:
        first.phase("building")
        for _ in range(2):
            for block in (first, second):
                block.phase("compiling kernels")
                block.phase("")
        second.leave()
        first.phase("saving")
    assert lines(progress) == [
        "building",
        "compiling kernels",
        "lanes 2-3: compiling kernels",
        "saving",
    ]


def test_block_on_a_machine_is_always_named() -> None:
    progress, _ = plain_progress(FOUR)
    block = progress.block(range(2, 3), "north")
    with progress:
        block.phase("building")
        block.update(10, 1.0)
        block.note("the simulators give other numbers")
        progress.note("about the run")
    assert lines(progress) == [
        "lane 2 on north: building",
        "training lanes 2 (1 of 4) on north",
        "lane 2 on north: the simulators give other numbers",
        "about the run",
    ]


def test_note_of_a_block_names_its_lanes_where_another_works() -> None:
    progress, _ = plain_progress(FOUR)
    first, second = blocks_of(progress, 2)
    with progress:
        first.note("alone")
        second.phase("building")
        first.note("before it came to work")
        progress.note("about the run")
    assert lines(progress)[0] == "alone"
    assert lines(progress)[2:] == ["lanes 0-1: before it came to work", "about the run"]


def test_group_has_a_line_in_each_block() -> None:
    progress, _ = plain_progress([f"SAC seed {k}" for k in range(4)])
    first, second = blocks_of(progress, 2)
    with progress:
        first.update(500, 10.0)
        second.update(400, 20.0)
        first.evaluated(0, 500, 100.0, 5.0)
        second.evaluated(2, 400, 10.0, 5.0)
        second.update(401, 20.0)  # says what is there of its own block
        first.evaluated(1, 500, 300.0, 5.0)
    assert [line.split("  ")[:5] for line in lines(progress)[2:]] == [
        ["step 400/1,000", "SAC", "1 lane", "return 10.0 +- 5.0 (episodes)", "20.0 steps/s"],
        ["step 500/1,000", "SAC", "2 lanes", "return 200 (lanes 100 to 300)", "10.0 steps/s"],
    ]


def test_run_has_one_sign_of_life() -> None:
    progress, clock = plain_progress(EIGHT)
    first, second, _, last = blocks_of(progress, 2)
    last.restore(6, 1000, 1.0)
    last.restore(7, 1000, 1.0)
    with progress:
        first.update(0, 1.0)
        second.update(0, 2.0)
        said = len(lines(progress))
        for second_s in range(1, int(3.5 * HEARTBEAT_S)):
            clock.now += 1
            first.update(second_s, 1.0)
            second.update(2 * second_s, 2.0)
        second.stopped(2, "loss is nan")
        clock.now += HEARTBEAT_S
        first.update(300, 1.0)
    said_lines = lines(progress)[said:]
    assert len(said_lines) == 5
    # 2 x 30 + 2 x 58 + 2,000 of 8,000 steps; 2 + 2 x 58 / 30 of the 5,824 others each second
    assert said_lines[0] == (
        "27% of all steps  2 of 4 blocks at work, 1 finished, 1 waiting"
        "  6.0 lane steps/s  16 min 33 s left"
    )
    assert "  4.0 lane steps/s  " in said_lines[-1]  # a stopped lane takes no steps


def test_who_waits_can_ask_for_the_sign_of_life() -> None:
    progress, clock = plain_progress(FOUR)
    first, second = blocks_of(progress, 2)
    with progress:
        first.phase("building")
        second.phase("building")
        progress.refresh_if_due()
        assert len(lines(progress)) == 2
        clock.now += HEARTBEAT_S
        progress.refresh_if_due()
        progress.refresh_if_due()
    assert lines(progress)[2:] == ["0% of all steps  2 of 2 blocks at work  ? left"]


# Blocks that come and go.


def test_block_that_comes_back_goes_on_from_the_step_it_says() -> None:
    progress, clock = plain_progress(FOUR)
    first, second = blocks_of(progress, 2)
    with progress:
        for block in (first, second):
            block.update(0, 1.0)
        clock.now += 100
        first.update(800, 8.0)
        second.update(100, 1.0)
        first.leave()
        assert progress.steps[:2] == [800, 800]
        assert first.doing == "" and not first.is_at_work
        clock.now += 100
        assert progress.block(range(2), "south") is first and first.name == "south"
        first.update(400, 99.0)
        assert first.is_at_work
        clock.now += 100
        first.update(500, 99.0)
        second.update(300, 1.0)
        assert progress.seconds_left() == (700.0, 700.0)
        assert progress.steps == [500, 500, 300, 300]
    said = [line for line in lines(progress) if line.startswith("training")]
    assert said == [
        "training lanes 0-1 (2 of 4)",
        "training lanes 2-3 (2 of 4)",
        "training lanes 0-1 (2 of 4) on south",
    ]


def test_phases_of_a_block_that_comes_back_are_said_again() -> None:
    progress, _ = plain_progress(FOUR)
    block = progress.block(range(4))
    with progress:
        block.phase("building")
        block.leave()
        block.phase("building")
    assert lines(progress) == ["building", "building"]


@pytest.mark.parametrize("is_away", [True, False])
def test_lane_that_stopped_after_the_step_has_not_stopped_yet(is_away: bool) -> None:
    progress, _ = plain_progress(FOUR)
    block = progress.block(range(4))
    with progress:
        block.update(300, 1.0)
        block.stopped(1, "loss is nan")
        block.update(600, 1.0)
        block.stopped(2, "return is inf")
        if is_away:
            block.leave()
        block.update(400, 1.0)
    assert progress.steps == [400, 300, 400, 400]
    assert progress.stopped_because == {1: "loss is nan"}


def test_leaving_without_having_come_changes_nothing() -> None:
    progress, _ = plain_progress(FOUR)
    first, second = blocks_of(progress, 2)
    with progress:
        first.leave()
        first.phase("")
        assert not progress.at_work
        second.update(10, 1.0)
        first.leave()
        assert list(progress.at_work) == [second]
    assert progress.steps == [0, 0, 10, 10]


def test_leaving_says_the_returns_that_wait() -> None:
    progress, _ = plain_progress(FOUR)
    block = progress.block(range(2))
    with progress:
        block.update(500, 1.0)
        block.evaluated(0, 500, 7.0, 1.0)
        block.leave()
        assert "return 7.0" in lines(progress)[-1]


@pytest.mark.parametrize("lanes", [range(0), range(-1, 2), range(3, 5)])
def test_block_of_lanes_that_are_not_there_is_refused(lanes: range) -> None:
    progress, _ = plain_progress(FOUR)
    with pytest.raises(ValueError, match="give some of lanes 0-3"):
        progress.block(lanes)


def test_lane_is_in_one_block() -> None:
    progress, _ = plain_progress(FOUR)
    progress.block(range(2))
    with pytest.raises(ValueError, match="lane 1 is in that of lanes 0-1"):
        progress.block(range(1, 4))
    assert len(progress.blocks) == 1
    progress.block(range(2, 4))
