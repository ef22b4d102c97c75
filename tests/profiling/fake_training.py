"""A program in place of `python -m fastanf` for tests of the soak: it "trains" by putting
checkpoints that were made before, one after the other, into its run folder.

    fake_training.py MODE CHECKPOINTS train ... --run_dir DIR
    fake_training.py MODE CHECKPOINTS resume DIR

MODE `finishes` goes on to the last one; `comes_on` takes two, then waits for a signal; `hears_not`
too, but SIGTERM ends it at once; `writes_long` never completes its first one; `fails` ends with
code 7.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

PAUSE_S = 0.01


def main() -> int:
    """Train until there are no more checkpoints, or SIGTERM."""
    mode, source, command, *rest = sys.argv[1:]
    is_asked: list[int] = []
    if mode != "hears_not":
        signal.signal(signal.SIGTERM, lambda number, frame: is_asked.append(number))
    run_dir = Path(rest[-1])
    folder = run_dir / "checkpoints" / "block0"
    folder.mkdir(parents=True, exist_ok=command == "resume")
    _replace(run_dir / "lock", json.dumps({"pid": os.getpid()}))
    _replace(run_dir / "manifest.json", '{"status": "running"}')
    _replace(run_dir / "eval.csv", "lane,step,wall_s\n0,5,1.5\n")
    if mode == "fails":
        print("out of luck")
        return 7
    missing = [path for path in sorted(Path(source).iterdir()) if not (folder / path.name).exists()]
    for path in missing if mode == "finishes" else missing[:2]:
        number = path.name.removeprefix("checkpoint-").removesuffix(".json")
        (folder / f"tensors-{number}.safetensors").write_text("half")
        while mode == "writes_long":
            time.sleep(PAUSE_S)
        _replace(folder / path.name, path.read_text())
        time.sleep(PAUSE_S)
    while not is_asked and mode != "finishes" and len(missing) > 2:
        time.sleep(PAUSE_S)
    if is_asked:
        os.utime(max(folder.glob("*.json")))
        return 130
    _replace(run_dir / "manifest.json", '{"status": "finished"}')
    return 0


def _replace(path: Path, text: str) -> None:
    beside = path.with_name(f".{path.name}")
    beside.write_text(text)
    os.replace(beside, path)


if __name__ == "__main__":
    sys.exit(main())
