"""Trains for long, kills the process again and again, goes on, and watches memory and disk.

    python profiling/soak.py /tmp/soak --minutes 60 --policy ANF-SAC SAC --fake_features 0.9 \\
        --num_threads 1 --replay_capacity 20000 --max_timesteps 100000

Takes train.py's flags. `python -m fastanf train`, then `resume`, runs in processes of its own. Each
is killed (SIGKILL) after a random time about `--kill_every` minutes, a share of them (`--aim`) only
in the moment when files of a checkpoint are being written, and gone on with at once. When the time
is over, the last process gets SIGTERM and must stop with its state saved. With `--compare` the run
is then trained to its end, the same command is trained once more without any kill, and all tables,
clock columns apart, and the last networks must be the same.

The replay's pages are touched as it fills: a `--replay_capacity` that the random start fills shows
whether anything else grows.

FOLDER gets samples.csv (every look at a process and the run's folder), kills.csv, soak.csv (rows in
the form of profiling/results), summary.txt and output.txt (what the processes said). The exit code
is 1 where a process ends with an error, the run does not come on, or the comparison fails.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import process_status
import result_rows
import same_runs
import soak_figures
from benchmark import ArgumentParser, positive_float
from soak_process import MIB, Failed, Soak

from fastanf.cli import Study, complain, parse_command_line
from fastanf.config import ALIASES, normalize
from fastanf.disk import run_disk_bytes
from fastanf.memory import resolve_device

SAVES_PER_KILL = 4
"""Checkpoints in `--kill_every` minutes, where the flags do not say how far apart they are."""
REFUSED = {
    "run_dir": "the run is in FOLDER",
    "plan": "nothing would be trained",
    "study": "its folder is its own",
    "profile": "the tables would hold times",
    "wandb_mode": "a run that is killed so often is of no use there",
}
"""Flags of train.py that have no meaning here."""


def main(argv: Sequence[str] | None = None) -> int:
    """Soak, and say what was seen.

    Returns:
        The exit code.

    Raises:
        SystemExit: code 2 after one line on stderr for arguments that are wrong.
    """
    try:
        own, flags = _parser().parse_known_args(argv)
        process_status.check_is_linux()
        flags = checked_flags(flags, own.kill_every)
        if own.folder.exists():
            raise ValueError(f"FOLDER must be a new one, got {str(own.folder)!r}")
        study = parse_command_line(flags)
        own.folder.mkdir(parents=True)
    except (ValueError, OSError) as error:
        complain(str(error))
    soak = Soak(own.folder, "soak", flags, own.sample_s)
    failure = ""
    reference = None
    try:
        has_finished = soak.kill_until(
            60 * own.minutes, 60 * own.kill_every, own.aim, random.Random(own.seed)
        )
        if own.compare:
            if not has_finished:
                soak.finish()
            reference = Soak(own.folder, "reference", flags, own.sample_s)
            reference.finish()
            check_same(soak, reference)
        check_disk(soak, study)
    except (Failed, ValueError) as error:  # ValueError: a checkpoint that cannot be read
        failure = str(error)
    except KeyboardInterrupt:
        failure = "it was interrupted"
    rows = result(own, study, soak, reference)
    text = summary(rows, soak, reference, failure)
    (own.folder / "summary.txt").write_text(text + "\n")
    print(text)
    result_rows.append("soak", rows, own.folder)
    if own.out is not None and not failure:
        result_rows.append("soak", rows, own.out)
    return 1 if failure else 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        description="Trains for long, kills the process again and again, goes on, and watches "
        "memory and disk. Takes train.py's flags too.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a new one, for all files")

    def add(name: str, default: float, about: str) -> None:
        text = f"{about} [default {default:g}]"
        parser.add_argument(name, type=positive_float, default=default, metavar="X", help=text)

    add("--minutes", 60, "how long processes are killed; the run may be finished before")
    add("--kill_every", 4, "minutes until a kill, in the mean (uniform from 0.5 to 1.5 of it)")
    add("--sample_s", 5, "seconds between two looks at the process")
    add(
        "--warm_s",
        30,
        "seconds after its first checkpoint until a process counts for growth",
    )
    about = "share of kills while a checkpoint is written [default 0.25]"
    parser.add_argument("--aim", type=_share, default=0.25, metavar="X", help=about)
    about = "of the moments of the kills [default 0]"
    parser.add_argument("--seed", type=int, default=0, metavar="N", help=about)
    about = "where nothing failed, append the rows to soak.csv in this folder too"
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=about)
    about = "train to the end, and once more without kills: is it the same?"
    parser.add_argument("--compare", action="store_true", help=about)
    return parser


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number in [0, 1], got {text!r}")
    return value


def checked_flags(flags: Sequence[str], kill_every_min: float) -> list[str]:
    """Flags of train.py, with `--checkpoint_minutes` where they have none.

    Raises:
        ValueError: one that has no meaning here, or too few checkpoints to come on.
    """
    words = [token.partition("=") for token in flags if token.startswith("--")]
    names = {ALIASES.get(normalize(name), ""): name for name, _, _ in words}
    for name, why in REFUSED.items():
        if name in names:
            raise ValueError(f"{names[name]} must not be given: {why}")
    flags = list(flags)
    if "checkpoint_minutes" not in names:
        flags += ["--checkpoint_minutes", f"{kill_every_min / SAVES_PER_KILL:g}"]
    period = parse_command_line(flags).run.checkpoint_minutes
    if 2 * period > kill_every_min:
        raise ValueError(
            f"--checkpoint_minutes must be half of --kill_every ({kill_every_min:g}) or less, so "
            f"that the run comes on, got {period:g}"
        )
    return flags


def check_same(soak: Soak, reference: Soak) -> None:
    """See that the run that was killed is the run that never was.

    Raises:
        Failed: it is not.
    """
    found = same_runs.differences(soak.run_dir, reference.run_dir)
    if found:
        raise Failed("the run that was killed is another one: " + "; ".join(found))


def check_disk(soak: Soak, study: Study) -> None:
    """See that the run never took more of the disk than was planned.

    Raises:
        Failed: it did.
    """
    planned = run_disk_bytes(study.blocks, study.run) / MIB
    most = max((sample.folder_mib for sample in soak.samples), default=0.0)
    if most > planned:
        raise Failed(f"the folder took {most:.1f} MiB, more than the {planned:.1f} MiB planned")


def result(
    own: argparse.Namespace, study: Study, soak: Soak, reference: Soak | None
) -> list[dict[str, Any]]:
    """Rows in the form of profiling/results: `impl` is soak, or reference for the run that was
    never killed.
    """
    rows = []
    lanes, device = study.lanes, resolve_device(study.run.device)
    facts = result_rows.conditions(device, ("envpool",))
    if study.run.num_threads:
        facts["threads"] = study.run.num_threads
    sizes = {
        "policies": "+".join(dict.fromkeys(lane.algorithm.policy for lane in lanes)),
        "env": "+".join(dict.fromkeys(lane.task.env for lane in lanes)),
        "noise_fraction": lanes[0].noise.noise_fraction,
        "lanes": len(lanes),
        "blocks": len(study.blocks),
        "max_timesteps": lanes[0].schedule.max_timesteps,
        "replay_capacity": lanes[0].schedule.replay_capacity,
        "minutes": own.minutes,
        "kill_every_min": own.kill_every,
        "checkpoint_minutes": study.run.checkpoint_minutes,
    }
    for run in filter(None, (soak, reference)):
        stretches = soak_figures.warm_stretches(run.samples, own.warm_s)
        figures = soak_figures.memory_figures(stretches)
        if run.samples:
            figures |= soak_figures.folder_figures(run.samples)
        figures |= {"processes_count": [float(run.num_processes)], "trained_s": [run.process_s]}
        if run is soak:
            figures |= soak_figures.kill_figures(run.kills)
            figures["folder_planned_mib"] = [run_disk_bytes(study.blocks, study.run) / MIB]
        rows += [
            {
                "bench": "soak",
                "impl": run.name,
                **sizes,
                "metric": metric,
                **result_rows.summary(values)._asdict(),
                "unit": result_rows.unit(metric),
                **facts,
            }
            for metric, values in figures.items()
        ]
    return rows


def summary(
    rows: Sequence[dict[str, Any]], soak: Soak, reference: Soak | None, failure: str
) -> str:
    """What was seen, in short."""
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    by_run = {(row["impl"], row["metric"]): row for row in rows}
    runs = [run.name for run in (soak, reference) if run is not None]
    lines = []
    for metric in metrics:
        cells = []
        for run in runs:
            row = by_run.get((run, metric))
            text = result_rows.Summary(row["p20"], row["p50"], row["p80"]) if row else ""
            cells.append(str(text))
        lines.append([metric, *cells])
    table = result_rows.text_table(["median (p20..p80)", *runs], lines)
    verdict = f"FAILED: {failure}" if failure else "nothing was lost"
    if reference is not None and not failure:
        verdict += ": all tables, clocks apart, and the last networks are those of the reference"
    return f"{table}\n{verdict}"


if __name__ == "__main__":
    # The process in training ends with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
