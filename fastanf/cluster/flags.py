"""The flags of `python -m fastanf study` that say where its blocks train; the rest are train's."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from fastanf.config import normalize
from fastanf.options import shown

HELP = """usage: python -m fastanf study FILE [options]

FILE is the file of a study or the name of a shipped one (`python -m fastanf studies` lists them).
Without --ray its blocks train one after the other, as `train --study FILE` does.

  --ray [ADDRESS]       train the blocks at the same time, on a Ray cluster: ADDRESS is HOST:PORT of
                        its head node, or auto for the one that this machine belongs to. Without
                        ADDRESS, Ray is started here, for all GPUs or CPUs of this machine, and
                        listens on the loopback interface alone
  --cpus_per_block N    CPUs of each block [default: all that there are, divided evenly]
  --gpus_per_block X    GPUs of each block, above 0 and at most 1 [default 1, where there are some]
  --dry-run             show which block is going to train where, measure each kind of block for a
                        few seconds, estimate the time of the whole, and stop
  --run_dir FOLDER|URL  with --ray on several machines, a folder that all of them share, or a URL
                        such as s3://BUCKET/RUN

All other options are those of `python -m fastanf train`; docs/cluster.md says more."""

_NUMBER = re.compile("[0-9]{1,6}")
_MOST_CPUS = 10**4
_LEAST_SHARE = 1e-4
"""Ray counts no finer."""


@dataclass(frozen=True)
class ClusterFlags:
    """What the flags say of where a study trains."""

    study: str
    """File or name."""
    address: str | None = None
    """Of a Ray cluster, "" for one of this machine alone; None for no Ray."""
    cpus_per_block: int | None = None
    gpus_per_block: float | None = None
    is_dry: bool = False
    train_arguments: list[str] = field(default_factory=list)
    """For the flags of train."""


def read_cluster_flags(arguments: Sequence[str]) -> ClusterFlags:
    """Flags of a command.

    Raises:
        ValueError: no file, or a flag's value that is not allowed; one line says what is.
    """
    words = list(arguments)
    if not words or words[0].startswith("-"):
        raise ValueError(
            f"study takes FILE first, got {shown(words[0]) if words else 'none'}: the file of a "
            "study, or a name of `python -m fastanf studies`"
        )
    address, cpus, gpus, is_dry, rest = None, None, None, False, []
    study = words.pop(0)
    while words:
        word = words.pop(0)
        typed, is_joined, joined = word.partition("=")
        name = normalize(typed) if typed.startswith("--") else ""
        if name not in ("ray", "cpus_per_block", "gpus_per_block", "dry_run"):
            rest.append(word)
            continue
        if name == "dry_run":
            if is_joined:
                raise ValueError(f"--dry-run takes no value, got {shown(joined)}")
            is_dry = True
            continue
        value: str | None = joined
        if not is_joined:
            value = words.pop(0) if words and _is_value(words[0]) else None
        if name == "ray":
            address = "" if value is None else _address(value)
        elif name == "cpus_per_block":
            cpus = _whole(value)
        else:
            gpus = _share(value)
    given = [f"--{n}" for n, v in (("cpus_per_block", cpus), ("gpus_per_block", gpus)) if v]
    if address is None and given:
        raise ValueError(f"{given[0]} goes with --ray: give --ray too, or leave it out")
    return ClusterFlags(study, address, cpus, gpus, is_dry, rest)


def _is_value(word: str) -> bool:
    """Whether a word is no flag: negative numbers are values, though wrong ones."""
    return not word.startswith("-") or word[1:2].isdecimal()


def _address(text: str) -> str:
    host, _, port = text.rpartition(":")
    is_port = _NUMBER.fullmatch(port) is not None and 0 < int(port) < 2**16
    if text != "auto" and not (host and is_port and "//" not in text):
        raise ValueError(
            f"--ray must be HOST:PORT of a Ray cluster's head node, auto, or stand alone, got "
            f"{shown(text)}"
        )
    return text


def _whole(text: str | None) -> int:
    if text is None or not _NUMBER.fullmatch(text) or not 1 <= int(text) <= _MOST_CPUS:
        got = "none" if text is None else shown(text)
        raise ValueError(f"--cpus_per_block must be an integer in [1, {_MOST_CPUS}], got {got}")
    return int(text)


def _share(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        value = math.nan
    if not _LEAST_SHARE <= value <= 1:
        raise ValueError(
            f"--gpus_per_block must be in [{_LEAST_SHARE:g}, 1], because a block trains on one "
            f"GPU, got {'none' if text is None else shown(text)}"
        )
    return value
