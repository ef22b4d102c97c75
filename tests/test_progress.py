"""The display: what its lines say, when it keeps still, and what fits on a terminal."""

import io
import math

import pytest

from fastanf.progress import HEARTBEAT_S, Progress, duration, lane_label
from tests.displayed import LABELS, Clock, InTurn, Terminal, lines, plain_progress, shown


def test_label_has_policy_seed_and_variant() -> None:
    assert lane_label({"policy": "SAC", "seed": 3, "variant": "a=1"}) == "SAC seed 3 a=1"
    assert lane_label({"policy": "SAC", "seed": 3, "variant": ""}) == "SAC seed 3"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(45.2, "45 s"), (200, "3 min 20 s"), (7500, "2 h 05 min"), (math.nan, "?"), (-1, "0 s")],
)
def test_duration_reads_as_time(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_stream_that_is_no_terminal_gets_plain_lines() -> None:
    assert Progress(LABELS, 10, stream=io.StringIO()).plain
    assert not Progress(LABELS, 10, plain=False, stream=io.StringIO()).plain


def test_terminal_gets_the_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert not Progress(LABELS, 10, stream=Terminal()).plain
    monkeypatch.setenv("TERM", "dumb")
    assert Progress(LABELS, 10, stream=Terminal()).plain


def test_evaluation_gives_one_line_a_group() -> None:
    progress, clock = plain_progress()
    block = progress.block(range(4))
    with progress:
        block.update(0, 50.0)
        clock.now += 10
        block.update(500, 50.0)
        for lane, value in enumerate((200.0, 400.0, 10.0, 20.0)):
            block.evaluated(lane, 500, value, 5.0)
        block.update(501, 50.0)
    assert lines(progress) == [
        "step 500/1,000  ANF-SAC  2 lanes  return 300 (lanes 200 to 400)  50.0 steps/s  10 s left",
        "step 500/1,000  SAC  2 lanes  return 15.0 (lanes 10.0 to 20.0)  50.0 steps/s  10 s left",
    ]


def test_incomplete_group_is_reported_at_the_next_update_and_at_the_end() -> None:
    progress, _ = plain_progress()
    block = progress.block(range(4))
    with progress:
        block.update(500, 50.0)
        block.evaluated(0, 500, 200.0, 5.0)
        assert lines(progress) == []
        block.update(501, 50.0)
        assert len(lines(progress)) == 1
        assert "return 200 +- 5.0 (episodes)" in lines(progress)[0]
        block.evaluated(2, 1000, math.nan, 5.0)
    assert len(lines(progress)) == 2
    assert "return -" in lines(progress)[1]


def test_sign_of_life_comes_every_half_minute_and_no_sooner() -> None:
    progress, clock = plain_progress()
    block = progress.block(range(4))
    with progress:
        for step in range(int(3.5 * HEARTBEAT_S)):
            block.update(step, 1.0)
            clock.now += 1
    assert len(lines(progress)) == 3
    assert lines(progress)[0].startswith("step 30/1,000  4 lanes  1.0 steps/s  16 min 10 s left")


def test_phase_is_said_once_a_block() -> None:
    progress, _ = plain_progress()
    block = progress.block(range(4))
    with progress:
        for _ in range(3):
            block.phase("evaluating")
            block.phase("")
    assert lines(progress) == ["evaluating"]


def test_change_of_block_names_its_lanes() -> None:
    progress, _ = plain_progress()
    told = InTurn(progress)
    with progress:
        told.update(range(2), 0, 1.0)
        told.update(range(2), 1000, 1.0)
        told.update(range(2, 4), 0, 1.0)
        assert progress.steps == [1000, 1000, 0, 0]
    assert lines(progress) == ["training lanes 0-1 (2 of 4)", "training lanes 2-3 (2 of 4)"]


def test_time_left_counts_the_blocks_that_wait() -> None:
    progress, clock = plain_progress()
    told = InTurn(progress)
    with progress:
        told.update(range(1), 0, 99.0)
        clock.now += 100  # 100 steps in 100 s, whatever the given speed says
        told.update(range(1), 100, 99.0)
        assert progress.seconds_left() == (900.0, 900.0 + 3 * 1000.0)
        progress.block(range(3, 4)).stopped(3, "loss is nan")
        assert progress.seconds_left() == (900.0, 900.0 + 2 * 1000.0)
        progress.block(range(2, 3)).restore(2, 1000, 5.0)
        assert progress.seconds_left() == (900.0, 900.0 + 1000.0)
        told.update(range(1, 2), 0, 10.0)
        assert progress.seconds_left()[0] == 100.0  # no pace measured yet: the given one


def test_stopped_lane_is_named_with_its_cause() -> None:
    progress, _ = plain_progress()
    block = progress.block(range(4))
    with progress:
        block.update(123, 1.0)
        block.stopped(1, "critic loss is nan")
        block.update(200, 1.0)
    assert lines(progress) == [
        "lane 1 (ANF-SAC seed 1) stopped at step 123: critic loss is nan",
    ]
    assert progress.steps == [200, 123, 200, 200]


def test_block_whose_lanes_have_all_stopped_has_no_time_left() -> None:
    progress, clock = plain_progress()
    told = InTurn(progress)
    with progress:
        told.update(range(2), 0, 1.0)
        clock.now += 100
        told.update(range(2), 100, 1.0)
        progress.block(range(2)).stopped(0, "critic loss is nan")
        assert progress.seconds_left() == (900.0, 900.0 + 2 * 500.0)
        clock.now += 100
        told.update(range(2), 200, 1.0)
        progress.block(range(2)).stopped(1, "return is inf")
        assert progress.seconds_left() == (0.0, 2 * 500.0)
        told.update(range(2, 4), 0, 1.0)
        assert progress.steps == [100, 200, 0, 0]
        clock.now += HEARTBEAT_S
        told.update(range(2, 4), 30, 1.0)
    assert lines(progress) == [
        "training lanes 0-1 (2 of 4)",
        "step 100/1,000  2 lanes  1.0 steps/s  31 min 40 s left",
        "lane 0 (ANF-SAC seed 0) stopped at step 100: critic loss is nan",
        "step 200/1,000  1 lane  1.0 steps/s  30 min 00 s left",
        "lane 1 (ANF-SAC seed 1) stopped at step 200: return is inf",
        "training lanes 2-3 (2 of 4)",
        "step 30/1,000  2 lanes  1.0 steps/s  16 min 10 s left",
    ]


def test_stop_is_no_sign_of_life() -> None:
    progress, clock = plain_progress()
    block = progress.block(range(4))
    with progress:
        block.update(1, 1.0)
        block.stopped(1, "critic loss is nan")
        clock.now += HEARTBEAT_S - 1
        block.update(2, 1.0)
        assert len(lines(progress)) == 1


def test_evaluation_waits_for_no_stopped_lane() -> None:
    progress, _ = plain_progress()
    block = progress.block(range(4))
    with progress:
        block.update(500, 50.0)
        block.stopped(1, "return is inf")
        block.evaluated(0, 500, 200.0, 5.0)
        assert "ANF-SAC  1 lane  return 200" in lines(progress)[-1]


def test_resumed_run_knows_its_stopped_lanes_without_a_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    progress, _ = plain_progress()
    block = progress.block(range(4))
    block.restore(1, 500, 7.0)
    block.restore_stopped(1, 640, "critic loss is nan")
    with progress:
        block.update(700, 1.0)
    assert lines(progress) == [] and progress.steps == [700, 640, 700, 700]
    monkeypatch.setenv("COLUMNS", "100")
    text = shown(progress)
    assert " ".join(text[2].split()) == "1 ANF-SAC seed 1 640 1,000 7.0 stopped"
    # 3 x 700 + 640 of 3 x 1,000 + 640 steps
    assert text[5].split()[0] == "75%"


def test_stop_leaves_a_line_above_the_live_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    progress = Progress(["SAC seed 0 hidden=[8]"], 1000, plain=False, stream=Terminal())
    block = progress.block(range(1))
    with progress:
        block.update(10, 1.0)
        block.stopped(0, "critic loss is nan")
    assert isinstance(progress.stream, Terminal)
    stopped = "lane 0 (SAC seed 0 hidden=[8]) stopped at step 10: critic loss is nan"
    assert stopped in progress.stream.getvalue()


def test_closed_output_does_not_end_the_training() -> None:
    progress, _ = plain_progress()
    progress.stream.close()
    block = progress.block(range(2))
    with progress:
        block.phase("random start")
        block.update(5, 1.0)
    assert progress.steps == [5, 5, 0, 0]


def test_update_draws_at_most_four_times_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = Clock(), []
    progress = Progress(LABELS, 1000, plain=False, stream=Terminal(), clock=clock)
    render = progress.render
    monkeypatch.setattr(progress, "render", lambda: drawn.append(clock.now) or render())
    block = progress.block(range(4))
    with progress:
        for step in range(1000):  # ten seconds
            block.update(step, 100.0)
            clock.now += 0.01
    assert 30 <= len(drawn) <= 42  # 4 Hz over 10 s, and the last one


def rendered(num_lanes: int, height: int, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("LINES", str(height))
    monkeypatch.setenv("COLUMNS", "100")
    labels = [f"{('ANF-SAC', 'SAC')[lane % 2]} seed {lane}" for lane in range(num_lanes)]
    progress = Progress(labels, 1000, plain=False, stream=Terminal(), clock=Clock())
    block = progress.block(range(2, num_lanes))
    block.update(250, 50.0)
    block.evaluated(2, 250, 1234.0, 5.0)
    return shown(progress)


def test_table_has_one_line_a_lane_where_they_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    text = rendered(4, 24, monkeypatch)
    assert len(text) == 1 + 4 + 2
    assert text[1].split()[-1] == "waiting"
    assert " ".join(text[3].split()) == "2 ANF-SAC seed 2 250 1,000 1,234 50.0 15 s"
    assert text[5].strip() == "12% of all steps, 35 s left"


def test_summary_of_a_group_leaves_out_its_stopped_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "8")
    monkeypatch.setenv("COLUMNS", "100")
    progress = Progress([f"SAC seed {k}" for k in range(9)], 1000, plain=False, stream=Terminal())
    block = progress.block(range(9))
    block.update(250, 50.0)
    for lane in range(9):
        block.evaluated(lane, 250, 100.0 * lane, 5.0)
    block.stopped(0, "critic loss is nan")
    text = shown(progress)
    assert any("SAC, mean of 8, 1 stopped" in line and "450" in line for line in text)
    assert text[1].split()[0] == "1"  # lanes at work come before a stopped one


def test_table_of_many_lanes_fits_and_ends_with_a_line_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    text = rendered(40, 12, monkeypatch)
    assert len(text) <= 11
    assert text[1].split()[0] == "2"  # lanes at work come first
    assert any("ANF-SAC, mean of 20" in line and "1,234" in line for line in text)
    assert any(line.strip().startswith("SAC, mean of 20") for line in text)
