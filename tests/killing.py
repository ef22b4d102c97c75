"""Processes that are killed at every moment of a piece of work, for tests of what they leave."""

import subprocess
import sys
from pathlib import Path

# In a script of its own: forking a process of pytest, with its threads and locks, is not safe.
KILLED_AT_EVERY_CALL = '''
import os, shutil, signal, sys
from pathlib import Path

os.fsync = lambda file: None  # what a killed process wrote is in the system's memory: quicker
CALLS = ("open", "write", "pwrite", "ftruncate", "fsync", "replace", "rename", "mkdir", "unlink")

def die_at(number):
    """Kill this process right before it asks the system for something for the `number`-th time."""
    count = 0
    def counted(call):
        def wrapper(*args, **options):
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            if call is write and count == number - 1 and len(args[1]) > 1:
                return call(args[0], args[1][: len(args[1]) // 2])  # a part of it gets there
            return call(*args, **options)
        return wrapper
    write = os.write
    for name in CALLS:
        setattr(os, name, counted(getattr(os, name)))

def killed_at_every_call(work):
    """Do the work in a process that is killed before its first call, then its second, ...

    Yields the number of calls that were made, until the work comes to its end; says it.
    """
    number = 1
    while True:
        child = os.fork()
        if child == 0:
            die_at(number)
            try:
                work()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), status
        yield number - 1
        if status == 0:
            print(number)
            return
        number += 1
'''


def run_script(script: str, folder: Path) -> str:
    """What a script says whose argument is the folder."""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
