"""The comparison with other libraries: rates add up, rows are whole, errors are one line."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import bench_peers
import pytest
import result_rows


def words(text: str) -> list[str]:
    return text.split()


PEER = """
import sys
print("Using cpu device")
print("ready", flush=True)
for line in sys.stdin:
    seconds = float(line.split()[1])
    print(int(100 * seconds) + int(sys.argv[3]), seconds, flush=True)
"""


@pytest.fixture
def fake_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that say they made 100 steps a second, and a few more by their seed."""
    venv, script = tmp_path / "peers", tmp_path / "train_peer.py"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    (venv / "requirements.txt").write_text(bench_peers.REQUIREMENTS.read_text())
    script.write_text(PEER)
    monkeypatch.setattr(bench_peers, "VENV", venv)
    monkeypatch.setattr(bench_peers, "SCRIPT", script)
    monkeypatch.setattr(bench_peers, "_peer_versions", lambda python: "library 1.0")
    monkeypatch.setattr(result_rows, "RESULTS", tmp_path / "results")


def test_rates_of_all_processes_add_up() -> None:
    reports = [["100", "10.0"], ["220", "11.0"], ["0", "10.0"]]
    assert bench_peers.total_rate(reports) == pytest.approx(10 + 20)


def test_eight_agents_are_eight_processes_and_one_has_one_thread_or_all(
    fake_peers: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bench_peers.torch, "get_num_threads", lambda: 2)
    arguments = words("--peers sb3 --lanes 1 3 --rounds 2 --window_s 2 --json --record")
    assert bench_peers.main(arguments) == 0
    points = json.loads(capsys.readouterr().out)["points"]
    steps = [point for point in points if point["metric"] == "env_steps_per_s"]
    assert [(p["lanes"], p["processes"], p["threads_each"]) for p in steps] == [
        (1, 1, 1), (1, 1, 2), (3, 3, 1),
    ]  # fmt: skip
    # Seeds 0, 1, 2 make 200, 201 and 202 steps in 2 s.
    assert [p["p50"] for p in steps] == [100, 100, pytest.approx(301.5)]
    rows = result_rows.read("peers")
    assert len(rows) == len(points) and list(rows[0]) == bench_peers._columns()
    assert rows[0]["versions"] == "library 1.0"


def test_ours_trains_every_lane_in_this_process(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = words("--env Hopper-v3 --hidden 8x8 --batch_size 4 --replay_capacity 2000")
    monkeypatch.setattr(bench_peers, "OWN_FLAGS", small)
    arguments = words("--peers fastanf fastanf-dense --lanes 2 --rounds 1 --window_s 0.05")
    assert bench_peers.main(arguments) == 0
    text = capsys.readouterr().out
    assert "fastanf-dense" in text and "steps and updates per second" in text


def test_a_peer_that_ends_is_reported(fake_peers: None, capsys: pytest.CaptureFixture[str]) -> None:
    bench_peers.SCRIPT.write_text("raise ImportError('no such library')")
    with pytest.raises(SystemExit) as raised:
        bench_peers.main(["--peers", "sbx", "--lanes", "1"])
    captured = capsys.readouterr()
    assert raised.value.code == 2 and captured.err.count("\n") == 1
    assert "--peers sbx ended with exit code 1: ImportError: no such library" in captured.err


def test_an_installation_that_fails_is_reported_and_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Sequence[str]] = []

    def run(command: Sequence[str], **_: Any) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        fails = "pip" in command[0]
        errors = "WARNING: old\nERROR: No matching distribution\n" if fails else ""
        return subprocess.CompletedProcess(command, int(fails), "", errors)

    monkeypatch.setattr(bench_peers, "VENV", tmp_path)
    monkeypatch.setattr(bench_peers.subprocess, "run", run)
    for _ in range(2):
        with pytest.raises(ValueError, match=r"installed into .*: ERROR: No matching distribution"):
            bench_peers.install()
    assert len(calls) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--peers rllib", "--peers"),
        ("--lanes 0", "--lanes"),
        ("--window_s -1", "--window_s"),
        ("--policy SAC", "--policy"),
    ],
)
def test_bad_input_is_refused_in_one_line(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        bench_peers.main(arguments.split())
    captured = capsys.readouterr()
    assert raised.value.code == 2 and captured.err.count("\n") == 1 and message in captured.err
