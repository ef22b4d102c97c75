"""`python -m fastanf`: the commands that train, and that go on with a run."""

import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from fastanf.cli import complain, parse_command_line
from fastanf.options import did_you_mean, shown, start_of
from fastanf.study import load_study, shipped_names
from fastanf.view import view_command

USAGE = """usage: python -m fastanf COMMAND ...

  train OPTIONS     train a study; `train --help` lists the options (train.py does the same)
  study FILE        train a study, on this machine or with --ray on a cluster of many;
                    `study --help` says more
  fetch URL FOLDER  copy a run from object storage into a folder of this machine
  studies           list the studies that come with the package, for `train --study NAME`
  resume RUN_DIR    go on with a run that was interrupted
  report RUN ...    a page with figures and tables of one or several runs, also while they train;
                    `report --help` says more
  view RUN          watch a trained agent, or film it: `view RUN --film run.mp4`; `view --help`
                    lists the options
  export RUN        write a trained agent for ONNX or torch; `export --help` lists the options"""


def train_command(argv: Sequence[str]) -> int:
    """Print the plan of the study that the arguments describe and, without --plan, train it.

    Returns:
        The exit code.
    """
    study = parse_command_line(argv)
    print(study.plan.text(), flush=True)
    if study.run.plan:
        return 0
    from fastanf.runner import Refused, train

    try:
        return train(study)
    except Refused as error:
        complain(str(error))


def resume_command(argv: Sequence[str]) -> int:
    """Go on with the run in one folder.

    Returns:
        The exit code.
    """
    if len(argv) != 1 or argv[0].startswith("-"):
        complain(f"resume takes one RUN_DIR, got {start_of(' '.join(argv)) or 'none'}")
    if not os.path.isfile(Path(argv[0]) / "manifest.json"):
        complain(f"RUN_DIR must be the folder of a run (with manifest.json), got {shown(argv[0])}")
    from fastanf.runner import Refused, resume

    try:
        return resume(argv[0])
    except Refused as error:
        complain(str(error))


def study_command(argv: Sequence[str]) -> int:
    """Train a study, here or on a cluster.

    Returns:
        The exit code.
    """
    from fastanf.cluster.command import study_command

    return study_command(argv)


def fetch_command(argv: Sequence[str]) -> int:
    """Copy a run from object storage.

    Returns:
        The exit code.
    """
    from fastanf.cluster.fetch import fetch_command

    return fetch_command(argv)


def studies_command(argv: Sequence[str]) -> int:
    """List the studies that come with the package.

    Returns:
        The exit code.
    """
    if argv:
        complain(f"studies takes no arguments, got {start_of(' '.join(argv))}")
    for name in shipped_names():
        spec = load_study(name)
        print(f"{name}: {len(spec.expand().lanes)} lanes")
        print(textwrap.fill(spec.about, 96, initial_indent="    ", subsequent_indent="    "))
    print("\npython -m fastanf train --study NAME; options given beside it are over its own")
    return 0


def export_command(argv: Sequence[str]) -> int:
    """Write a trained agent in the formats of other programs.

    Returns:
        The exit code.
    """
    from fastanf.export.command import export

    try:
        print(export(argv))
    except ValueError as error:
        complain(str(error))
    return 0


def report_command(argv: Sequence[str]) -> int:
    """Write the report of some runs and say where it is.

    Returns:
        The exit code.
    """
    from fastanf.report.command import HELP, parse

    if not {"-h", "--help"}.isdisjoint(argv):
        print(HELP)
        return 0
    try:
        runs, out = parse(argv)
        from fastanf.report.page import write_report

        print(write_report(runs, out))
    except (ValueError, OSError) as error:
        complain(str(error))
    return 0


EXIT_BROKEN_PIPE = 128 + 13
"""As a shell reports a program that was ended by SIGPIPE."""

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train_command,
    "resume": resume_command,
    "report": report_command,
    "view": view_command,
    "study": study_command,
    "fetch": fetch_command,
    "studies": studies_command,
    "export": export_command,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the command and its arguments; None for the process's own.

    Returns:
        The exit code.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    command = COMMANDS.get(arguments[0])
    if command is None:
        hint = did_you_mean(arguments[0], COMMANDS)
        complain(f"command must be one of {', '.join(COMMANDS)}, got {shown(arguments[0])}{hint}")
    try:
        try:
            return command(arguments[1:])
        finally:
            print(end="", flush=True)
    except BrokenPipeError:  # as of `| head`: the reader has what it wanted
        # Python tries at exit to write what is left, and complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


if __name__ == "__main__":
    sys.exit(main())
