"""What a run was made with: versions, commit, machine, time."""

import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

VERSIONED = ("fastanf", "torch", "numpy", "mujoco", "envpool", "gymnasium")


def facts() -> dict[str, Any]:
    """What is known of this process without being told, as JSON values."""
    first = start()
    return {
        **first,
        "starts": [first],
        "command_line": list(sys.argv),
        "platform": platform.platform(),
        "num_threads": torch.get_num_threads(),
    }


def start() -> dict[str, Any]:
    """When, and with which code, a process begins to train or goes on with it, as JSON values."""
    return {
        "started_at": now(),
        "commit": _commit(),
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in VERSIONED},
        },
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the repository that tracks this file, "+changes" if it was edited; else None.

    An installed copy can lie inside some other repository (a virtual environment in a project),
    whose commit would say nothing about this code: hence the question whether the file is tracked.
    """

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", "-C", str(Path(__file__).resolve().parent), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=5,
        ).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.SubprocessError):
        return None


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).isoformat(timespec="seconds")
