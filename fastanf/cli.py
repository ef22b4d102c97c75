"""The command line: the study that a command describes, by its flags (flags.py) and by the file
of a study (study.py).

A command is checked completely before anything is built; what is wrong is said in one line on
stderr with exit code 2.
"""

import dataclasses
import importlib.util
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from envs import registry
from envs.empirical import load_quantiles
from fastanf.activations import make_activation
from fastanf.config import RUN_OPTIONS, TrainConfig
from fastanf.flags import read_flags, vary_values
from fastanf.options import shown, start_of
from fastanf.paths import expanded, is_url
from fastanf.published_flags import published_values
from fastanf.settings import RunConfig
from fastanf.study import StudySpec, load_study

if TYPE_CHECKING:
    from fastanf.grouping import Block
    from fastanf.plan import Plan
    from fastanf.site import Site
    from fastanf.study_folder import Standing


@dataclass(frozen=True)
class Study:
    """All that a command describes, checked."""

    run: RunConfig
    """Settings of the command; `run_dir` is filled in."""
    lanes: tuple[TrainConfig, ...]
    blocks: tuple["Block", ...]
    """Of the lanes that no folder holds yet."""
    plan: "Plan"
    """Of all that is to be trained, the unfinished blocks of the folder first."""
    command_line: tuple[str, ...] = ()
    """The arguments as typed."""
    spec: StudySpec = field(default_factory=StudySpec)
    """Of a study's file, flags over it; without a name where there is none."""
    standing: "Standing | None" = None
    """What the study's folder holds already; None for a new one."""


def parse_command_line(
    argv: Sequence[str] | None = None,
    site: "Site | None" = None,
    typed: Sequence[str] | None = None,
) -> Study:
    """The study that the arguments describe.

    Args:
        argv: arguments without the program's name; None for the process's own.
        site: where it is going to train; None for this machine.
        typed: the command as it was typed, where that is more than `argv`.

    Raises:
        SystemExit: code 2 after one line on stderr for anything that is wrong; code 0 after --help.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _study(arguments, site, arguments if typed is None else typed)
    except ValueError as error:
        complain(str(error))


def complain(message: str) -> NoReturn:
    """End the process with one line on stderr and exit code 2."""
    print(f"fastanf: error: {start_of(' '.join(message.split()), 1500)}", file=sys.stderr)
    raise SystemExit(2)


def build_study(
    run: RunConfig,
    lanes: Sequence[TrainConfig],
    notes: Sequence[str] = (),
    command_line: Sequence[str] = (),
    spec: StudySpec | None = None,
    standing: "Standing | None" = None,
    site: "Site | None" = None,
) -> Study:
    """Lanes in blocks with their plan, after the checks that need more than one setting's value.

    Args:
        run: settings of the command.
        lanes: of the study.
        notes: for the plan.
        command_line: the arguments as typed.
        spec: the study's file, flags over it.
        standing: what the study's folder holds already.
        site: where it is going to train; None for this machine.

    Raises:
        ValueError: an unknown task or device, compiled kernels that are not there, an
            activation's arguments, an impossible sparsity, or lanes that a folder has and the
            study has not.
    """
    for env, backend in dict.fromkeys((lane.task.env, lane.task.backend) for lane in lanes):
        registry.validate(env, backend)
    for env in dict.fromkeys(lane.task.env for lane in lanes if _needs_quantiles(lane)):
        load_quantiles(env)
    for network in dict.fromkeys(lane.network for lane in lanes):
        make_activation(network.activation, network.activation_args, network.activation_per_neuron)
    # torch is imported from here on: what is wrong above is said at once.
    from fastanf import kernels
    from fastanf.grouping import block_of, make_blocks
    from fastanf.site import ThisMachine
    from fastanf.study_folder import missing_lanes

    kernels.use(run.impl)
    kernels.use_precision(run.matmul_precision)
    site, spec = site or ThisMachine(), spec or StudySpec()
    device = site.device_for(run)
    missing = missing_lanes(standing, lanes, spec) if standing else lanes
    unfinished = [block_of(block, device) for block in standing.unfinished] if standing else []
    blocks = site.cut(make_blocks(missing, device), run)
    plan = site.plan(
        [*unfinished, *blocks],
        run,
        notes,
        num_fixed=len(unfinished),
        num_trained=standing.num_trained if standing else 0,
        standing_blocks=_unfinished_numbers(standing) if standing else None,
    )
    return Study(run, tuple(lanes), blocks, plan, tuple(command_line), spec, standing)


def _unfinished_numbers(standing: "Standing") -> list[int]:
    """Numbers of the blocks that a folder holds and that are not trained to their end."""
    return [n for n, is_finished in enumerate(standing.are_finished) if not is_finished]


def _needs_quantiles(lane: TrainConfig) -> bool:
    return lane.noise.noise_distribution == "empirical" and lane.noise.noise_fraction > 0


def _study(arguments: list[str], site: "Site | None", typed: Sequence[str]) -> Study:
    flags = read_flags(arguments)
    overrides, run = flags.train_values, flags.run_config
    spec = load_study(run.study) if run.study is not None else StudySpec()
    policies = flags.words("policy")
    overrides |= published_values(flags.values, overrides, policies or spec.all_policies)
    given = {name: getattr(run, name) for name in RUN_OPTIONS if name in flags.values}
    seeds = {name: given[name] for name in ("num_seeds", "first_seed") if name in given}
    spec = spec.changed(
        overrides, vary_values(run.vary), policies=policies, envs=flags.words("env"), **seeds
    )
    expansion = spec.expand()
    standing = _standing(run, spec)
    if standing:
        run = _continued(standing, given)
    else:
        run = dataclasses.replace(run, run_dir=_new_run_dir(run, spec, expansion.lanes))
    run = dataclasses.replace(run, num_seeds=spec.num_seeds, first_seed=spec.first_seed)
    if run.wandb_mode != "disabled" and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"--wandb_mode {run.wandb_mode} needs the package wandb: pip install 'fastanf[wandb]'"
        )
    study = build_study(run, expansion.lanes, expansion.notes, typed, spec, standing, site)
    try:
        study.plan.check()
    except ValueError:
        if run.plan:
            print(study.plan.text(), flush=True)
        raise
    return study


def _study_dir(run: RunConfig, spec: StudySpec) -> Path | None:
    """The run folder that a study or a flag names."""
    if run.run_dir is not None:
        if not run.run_dir.strip():
            raise ValueError("--run_dir must be the name of a new folder, got none")
        if is_url(run.run_dir):
            raise ValueError(
                f"--run_dir {shown(run.run_dir)} is a URL, where runs of a cluster are kept: type "
                "`python -m fastanf study FILE --ray`, or give a folder"
            )
        path = expanded(run.run_dir, "--run_dir")
        try:
            path.exists()
        except OSError as error:
            raise ValueError(
                f"--run_dir must be the name of a folder, got {shown(run.run_dir)} "
                f"({error.strerror})"
            ) from None
        return path
    return Path("runs") / spec.name if spec.name else None


def _standing(run: RunConfig, spec: StudySpec) -> "Standing | None":
    """What the study's folder holds already; None for a new folder, or without a study's file."""
    path = _study_dir(run, spec)
    if not spec.name or path is None or not path.exists():
        return None
    from fastanf.study_folder import read_standing

    return read_standing(str(path), spec.name)


def _continued(standing: "Standing", given: Mapping[str, Any]) -> RunConfig:
    """Settings of a command that goes on with a folder: as before where it gives no other.

    Args:
        standing: what the folder holds.
        given: settings of the command by name, those that were typed.

    Raises:
        ValueError: the tables have other columns than --profile asks for.
    """
    before = dataclasses.replace(standing.run, plan=False, plain=False, vary=())
    run = dataclasses.replace(before, **{**given, "run_dir": standing.path})
    if run.profile != before.profile:
        raise ValueError(
            f"--profile must stay {str(before.profile).lower()} in {standing.path}, whose tables "
            "are made for it; leave it out, or use --run_dir NEW"
        )
    return run


def _new_run_dir(run: RunConfig, spec: StudySpec, lanes: Sequence[TrainConfig]) -> str:
    """The run folder, after seeing that it is new and can be made; nothing is left there."""
    path = _study_dir(run, spec)
    if path is None:
        base = Path("runs") / _run_name(lanes)
        names = (base.with_name(f"{base.name}-{n}" if n else base.name) for n in range(10**6))
        path = next(name for name in names if not name.exists())
        if run.plan:
            return str(path)
    elif path.exists() or path.is_symlink():
        raise ValueError(
            f"--run_dir must be a new folder, got {str(path)!r}, which exists; to go on with "
            f"it: python -m fastanf resume {shlex.quote(str(path))}"
        )
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        # os.access says yes to root even where nothing can be written.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".fastanf-"):
            pass
    except OSError as error:
        raise ValueError(
            f"--run_dir must be in a writable folder, got {str(path)!r} ({error.strerror})"
        ) from None
    return str(path)


def _run_name(lanes: Sequence[TrainConfig]) -> str:
    def joined(names: list[str]) -> str:
        names = list(dict.fromkeys(names))
        return "+".join(names[:4]) + (f"+{len(names) - 4}" if len(names) > 4 else "")

    time = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    policies = joined([lane.algorithm.policy for lane in lanes])
    return f"{time}-{policies}-{joined([lane.task.env for lane in lanes])}"
