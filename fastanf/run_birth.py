"""How a run folder comes into being: made beside its place, then put there as a whole.

A process that is killed on the way leaves a hidden folder, never a run that can be neither created
nor resumed. The next run of that name removes it.
"""

import contextlib
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from fastanf.files import sync_folder
from fastanf.run_lock import NAME as LOCK_NAME
from fastanf.run_lock import RunLock

_MOST_LETTERS = 50
"""Of the run's name in the hidden one, which must not be too long for a file system."""


@contextmanager
def new_run_dir(path: Path) -> Iterator[tuple[Path, RunLock]]:
    """A new folder to write into, which is at its place once the block has ended well.

    An empty folder that someone makes at the place meanwhile is replaced.

    Args:
        path: the place; missing parents are made.

    Yields:
        The folder where it is now, and its lock, which is held from the beginning and stays with
        the caller.

    Raises:
        ValueError: something is there, or the folder cannot be made or written. Nothing is left
            behind then, and so with any error of the block.
    """
    if os.path.lexists(path):
        raise ValueError(f"run_dir {str(path)!r} exists already: give a new name, or `resume` it")
    parents = [parent for parent in path.parents if not parent.exists()]
    lock = beside = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        token = f"{os.getpid()}.{secrets.token_hex(4)}"
        beside = path.with_name(f".{path.name[:_MOST_LETTERS]}.{token}.tmp")
        beside.mkdir()
        lock = RunLock.take(beside)
        yield beside, lock
        os.rename(beside, path)
        sync_folder(path.parent)
    except BaseException as error:
        if lock is not None:
            lock.release()
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        _remove_empty(parents)
        if isinstance(error, OSError):
            raise ValueError(
                f"run_dir {str(path)!r} cannot be made ({error.strerror}): give a writable folder "
                "with free space"
            ) from error
        raise


def _remove_leftovers(path: Path) -> None:
    """Hidden folders of that name whose process was killed, as their locks tell."""
    pattern = re.compile(rf"\.{re.escape(path.name[:_MOST_LETTERS])}\.\d+\.[0-9a-f]{{8}}\.tmp")
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            folder = path.with_name(name)
            if pattern.fullmatch(name) and os.path.lexists(folder / LOCK_NAME):
                with contextlib.suppress(ValueError):  # its process lives
                    lock = RunLock.take(folder)
                    if lock.took_over is not None and not folder.is_symlink():
                        shutil.rmtree(folder, ignore_errors=True)
                    lock.release()


def _remove_empty(folders: Iterable[Path]) -> None:
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
