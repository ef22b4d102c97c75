"""Lanes as lanes.csv keeps them, and back as configurations.

A column that an older version did not write has its default; one that this version does not know
is refused, so that no lane goes on without a setting that it was trained with.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from fastanf.config import OPTIONS, STATIC_NAMES, TrainConfig, block_key, from_flat
from fastanf.options import shown
from fastanf.presets import find_preset

_ALWAYS_THERE = ("policy", "variant", "seed", "algorithm", "env", "max_timesteps")


def config_from_row(row: Mapping[str, Any]) -> TrainConfig:
    """The configuration of one lane.

    Args:
        row: of lanes.csv, as `read_lanes` gives it.

    Raises:
        ValueError: a column that is missing or not known, or a value that is not allowed.
    """
    label = f"lanes.csv lane {row.get('lane')}"
    settings = {name: value for name, value in row.items() if name not in ("lane", "block")}
    unknown = [name for name in settings if name not in OPTIONS]
    if unknown:
        raise ValueError(
            f"{label} has the column {shown(unknown[0])}, which this version does not know: use "
            "the version of fastanf that wrote it"
        )
    missing = [name for name in _ALWAYS_THERE if name not in settings]
    if missing:
        raise ValueError(f"{label} lacks the columns {', '.join(missing)}: put the file back")
    try:
        config = from_flat(settings)
        preset = find_preset(config.algorithm.policy)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    if config.algorithm.algorithm != preset.values["algorithm"]:
        raise ValueError(
            f"{label}: algorithm must be {preset.values['algorithm']} with policy {preset.name}, "
            f"got {config.algorithm.algorithm}"
        )
    return config


def blocks_from_rows(rows: Sequence[Mapping[str, Any]]) -> list[list[TrainConfig]]:
    """The configurations of all lanes, block by block.

    Args:
        rows: of lanes.csv.

    Raises:
        ValueError: no lane, blocks that do not follow each other from 0, lanes of one block that
            cannot train together, or as `config_from_row`.
    """
    blocks: list[list[TrainConfig]] = []
    for row in rows:
        index, config = row.get("block"), config_from_row(row)
        allowed = range(max(0, len(blocks) - 1), len(blocks) + 1)
        if not isinstance(index, int) or isinstance(index, bool) or index not in allowed:
            words = " or ".join(map(str, allowed))
            raise ValueError(
                f"lanes.csv lane {row.get('lane')}: block must be {words}, got {shown(index)}"
            )
        if index == len(blocks):
            blocks.append([])
        block = blocks[index]
        block.append(config)
        if block_key(config) != block_key(block[0]):
            names = [name for name in STATIC_NAMES if config.get(name) != block[0].get(name)]
            raise ValueError(
                f"lanes.csv lane {row.get('lane')}: {(names or ['optimizer'])[0]} must be that of "
                f"the other lanes of block {index}"
            )
    if not blocks:
        raise ValueError("lanes.csv holds no lane: put the file back as the run wrote it")
    return blocks
