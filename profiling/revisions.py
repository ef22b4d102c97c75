"""Trees of earlier revisions to measure against: exported from git, their kernels built, kept."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REVISIONS = ROOT / "build" / "revisions"
_NATIVE = Path("fastanf/kernels/native")


def resolve(revision: str) -> str | None:
    """The commit that a name stands for; None where there is none.

    Raises:
        ValueError: this is not a git checkout.
    """
    top = _git("rev-parse", "--show-toplevel")
    if top.returncode or Path(top.stdout.decode().strip()).resolve() != ROOT:
        detail = top.stderr.decode().strip().splitlines()[-1:] or [f"{ROOT} is not its top folder"]
        raise ValueError(f"--compare needs a git checkout: {detail[0]}")
    if revision.startswith("-"):
        return None
    found = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    return found.stdout.decode().strip() if found.returncode == 0 else None


def short(commit: str) -> str:
    """Its abbreviated name."""
    return _git("rev-parse", "--short", commit).stdout.decode().strip()


def tree(commit: str) -> Path:
    """The files of a commit with its CPU kernels built, below `REVISIONS`; made once.

    Raises:
        ValueError: the files cannot be written, or the kernels cannot be built though this tree
            has its own.
    """
    path = REVISIONS / commit
    try:
        if not path.exists():
            _export(commit, path)
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"--compare: {commit[:9]} cannot be exported to {path}: {error}") from None
    if list((path / _NATIVE).glob("*.cpp")) and not has_kernels(path):
        log = _build(path)
        if not has_kernels(path) and has_kernels(ROOT):
            raise ValueError(f"--compare: the kernels of {commit[:9]} could not be built: {log}")
    return path


def has_kernels(path: Path) -> bool:
    """Whether compiled kernels lie in a tree."""
    return any((path / _NATIVE).glob("*.so"))


def _export(commit: str, path: Path) -> None:
    archive = _git("archive", "--format=tar", commit)
    if archive.returncode:
        raise OSError(archive.stderr.decode().strip())
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(dir=path.parent, prefix=".fresh-"))
    try:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(fresh, filter="data")
        if not path.exists():  # another process may have been quicker
            fresh.rename(path)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _build(path: Path) -> str:
    """Build in place; what was said last."""
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    # This tree's own modules must not get in the way of the other's setup.py.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(command, cwd=path, capture_output=True, text=True, env=environment)
    lines = (result.stdout + result.stderr).strip().splitlines()
    return lines[-1] if lines else f"exit code {result.returncode}"


def _git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], capture_output=True, cwd=ROOT)
    except OSError as error:
        raise ValueError(f"--compare needs git: {error}") from None
