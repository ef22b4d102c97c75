"""SIGKILL at every call of the system, and at moments that nobody chose: rows stay whole."""

from pathlib import Path

from tests.killing import KILLED_AT_EVERY_CALL, run_script

RUN = (
    KILLED_AT_EVERY_CALL
    + """
from fastanf import records
from fastanf.rows import EvaluationRow, TrainingRow, read_evaluations, read_lanes, read_training
from fastanf.run_manifest import check_lanes
records.facts, records.start = dict, lambda: {"started_at": "", "commit": None, "versions": {}}
LANES = [{"lane": k, "block": 0, "policy": "SAC", "seed": k} for k in range(4)]
path = Path(sys.argv[1]) / "run"

def evaluations(step):
    return [
        EvaluationRow(k, "SAC", "E", k, 0.5, "", step, step, 1.0, 1.0, 1.0, 1.0, 1.0, 3)
        for k in range(2)
    ]

def append(run, step):
    run.append([TrainingRow(k, step, step) for k in range(2)])
    run.append(evaluations(step))

def pairs(rows):
    return [(row.lane, row.step) for row in rows]

def prefix(rows, steps):
    wanted = [(k, step) for step in steps for k in range(2)]
    assert pairs(rows) == wanted[:len(rows)], pairs(rows)
    return len(rows)
"""
)

EVERY_CALL = (
    RUN
    + """
standing = path.with_name("standing")
run = records.RunFolder.create(standing, {}, LANES[:2])
for step in (1, 2, 3):
    append(run, step)
run.close()
with open(standing / "eval.csv", "a") as file:
    file.write("0,SAC,to")

def go_on():
    with records.RunFolder.open(path) as run:
        run.begin_again()
        run.truncate({0: 2, 1: 2})
        run.write_lanes(LANES)
        for step in (3, 4, 5):
            append(run, step)
        run.set_status("finished")

shutil.copytree(standing, path)
for calls in killed_at_every_call(go_on):
    run = records.RunFolder.open(path)
    trained, evaluated = read_training(path), read_evaluations(path)
    assert prefix(trained, (1, 2, 3, 4, 5)) >= prefix(evaluated, (1, 2, 3, 4, 5)) >= 4
    check_lanes(path, run.manifest)
    assert len(read_lanes(path)) in (2, 4)
    run.check_seals(run.seals([0, 1]), [0, 1], 5)
    if run.manifest["status"] == "finished":
        assert len(evaluated) == 10
    else:
        assert run.manifest["status"] == "running"
    run.close()
    assert not [name for name in os.listdir(path) if name.endswith(".tmp")]
    shutil.rmtree(path)
    shutil.copytree(standing, path)
"""
)

ANY_MOMENT = (
    RUN
    + """
import random
random.seed(0)
run = records.RunFolder.create(path, {}, LANES[:2])
run.close()
first, last = 1, 0
for _ in range(12):
    heard, said = os.pipe()
    child = os.fork()
    if child == 0:
        run = records.RunFolder.open(path)
        for step in range(first, 10**6):
            append(run, step)
            os.write(said, b".")
    for _ in range(random.randrange(1, 30)):
        os.read(heard, 1)
    os.kill(child, signal.SIGKILL)  # in the midst of the next rows
    os.close(heard)
    os.close(said)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    with records.RunFolder.open(path) as run:
        assert run.took_over.pid == child
        evaluated, trained = read_evaluations(path), read_training(path)
        num_evaluated = prefix(evaluated, range(1, len(evaluated) + 2))
        num_trained = prefix(trained, range(1, len(trained) + 2))
        assert num_evaluated <= num_trained <= num_evaluated + 2
        assert all((path / name).read_text().endswith("\\n") for name in ("eval.csv", "train.csv"))
        last = num_evaluated // 2  # the last step that is there as a whole: the checkpoint's
        run.truncate({0: last, 1: last})
    first = last + 1
print(last)
"""
)


def test_tables_and_manifest_are_whole_wherever_a_process_is_killed(tmp_path: Path) -> None:
    assert int(run_script(EVERY_CALL, tmp_path)) > 60


def test_rows_are_neither_torn_nor_doubled_whenever_a_process_is_killed(tmp_path: Path) -> None:
    assert int(run_script(ANY_MOMENT, tmp_path)) >= 12
