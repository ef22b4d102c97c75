"""`python -m fastanf export`: its arguments, and the lines it answers with."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from fastanf.files import check_own_entries
from fastanf.paths import expanded
from fastanf.plain_text import file_stem

if TYPE_CHECKING:
    from fastanf.agent import Agent
    from fastanf.export.checked import Exported
    from fastanf.export.policy import Policy

FORMAT_NAMES = ("onnx", "torch", "agent")
_ABOUT = {
    "onnx": "an ONNX graph, for onnxruntime and others (needs fastanf[export])",
    "torch": "a torch.export program, which torch loads without fastanf",
    "agent": "the agent in one safetensors file, for fastanf.agent.load_agent",
}


def export(argv: Sequence[str]) -> str:
    """Write the files that the arguments ask for, each compared with the agent.

    Returns:
        What was written, one line a file.

    Raises:
        ValueError: one line that says what is wrong.
    """
    arguments = _parser().parse_args(list(argv))
    formats = _formats(arguments.format)
    # Imported here: wrong arguments are told before torch is loaded.
    from fastanf.agent import load_agent
    from fastanf.export.checked import write_checked
    from fastanf.export.formats import FORMATS, check_packages
    from fastanf.export.policy import policy_of

    for name in formats:
        check_packages(name)
    source = expanded(arguments.source, "RUN_OR_AGENT")
    agent = load_agent(source, arguments.lane)
    policy = policy_of(agent)
    folder = _folder(arguments.out, source)
    lines = [_title(agent)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in formats:
            path = folder / f"{_stem(agent)}{FORMATS[name].suffix}"
            lines.append(_line(name, write_checked(agent, policy, name, path), policy))
    except OSError as error:
        raise ValueError(
            f"--out must be a folder that can be written, got {str(folder)!r} ({error.strerror})"
        ) from error
    return "\n".join(lines)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"export: {message}; see export --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m fastanf export",
        description=(
            "Write a trained agent in the formats of other programs. Their input is the features "
            "[n, F] as the task shows them, noise included, their output the actions [n, A]; every "
            "file is compared with the agent before it is kept."
        ),
        epilog="; ".join(f"{name}: {text}" for name, text in _ABOUT.items()),
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="RUN_OR_AGENT", help="a run folder, or an agent's file")
    parser.add_argument("--lane", type=int, metavar="K", help="of a run; 0 by default")
    parser.add_argument(
        "--format", nargs="+", default=["onnx"], metavar="|".join(FORMAT_NAMES),
        help="one or more; onnx by default",
    )  # fmt: skip
    parser.add_argument(
        "--out", metavar="FOLDER", help="by default RUN/export, or the folder of the agent's file"
    )
    return parser


def _formats(given: Sequence[str]) -> list[str]:
    """The formats in the order given, each once; words may be joined by commas."""
    names = [name for word in given for name in word.split(",") if name]
    for name in names:
        if name not in FORMAT_NAMES:
            raise ValueError(
                f"--format must be one or more of {', '.join(FORMAT_NAMES)}, got {name!r}"
            )
    return list(dict.fromkeys(names))


def _folder(out: str | None, source: Path) -> Path:
    if out is not None:
        return expanded(out, "--out")
    if not source.is_dir():
        return source.parent
    # The folder of a run may come from elsewhere, with a link in it that leads anywhere.
    check_own_entries(source, (), ("export",))
    return source / "export"


def _stem(agent: Agent) -> str:
    """The name of a lane's files, which stay in their folder whatever the names of its settings."""
    config = agent.config
    return file_stem(f"{config.algorithm.policy}-{config.task.env}-lane{agent.lane}")


def _title(agent: Agent) -> str:
    algorithm, evaluation = agent.config.algorithm, agent.state.evaluation
    returned = "" if evaluation is None else f", return {evaluation.return_mean:,.0f}"
    return (
        f"lane {agent.lane}: {algorithm.policy} on {agent.config.task.env}, seed {algorithm.seed}, "
        f"after {agent.step:,} steps{returned}; {agent.num_features} features, "
        f"{agent.spec.num_features} of them real"
    )


def _line(name: str, exported: Exported, policy: Policy) -> str:
    dense = policy.num_dense_bytes
    return (
        f"{name}: {exported.path}, {_size(exported.num_bytes)} "
        f"({exported.num_bytes / dense:.0%} of {_size(dense)} dense), "
        f"max |Δaction| {exported.largest_difference:.1e}"
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 1e6:,.2f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:,.1f} kB"
