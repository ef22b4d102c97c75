"""Memory that one lane's replay of a million transitions really takes, by the process's resident
set.

    python profiling/bench_replay.py --record

The ring is written once from end to end before the reading; `replay_bytes` is the formula that the
plan uses.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import result_rows

import envs
from fastanf.replay import LaneReplay, replay_bytes

CAPACITY = 1_000_000


def main() -> int:
    """Measure every task.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--record", action="store_true", help="append rows to replay.csv")
    parser.add_argument("--task", help="print the row of this task alone, as JSON")
    own = parser.parse_args()
    if own.task:
        print(json.dumps(_measure(own.task)))
        return 0
    tasks = [env_id for env_id in envs.known_env_ids("envpool") if env_id.endswith("-v3")]
    # A process of its own for each, so that none reuses pages that another has freed.
    rows = [json.loads(_output_of(env_id)) for env_id in tasks]
    for row in rows:
        measured, formula = row["value"] / 1e6, row["formula"] / 1e6
        print(f"{row['env']:<16} {measured:8.1f} MB resident, formula {formula:.1f} MB")
    if own.record:
        result_rows.append("replay", rows)
    return 0


def _output_of(env_id: str) -> str:
    command = [sys.executable, __file__, "--task", env_id]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def _measure(env_id: str) -> dict[str, Any]:
    spec = envs.spec(env_id)
    before = _resident_bytes()
    replay = LaneReplay(1, CAPACITY, spec.num_features, spec.num_actions)
    for ring in (replay.obs, replay.action, replay.reward, replay.not_terminated):
        ring.fill_(1)
    replay.final_slot.fill_(-1)
    return {
        "bench": "replay",
        "env": env_id,
        "capacity": CAPACITY,
        "metric": "resident_bytes_per_lane",
        "value": _resident_bytes() - before,
        "formula": replay_bytes(CAPACITY, spec.num_features, spec.num_actions),
        "unit": "B",
        **result_rows.conditions(),
    }


def _resident_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("the resident set can be read on Linux only (/proc/self/status)")


if __name__ == "__main__":
    sys.exit(main())
