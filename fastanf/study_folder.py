"""The folder of a study: the lanes that are in it already, and those of the study that are not.

Lanes are compared by every setting that makes a difference to them. A study grows: lanes that are
there stay what they are, with their numbers and blocks, and further ones come behind them.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastanf.checkpoint import block_path, newest_checkpoint
from fastanf.config import OPTIONS, TrainConfig
from fastanf.lane_records import blocks_from_rows
from fastanf.presets import lane_identity
from fastanf.records import read_manifest
from fastanf.rows import read_lanes
from fastanf.run_manifest import check_lanes, run_settings
from fastanf.settings import RunConfig
from fastanf.study import StudySpec


@dataclass(frozen=True)
class Standing:
    """What the folder of a study holds."""

    path: str
    manifest: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    """Of lanes.csv."""
    blocks: tuple[tuple[TrainConfig, ...], ...]
    """The lanes, in the order of their numbers."""
    are_finished: tuple[bool, ...]
    """Whether each block was trained to its end."""

    @property
    def run(self) -> RunConfig:
        """Settings of the last command."""
        return run_settings(self.manifest)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do for the lanes that are there."""
        return all(self.are_finished) and self.manifest["status"] == "finished"

    @property
    def num_trained(self) -> int:
        """Lanes that were trained to their end."""
        pairs = zip(self.blocks, self.are_finished, strict=True)
        return sum(len(block) for block, is_finished in pairs if is_finished)

    @property
    def unfinished(self) -> tuple[tuple[TrainConfig, ...], ...]:
        """Blocks that are still to be trained, or to be trained to their end."""
        pairs = zip(self.blocks, self.are_finished, strict=True)
        return tuple(block for block, is_finished in pairs if not is_finished)


def read_standing(path: str, name: str) -> Standing:
    """What is there of the study of that name.

    Raises:
        ValueError: the folder is of no study or of another one, or cannot be read.
    """
    if not os.path.isfile(Path(path) / "manifest.json"):
        raise ValueError(
            f"--run_dir must be a new folder or that of study {name}, got {path!r}, which is no "
            "folder of a run"
        )
    manifest = read_manifest(path)
    found = (manifest.get("study") or {}).get("name")
    if found != name:
        raise ValueError(
            f"--run_dir must be a new folder or that of study {name}, got {path!r}, which is of "
            f"{f'study {found}' if found else 'no study'}; to go on with it: python -m fastanf "
            f"resume {shlex.quote(path)}"
        )
    check_lanes(path, manifest)
    rows = read_lanes(path)
    blocks = tuple(tuple(block) for block in blocks_from_rows(rows))
    newest = [newest_checkpoint(block_path(path, index)) for index in range(len(blocks))]
    are_finished = tuple(saved is not None and saved.state["is_finished"] for saved in newest)
    return Standing(path, manifest, rows, blocks, are_finished)


def missing_lanes(
    standing: Standing, lanes: Sequence[TrainConfig], spec: StudySpec
) -> tuple[TrainConfig, ...]:
    """The lanes of a study that its folder has not, in the study's order.

    Args:
        standing: what the folder holds.
        lanes: of the study.
        spec: that they were made of.

    Raises:
        ValueError: the folder has lanes that the study has not; names a setting with both values,
            and what to type.
    """
    wanted = {lane_identity(lane): lane for lane in lanes}
    known = {lane_identity(lane): lane for block in standing.blocks for lane in block}
    missing = tuple(lane for identity, lane in wanted.items() if identity not in known)
    strange = [lane for identity, lane in known.items() if identity not in wanted]
    if strange:
        raise ValueError(_strangers(standing, strange, lanes, missing, spec))
    return missing


def _strangers(
    standing: Standing,
    strange: Sequence[TrainConfig],
    lanes: Sequence[TrainConfig],
    missing: Sequence[TrainConfig],
    spec: StudySpec,
) -> str:
    """What differs between lanes of a folder and those of the study, and what to type."""
    old = strange[0]
    nearest = min(missing or lanes, key=lambda lane: len(_differing(old, lane)))
    name = _differing(old, nearest)[0]
    entry = OPTIONS[name]
    there, here = (entry.spell(lane.get(name)) for lane in (old, nearest))
    difference = f"{name} is {there} there and {here} here"
    if name == "seed":
        seeds = [lane.get(name) for block in standing.blocks for lane in block]
        last = spec.first_seed + spec.num_seeds - 1
        difference = (
            f"seeds {min(seeds)} to {max(seeds)} there and {spec.first_seed} to {last} here"
        )
        first = min(*seeds, spec.first_seed)
        flags = f"--num_seeds {max(*seeds, last) - first + 1}"
        flags += f" --seed {first}" if first != spec.first_seed else ""
    elif name in ("policy", "env"):
        flags = f"--{name} {' '.join(dict.fromkeys(lane.get(name) for lane in [*lanes, *strange]))}"
    elif name in spec.vary:
        values = [*spec.vary[name], *(lane.get(name) for lane in strange)]
        flags = f"--vary {name}={','.join(dict.fromkeys(map(entry.spell, values)))}"
    else:
        flags = f"--{name} {there}"
    is_of_an_arm = any(name in {**arm.settings, **arm.vary} for arm in spec.arms)
    if is_of_an_arm or (spec.arms and (name == "policy" or name in spec.vary)):
        advice = f"give the study's file {name} {there} again"
    else:
        advice = f"type {flags}"
    return (
        f"{standing.path} holds {_lanes_text(len(strange))} that study {spec.name} as given has "
        f"not: {difference}; {advice} to go on with it, or --run_dir NEW for a folder of its own"
    )


def _differing(one: TrainConfig, other: TrainConfig) -> list[str]:
    """Settings in which two lanes differ: first those that matter to both, the seed after them."""
    ours, theirs = dict(lane_identity(one)), dict(lane_identity(other))
    names = [*(name for name in OPTIONS if name != "seed"), "seed"]
    shared = [name for name in names if name in ours and name in theirs]
    of_one = [name for name in names if (name in ours) != (name in theirs)]
    return [name for name in shared if ours[name] != theirs[name]] + of_one


def _lanes_text(number: int) -> str:
    return "a lane" if number == 1 else f"{number} lanes"
