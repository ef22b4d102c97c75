"""How much work it is to show a thousand blocks at once: counted, not timed."""

import io
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from fastanf.progress import REDRAW_S, BlockProgress, Progress
from tests.displayed import Clock, blocks_of, lines, live_progress, shown


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal of 100 columns and 24 lines."""
    for name, value in {"TERM": "xterm", "COLUMNS": "100", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)


def thousand_blocks(num_blocks: int) -> tuple[Progress, list[BlockProgress]]:
    """Blocks of two lanes, each a group; three of four are at work, and one of those in a phase."""
    labels = [f"task{lane // 2} seed {lane % 2}" for lane in range(2 * num_blocks)]
    progress, clock = live_progress(labels)
    blocks = blocks_of(progress, 2)
    for index, block in enumerate(blocks):
        if index % 4:
            block.update(10, 50.0)
        if index % 4 == 3:
            block.phase("saving")
    clock.now += 10
    return progress, blocks


def bytecodes(function: Callable[[], Any]) -> int:
    """How many instructions of the display's own code a call takes."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if "progress" not in frame.f_code.co_filename.rsplit("/", 1)[-1]:
            return None
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count


def test_thousand_blocks_fit_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "30")
    progress, _ = thousand_blocks(1000)
    text = shown(progress)
    assert len(text) == 30 - 1
    assert all("mean of 2" in line for line in text[1:-2])
    assert text[1].split()[0] == "task1,"  # at work
    assert text[-1] == "750 of 1000 blocks at work, 250 waiting"


def test_work_of_a_frame_grows_with_the_lanes_and_no_faster() -> None:
    few, many = (bytecodes(thousand_blocks(num_blocks)[0].render) for num_blocks in (250, 1000))
    assert few > 250
    assert many < 4.2 * few


def test_work_of_an_update_is_the_same_among_many_blocks() -> None:
    def work(num_blocks: int) -> int:
        progress, blocks = thousand_blocks(num_blocks)
        with progress:
            progress.refresh_if_due()
            return bytecodes(lambda: blocks[1].update(11, 50.0))

    assert 10 < work(1000) == work(4) < 100


def test_lines_of_many_blocks_share_their_estimate() -> None:
    def work(num_blocks: int) -> int:
        labels = [f"SAC seed {lane}" for lane in range(2 * num_blocks)]
        progress = Progress(labels, 1000, plain=True, stream=io.StringIO(), clock=Clock())
        blocks = blocks_of(progress, 2)

        def evaluate() -> None:
            for block in blocks:
                for lane in block.lanes:
                    block.evaluated(lane, 10, 5.0, 1.0)

        with progress:
            for block in blocks:
                block.update(10, 1.0)
            count = bytecodes(evaluate)
        assert sum("2 lanes  return 5.0" in line for line in lines(progress)) == num_blocks
        return count

    assert work(400) < 4.2 * work(100)


def test_telling_about_many_blocks_draws_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    progress, clock = live_progress([f"SAC seed {lane}" for lane in range(40)])
    drawn: list[float] = []
    render = progress.render
    monkeypatch.setattr(progress, "render", lambda: drawn.append(clock.now) or render())
    blocks = blocks_of(progress, 2)
    with progress:
        for block in blocks:
            block.update(1, 1.0)
        drawn.clear()
        for block in blocks:
            block.phase("evaluating")
            for lane in block.lanes:
                block.evaluated(lane, 1, 5.0, 1.0)
            block.phase("")
            block.update(2, 1.0)
        blocks[0].stopped(0, "loss is nan")
        blocks[1].leave()
        assert drawn == []
        clock.now += REDRAW_S
        progress.refresh_if_due()
        assert drawn == [clock.now]


def test_lanes_of_a_large_block_are_evaluated_in_linear_work() -> None:
    def work(num_lanes: int) -> int:
        labels = [f"SAC seed {lane}" for lane in range(num_lanes)]
        progress = Progress(labels, 1000, plain=True, stream=io.StringIO(), clock=Clock())
        block = progress.block(range(num_lanes))

        def evaluate() -> None:
            for lane in range(num_lanes):
                block.evaluated(lane, 10, 5.0, 1.0)

        with progress:
            block.update(10, 1.0)
            count = bytecodes(evaluate)
        assert f"{num_lanes} lanes  return 5.0" in lines(progress)[0]
        return count

    assert work(800) < 4.2 * work(200)
