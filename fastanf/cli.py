"""The command line: flags made from the settings, and the study that a command describes.

Every mixture of dashes, underscores and cases of a name is the same flag, and the names of the
published code are aliases. A command is checked completely before anything is built; what is wrong
is said in one line on stderr with exit code 2.
"""

# argparse and not a library that makes flags from dataclasses: errors must be one line with exit
# code 2, names must be free in dashes and underscores, and some flags take several values.

import argparse
import dataclasses
import importlib.util
import re
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from envs import registry
from envs.empirical import load_quantiles
from fastanf.activations import make_activation
from fastanf.config import (
    ALIASES,
    OPTIONS,
    RUN_OPTIONS,
    TrainConfig,
    group_help,
    normalize,
    train_option,
)
from fastanf.options import Option, did_you_mean
from fastanf.presets import PRESET_ALIASES, PRESETS, expand
from fastanf.published_flags import (
    ALREADY_SO,
    ELSEWHERE,
    TRANSLATED,
    is_number,
    published_values,
)
from fastanf.settings import RunConfig

if TYPE_CHECKING:
    from fastanf.grouping import Block
    from fastanf.plan import Plan

_SEVERAL = ("policy", "env", "vary")
"""Options that take one or more words."""


@dataclass(frozen=True)
class Study:
    """All that a command describes, checked."""

    run: RunConfig
    """Settings of the command; `run_dir` is filled in."""
    lanes: tuple[TrainConfig, ...]
    blocks: tuple["Block", ...]
    plan: "Plan"
    command_line: tuple[str, ...] = ()
    """The arguments as typed."""


def parse_command_line(argv: Sequence[str] | None = None) -> Study:
    """The study that the arguments describe.

    Args:
        argv: arguments without the program's name; None for the process's own.

    Raises:
        SystemExit: code 2 after one line on stderr for anything that is wrong; code 0 after --help.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _study(arguments)
    except ValueError as error:
        complain(str(error))


def complain(message: str) -> NoReturn:
    """End the process with one line on stderr and exit code 2."""
    print(f"fastanf: error: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(2)


def build_study(
    run: RunConfig,
    lanes: Sequence[TrainConfig],
    notes: Sequence[str] = (),
    command_line: Sequence[str] = (),
) -> Study:
    """Lanes in blocks with their plan, after the checks that need more than one setting's value.

    Raises:
        ValueError: an unknown task or device, compiled kernels that are not there, an
            activation's arguments, an impossible sparsity.
    """
    for env, backend in dict.fromkeys((lane.task.env, lane.task.backend) for lane in lanes):
        registry.validate(env, backend)
    for env in dict.fromkeys(lane.task.env for lane in lanes if _needs_quantiles(lane)):
        load_quantiles(env)
    for network in dict.fromkeys(lane.network for lane in lanes):
        make_activation(network.activation, network.activation_args, network.activation_per_neuron)
    # torch is imported from here on: what is wrong above is said at once.
    from fastanf import kernels
    from fastanf.grouping import make_blocks
    from fastanf.memory import resolve_device
    from fastanf.plan import make_plan

    kernels.use(run.impl)
    kernels.use_precision(run.matmul_precision)
    device = resolve_device(run.device)
    plan = make_plan(make_blocks(lanes, device), device, notes)
    return Study(run, tuple(lanes), plan.blocks, plan, tuple(command_line))


def _needs_quantiles(lane: TrainConfig) -> bool:
    return lane.noise.noise_distribution == "empirical" and lane.noise.noise_fraction > 0


def _study(arguments: list[str]) -> Study:
    tokens, spelled = _normalized(arguments)
    values = {k: v for k, v in vars(_parser().parse_args(tokens)).items() if v is not None}
    labels = {name: spelled.get(name, f"--{name}") for name in (*OPTIONS, *RUN_OPTIONS)}
    overrides = _train_values(values, labels)
    run = _run_config(values, labels)
    policies = _words(values.get("policy", [OPTIONS["policy"].default]))
    envs = _words(values.get("env", [OPTIONS["env"].default]))
    if not envs:
        raise ValueError("--env must be one or more tasks, e.g. HalfCheetah-v3, got none")
    overrides |= published_values(values, overrides, policies)
    vary = _vary_values(run.vary)
    expansion = expand(policies, vary, run.num_seeds, overrides, run.first_seed, envs)
    if run.wandb_mode != "disabled" and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"--wandb_mode {run.wandb_mode} needs the package wandb: pip install 'fastanf[wandb]'"
        )
    run = dataclasses.replace(run, run_dir=_run_dir(run, expansion.lanes))
    study = build_study(run, expansion.lanes, expansion.notes, arguments)
    try:
        study.plan.check_memory()
    except ValueError:
        if run.plan:
            print(study.plan.text(), flush=True)
        raise
    return study


def _normalized(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Tokens with each flag under its own name, and how each was spelled."""
    tokens, spelled = [], {}
    for token in arguments:
        if token.startswith("--") and len(token) > 2:
            typed, is_joined, value = token.partition("=")
            name, fixed = _flag(typed)
            if fixed is not None and is_joined:
                raise ValueError(f"{typed} takes no value, got {value!r}")
            spelled[name] = typed
            value = value if fixed is None else fixed
            tokens.append(f"--{name}={value}" if is_joined or fixed is not None else f"--{name}")
        elif re.fullmatch(r"-[A-Za-z].*", token) and token != "-h" and not is_number(token):
            raise ValueError(
                f"{token} is not an option{did_you_mean(normalize(token), _all_flags())}"
            )
        else:
            # argparse takes -1e-3 for an option
            tokens.append(
                f"{float(token):f}" if re.fullmatch(r"-[\d.]+e.+", token, re.I) else token
            )
    return tokens, spelled


def _flag(typed: str) -> tuple[str, str | None]:
    """The flag's own name, and its value where the spelling holds it (--no_tensorboard)."""
    name = normalize(typed)
    if name in ELSEWHERE:
        raise ValueError(f"{typed} is not an option here: {ELSEWHERE[name]}")
    if name == "help" or name in TRANSLATED or name in ALREADY_SO:
        return name, None
    if name in ALIASES:
        return ALIASES[name], None
    positive = ALIASES.get(name.removeprefix("no_"))
    if name.startswith("no_") and positive is not None and _option(positive).item is bool:
        return positive, "false"
    raise ValueError(f"{typed} is not an option{did_you_mean(name, _all_flags())}; see --help")


def _option(name: str) -> Option:
    return OPTIONS[name] if name in OPTIONS else RUN_OPTIONS[name]


def _all_flags() -> list[str]:
    flags = [*ALIASES, *TRANSLATED, *ALREADY_SO]
    return [f"--{name}" for name in flags if name not in ELSEWHERE]


def _words(values: Sequence[str]) -> list[str]:
    return [word for value in values for word in value.split(",") if word]


def _train_values(values: Mapping[str, Any], labels: Mapping[str, str]) -> dict[str, Any]:
    return {
        name: entry.parse(_text(values[name]), labels[name])
        for name, entry in OPTIONS.items()
        if name in values and name not in _SEVERAL
    }


def _text(value: str | list[str]) -> str:
    return value if isinstance(value, str) else "x".join(value).replace(",", "x")


def _run_config(values: Mapping[str, Any], labels: Mapping[str, str]) -> RunConfig:
    given: dict[str, Any] = {
        name: entry.parse(values[name], labels[name])
        for name, entry in RUN_OPTIONS.items()
        if name in values and name not in _SEVERAL
    }
    return RunConfig(**given, vary=tuple(values.get("vary", ())))


def _vary_values(items: Sequence[str]) -> dict[str, list[Any]]:
    vary: dict[str, list[Any]] = {}
    for item in items:
        name, is_given, values = item.partition("=")
        if not is_given or not name:
            raise ValueError(f"--vary must be field=v1,v2, got {item!r}")
        if name in vary:
            raise ValueError(f"--vary: {name} is given twice")
        entry = train_option(name)
        texts = [text for text in values.split(",") if text]
        vary[name] = [entry.parse(text, f"--vary {name}") for text in texts]
    return vary


def _run_dir(run: RunConfig, lanes: Sequence[TrainConfig]) -> str:
    """The run folder, after seeing that it is new and can be made; nothing is left there."""
    if run.run_dir is None:
        base = Path("runs") / _run_name(lanes)
        names = (base.with_name(f"{base.name}-{n}" if n else base.name) for n in range(10**6))
        path = next(name for name in names if not name.exists())
        if run.plan:
            return str(path)
    else:
        path = Path(run.run_dir).expanduser()
        if not run.run_dir.strip():
            raise ValueError("--run_dir must be the name of a new folder, got none")
        if path.exists() or path.is_symlink():
            raise ValueError(
                f"--run_dir must be a new folder, got {run.run_dir!r}, which exists; to go on with "
                f"it: python -m fastanf resume {run.run_dir}"
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


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="train.py",
        usage="%(prog)s [--policy P [P ...]] [--env E [E ...]] [--num-seeds N] [options]",
        description=(
            "Train agents on extremely noisy environments: every combination of policies, tasks, "
            "varied settings and seeds is a lane, and lanes of one shape train together."
        ),
        epilog=_epilog(),
        allow_abbrev=False,
        formatter_class=_formatter,
    )
    for group, about in group_help():
        section = parser.add_argument_group(group, about)
        for entry in (*OPTIONS.values(), *RUN_OPTIONS.values()):
            if entry.group == group and entry.is_flag:
                section.add_argument(f"--{entry.name}", **_argument(entry))
    for name in TRANSLATED:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS)
    for name in ALREADY_SO:
        parser.add_argument(f"--{name}", help=argparse.SUPPRESS, action="store_const", const="true")
    return parser


_formatter: Callable[..., argparse.HelpFormatter] = lambda prog: argparse.HelpFormatter(  # noqa: E731
    prog, max_help_position=30, width=100
)


def _argument(entry: Option) -> dict[str, Any]:
    facts = [f"default {entry.spell(entry.default) or 'none'}"]
    if entry.kind != "run":
        facts.append(entry.kind)
    if entry.aliases:
        facts.append("also " + ", ".join(f"--{alias}" for alias in entry.aliases))
    words: dict[str, Any] = {"dest": entry.name}
    if entry.item is bool:
        words |= {"nargs": "?", "const": "true", "metavar": "true|false"}
    elif entry.name in _SEVERAL or entry.is_tuple:
        action = "extend" if entry.name == "vary" else "store"
        words |= {"nargs": "+", "action": action, "metavar": _METAVARS.get(entry.name, "N")}
    elif entry.choices and len(entry.choices) <= 3:
        words |= {"metavar": "|".join(entry.choices)}
    else:
        words |= {"metavar": {int: "N", float: "X", str: "NAME"}[entry.item]}
    limits = entry.expected() if entry.allowed or len(entry.choices) > 3 else ""
    help_text = " ".join(
        [entry.help, f"{limits[0].upper()}{limits[1:]}." if limits else ""]
    ).strip()
    words["help"] = f"{help_text} [{'; '.join(facts)}]".replace("%", "%%")
    return words


_METAVARS = {"policy": "P", "env": "E", "vary": "FIELD=V1,V2"}


def _epilog() -> str:
    policies = ", ".join([*PRESETS, *(f"{a} (= {name})" for a, name in PRESET_ALIASES.items())])
    published = "; ".join(f"--{name} ({meaning})" for name, meaning in TRANSLATED.items())
    text = (
        f"Policies: {policies}. An option applies to every policy, over its own setting; the "
        "dense ones (SAC, TD3) take none of the sparsity's. Dashes, underscores and case of a name "
        "make no difference; a switch is turned off by --no-NAME. A lane option may differ between "
        "lanes that train together (--vary), a static one makes another block. Published flags: "
        f"{published}."
    )
    return text.replace("%", "%%")
