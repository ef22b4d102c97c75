"""`python -m fastanf fetch`: a run that is kept in a store, as a run folder of this machine."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from fastanf.checkpoint import Checkpoint, block_path, lane_path
from fastanf.cli import complain
from fastanf.cluster.run_copy import block_numbers, copy_facts, lane_numbers, rebuild_tables
from fastanf.cluster.url_checkpoints import UrlCheckpoints
from fastanf.cluster.url_folder import StoreError, UrlFolder
from fastanf.memory import mib_text
from fastanf.options import start_of
from fastanf.paths import expanded
from fastanf.run_birth import new_run_dir

HELP = """usage: python -m fastanf fetch URL FOLDER

  Copies the run at URL (s3://BUCKET/RUN, gs://..., file:///...) into FOLDER, a new one: its
  records, the newest checkpoint of every block, and the last sound ones of lanes that broke down.
  FOLDER is then a run folder like any other, for report, view, export and resume."""
_NUM_TRIES = 3


def fetch_run(url: str, folder: str | Path, say: Callable[[str], None] = lambda line: None) -> str:
    """Copy a run that a store keeps into a new run folder. The run may be in training.

    Args:
        url: of the run.
        folder: that does not exist yet; it is there when all of it is.
        say: told which checkpoints were damaged, so that older ones are taken.

    Returns:
        A line that says what came.

    Raises:
        ValueError: there is no run, it is damaged, or it cannot be read; or the folder cannot be
            made. Nothing is left behind.
    """
    folder = expanded(folder, "FOLDER")
    try:
        store = UrlFolder(url)
        with new_run_dir(folder) as (beside, lock):
            try:
                line = _copy(store, beside, say)
            except StoreError as error:  # any other is of this machine's disk
                raise ValueError(error.strerror) from error
        lock.release()
    except ValueError as error:
        raise ValueError(str(error).replace("run_dir '", "FOLDER '")) from error
    return f"{folder}: {line}"


def _copy(store: UrlFolder, folder: Path, say: Callable[[str], None]) -> str:
    manifest = copy_facts(store, folder)
    newest: dict[int, int] = {}
    num_bytes = num_finished = 0
    for block in block_numbers(store):
        name = f"checkpoints/block{block}"
        found = _newest(UrlCheckpoints(block_path(folder, block), url=f"{store.url}/{name}"), say)
        if found is not None:
            newest[block] = found.number
            num_bytes += sum(seal.size for seal in found.seals.values())
            num_finished += found.state.get("is_finished") is True
    for lane in lane_numbers(store):
        name = f"checkpoints/lane{lane}"
        _newest(UrlCheckpoints(lane_path(folder, lane), url=f"{store.url}/{name}"), say)
    rebuild_tables(store, folder, manifest, newest)
    return (
        f"a run that is {manifest['status']}, with checkpoints of {len(newest)} "
        f"block{'s' * (len(newest) != 1)} ({num_finished} trained to the end), "
        f"{mib_text(num_bytes)}"
    )


def _newest(checkpoints: UrlCheckpoints, say: Callable[[str], None]) -> Checkpoint | None:
    """Fetch the newest that is whole. Where the run is in training, it may be removed meanwhile."""
    for attempt in range(1, _NUM_TRIES + 1):
        try:
            found, damage = checkpoints.load()
            break
        except ValueError:
            if attempt == _NUM_TRIES:
                raise
    for line in damage:
        say(f"{line}; the one before is taken")
    return found


def fetch_command(argv: Sequence[str], say: Callable[[str], None] = print) -> int:
    """Copy the run that the arguments name.

    Args:
        argv: URL and FOLDER.
        say: shows a line.

    Returns:
        The exit code.
    """
    if not {"-h", "--help"}.isdisjoint(argv):
        say(HELP)
        return 0
    if len(argv) != 2 or any(word.startswith("-") for word in argv):
        complain(f"fetch takes URL and FOLDER, got {start_of(shlex.join(argv)) or 'none'}")
    url, folder = argv
    try:
        say(fetch_run(url, folder, say))
    except ValueError as error:
        complain(str(error))
    return 0
