"""The folder of a study: stopped, gone on with, extended, and what is refused there."""

from __future__ import annotations

import csv
import json
import shlex
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from fastanf import runner
from fastanf.__main__ import main
from fastanf.cli import parse_command_line
from fastanf.learner import Learner
from fastanf.records import RunFolder
from tests import fake_env
from tests.interruptions import at_call, kill, records, signal_at_update

FILE = f"""
name = "tiny"
policy = ["SAC", "ANF-SAC"]
env = "{fake_env.ROWS_ENV_ID}"
num_seeds = 2
[settings]
backend = "fake"
hidden = [8, 5]
batch_size = 4
noise_fraction = 0.7
topology_period = 3
max_timesteps = 12
start_timesteps = 9
eval_freq = 5
eval_episodes = 2
layout = "masked"
[vary]
learning_rate = [1e-3, 1e-2]
"""
PLAIN = "--plain --device cpu --no_tensorboard"
EVAL_STEPS = [5, 10, 12]
UNTIMED = ("wall_s", "env_steps_per_s", "lane_updates_per_s")
TABLES = ("eval.csv", "train.csv", "topology.csv", "features.csv")
FOLDER = Path("runs/tiny")


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of its own with the study's file."""
    fake_env.register(monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "learning_curve_png", lambda rows, path, **_: path.touch())
    Path("tiny.toml").write_text(FILE)


def train(flags: str = "", study: str = "tiny.toml") -> int:
    return main(["train", "--study", study, *f"{PLAIN} {flags}".split()])


def table(name: str, folder: Path = FOLDER) -> list[dict[str, str]]:
    with open(folder / name, newline="") as file:
        return [{k: v for k, v in row.items() if k not in UNTIMED} for row in csv.DictReader(file)]


def write_as_an_earlier_version(content: dict[str, Any]) -> None:
    """The manifest without what newer ones keep to find changes by."""
    checksums = ("sha256", "lanes_sha256")
    older = {name: value for name, value in content.items() if name not in checksums}
    (FOLDER / "manifest.json").write_text(json.dumps(older))


def manifest(folder: Path = FOLDER) -> dict[str, Any]:
    return json.loads((folder / "manifest.json").read_text())


def by_lane(folder: Path = FOLDER) -> dict[tuple[str, ...], list[list[dict[str, str]]]]:
    """All rows of each lane, named by policy, variant and seed, without its number."""
    found = {}
    for lane in table("lanes.csv", folder):
        rows = [
            [{k: v for k, v in row.items() if k != "lane"} for row in table(name, folder)
             if row["lane"] == lane["lane"]]
            for name in TABLES
        ]  # fmt: skip
        found[lane["policy"], lane["variant"], lane["seed"]] = rows
    return found


def assert_whole(num_lanes: int, folder: Path = FOLDER) -> None:
    """Every lane is there once, with every evaluation once."""
    lanes = table("lanes.csv", folder)
    assert [int(lane["lane"]) for lane in lanes] == list(range(num_lanes))
    blocks = [int(lane["block"]) for lane in lanes]
    assert blocks == sorted(blocks)
    assert len(by_lane(folder)) == num_lanes
    for rows in by_lane(folder).values():
        for of_table in rows[:2]:
            assert [int(row["step"]) for row in of_table] == EVAL_STEPS
    assert manifest(folder)["status"] == "finished"


def content(folder: Path = FOLDER) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(flags: str, capsys: pytest.CaptureFixture[str], study: str = "tiny.toml") -> str:
    """The one line that refuses a command; nothing is changed by it."""
    before = content()
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        train(flags, study)
    err = capsys.readouterr().err
    assert (end.value.code, err.count("\n"), content()) == (2, 1, before)
    return err


# --- one command, one folder ----------------------------------------------------------------------


def test_a_study_trains_into_a_folder_of_its_name() -> None:
    assert train() == 0
    assert_whole(8)
    facts = manifest()
    assert facts["study"] == {"name": "tiny", "file": FILE}
    assert facts["command_lines"] == [f"--study tiny.toml {PLAIN}"]
    assert (facts["run"]["num_seeds"], facts["run"]["study"]) == (2, "tiny.toml")


def test_a_study_that_is_trained_says_so_and_changes_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train() == 0
    before = content()
    capsys.readouterr()
    assert train() == 0
    out = capsys.readouterr().out
    assert out.startswith("plan: nothing is left to train, all 8 lanes are there\n")
    assert "ANF-SAC" in out and "learning_rate=0.01" in out
    assert content() == before


@pytest.mark.parametrize("update", [2, 8, 20])
def test_the_same_command_goes_on_where_it_was_stopped(update: int) -> None:
    assert train("--lanes_per_block 4 --run_dir whole") == 0
    with signal_at_update(update):
        assert train("--lanes_per_block 4") == 130
    assert manifest()["status"] == "interrupted"
    assert train() == 0
    assert_whole(8)
    assert records(FOLDER) == records(Path("whole"))
    assert (manifest()["num_starts"], len(manifest()["command_lines"])) == (1, 2)


def test_resume_goes_on_with_a_study_too() -> None:
    with signal_at_update(8):
        assert train() == 130
    assert main(["resume", str(FOLDER)]) == 0
    assert_whole(8)


@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_study_that_was_killed_before_its_first_checkpoint_is_trained_as_if_it_were_not(
    command: str,
) -> None:
    with at_call(Learner, "update_", 8, lambda: kill(FOLDER, Path("killed"))):
        assert train() == 0
    FOLDER.rename("whole")
    Path("killed").rename(FOLDER)
    assert table("eval.csv") and not list(FOLDER.glob("checkpoints/*/*"))
    assert (train() if command == "train" else main(["resume", str(FOLDER)])) == 0
    assert records(FOLDER) == records(Path("whole"))


# --- more of it -----------------------------------------------------------------------------------


@pytest.mark.parametrize("is_stopped", [False, True])
def test_more_seeds_are_trained_behind_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch, is_stopped: bool
) -> None:
    assert train("--num_seeds 3 --run_dir whole") == 0
    with signal_at_update(8) if is_stopped else nullcontext():
        assert train() == (130 if is_stopped else 0)
    before, lanes = {name: table(name) for name in TABLES}, table("lanes.csv")
    trained: list[int] = []

    class Watched(runner.BlockRun):
        def _train_(self, block: Any) -> None:
            trained.extend(self.lanes)
            super()._train_(block)

    monkeypatch.setattr(runner, "BlockRun", Watched)
    assert train("--num_seeds 3") == 0
    assert trained == list(range(0 if is_stopped else 8, 12))
    assert_whole(12)
    assert table("lanes.csv")[:8] == lanes
    for name in TABLES:
        assert table(name)[: len(before[name])] == before[name]
    assert by_lane() == by_lane(Path("whole"))
    assert manifest()["command_lines"][-1] == f"--study tiny.toml {PLAIN} --num_seeds 3"
    assert manifest()["run"]["num_seeds"] == 3


def test_more_values_and_policies_are_trained_behind_those_that_are_there() -> None:
    assert train("--learning_rate 1e-2 --policy SAC") == 0
    assert_whole(2)
    first = by_lane()
    assert train("--policy SAC") == 0
    Path("tiny.toml").write_text(FILE.replace('"ANF-SAC"', '"ANF-SAC", "TD3"'))
    assert train() == 0
    assert_whole(12)
    assert by_lane().items() >= first.items()
    assert '"TD3"' in manifest()["study"]["file"]
    assert [lane["policy"] for lane in table("lanes.csv")] == (
        ["SAC"] * 4 + ["ANF-SAC"] * 4 + ["TD3"] * 4
    )


def test_a_folder_of_an_earlier_version_with_fewer_settings_is_extended() -> None:
    assert train("--learning_rate 1e-2 --num_seeds 1") == 0
    lanes = table("lanes.csv")
    with open(FOLDER / "lanes.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, [name for name in lanes[0] if name != "weight_decay"])
        writer.writeheader()
        writer.writerows({k: v for k, v in lane.items() if k != "weight_decay"} for lane in lanes)
    write_as_an_earlier_version(manifest())
    assert train("--learning_rate 1e-2") == 0
    assert table("lanes.csv")[:2] == lanes
    assert len(table("lanes.csv")) == 4


@pytest.mark.parametrize("owner", ["runner", "folder"])
@pytest.mark.parametrize("command", ["train", "resume"])
def test_a_study_stopped_while_it_was_extended_goes_on(
    monkeypatch: pytest.MonkeyPatch, owner: str, command: str
) -> None:
    """Right before and right after lanes.csv has the further lanes."""
    assert train() == 0

    def stop(folder: RunFolder, *_: Any) -> None:
        folder.close()  # as a process that ends
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            *((runner, "_run") if owner == "runner" else (RunFolder, "write_lanes")), stop
        )
        with pytest.raises(KeyboardInterrupt):
            train("--num_seeds 3")
    if command == "resume":
        assert main(["resume", str(FOLDER)]) == 0
        assert_whole(12 if owner == "runner" else 8)
    assert train("--num_seeds 3") == 0
    assert_whole(12)


def test_the_plan_of_a_folder_is_what_is_still_to_be_trained(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with signal_at_update(20):
        assert train("--lanes_per_block 4") == 130
    before = content()
    capsys.readouterr()
    assert train("--num_seeds 4 --plan") == 0
    out = capsys.readouterr().out
    # Four lanes that were stopped, and eight further ones in parts of four, as asked before.
    assert out.startswith("plan: 12 lanes in 3 blocks, beside 4 lanes that the folder holds, ")
    assert out.count("seeds") == 3 and "part 2 of 2: at most 4 lanes" in out
    assert content() == before


def test_settings_of_the_command_stay_unless_others_are_given() -> None:
    assert train("--learning_rate 1e-2 --num_threads 1 --checkpoint_minutes 7") == 0
    run = parse_command_line(["--study", "tiny.toml", "--num_threads", "2"]).run
    assert (run.num_threads, run.checkpoint_minutes, run.device) == (2, 7, "cpu")
    assert (run.plain, run.plan, run.vary, run.run_dir) == (False, False, (), str(FOLDER))


# --- what is refused ------------------------------------------------------------------------------

STRANGERS = [
    ("--max_timesteps 10", "max_timesteps is 12 there and 10 here", "--max_timesteps 12"),
    ("--num_seeds 1", "4 lanes that.*seeds 0 to 1 there and 0 to 0 here", "--num_seeds 2"),
    ("--seed 1", "4 lanes that.*seeds 0 to 1 there and 1 to 2 here", "--num_seeds 3 --seed 0"),
    ("--policy SAC", "policy is ANF-SAC there and SAC here", "--policy SAC ANF-SAC"),
    (
        "--learning_rate 1e-3",
        "learning_rate is 0.01 there and 0.001 here",
        "--vary learning_rate=0.001,0.01",
    ),
    ("--tau 0.1", "8 lanes that.*tau is 0.005 there and 0.1 here", "--tau 0.005"),
    (
        f"--env {fake_env.WHOLE_ENV_ID}",
        "env is Fake-v0 there and FakeWhole-v0 here",
        "--env FakeWhole-v0 Fake-v0",
    ),
]


def test_lanes_that_the_study_has_not_are_refused_with_what_to_type(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert train() == 0
    for flags, difference, advice in STRANGERS:
        line = refused(flags, capsys)
        parts = difference.split(".*")
        assert line.startswith("fastanf: error: runs/tiny holds ")
        assert all(part in line for part in parts), line
        assert f"; type {advice} to go on with it, or --run_dir NEW" in line
        # What is advised is accepted.
        study = parse_command_line(["--study", "tiny.toml", *shlex.split(advice)])
        assert study.standing is not None and study.standing.is_finished


def test_where_arms_differ_the_file_is_to_be_changed(capsys: pytest.CaptureFixture[str]) -> None:
    arms = FILE.replace('["SAC", "ANF-SAC"]', '"SAC"') + "[[arm]]\n[[arm]]\nsettings.tau = 0.5\n"
    Path("tiny.toml").write_text(arms)
    assert train("--learning_rate 1e-2 --num_seeds 1") == 0
    assert_whole(2)
    Path("tiny.toml").write_text(arms.replace("0.5", "0.4"))
    line = refused("--learning_rate 1e-2 --num_seeds 1", capsys)
    assert "tau is 0.5 there and 0.4 here; give the study's file tau 0.5 again" in line


def test_folders_that_are_not_of_the_study_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    FOLDER.mkdir(parents=True)
    assert "which is no folder of a run" in refused("", capsys)
    FOLDER.rmdir()
    assert train("--learning_rate 1e-2 --num_seeds 1") == 0
    Path("other.toml").write_text(FILE.replace('"tiny"', '"other"'))
    line = refused("--run_dir runs/tiny", capsys, "other.toml")
    assert "which is of study tiny; to go on with it: python -m fastanf resume" in line
    write_as_an_earlier_version(manifest() | {"study": None})
    assert "which is of no study" in refused("", capsys)
    with pytest.raises(SystemExit):
        main(["train", "--policy", "SAC", "--run_dir", str(FOLDER)])
    assert "--run_dir must be a new folder" in capsys.readouterr().err


def test_tables_keep_the_columns_of_their_folder(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--learning_rate 1e-2 --num_seeds 1") == 0
    assert "--profile must stay false in runs/tiny" in refused("--num_seeds 2 --profile", capsys)


def test_a_folder_that_is_being_trained_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert train("--learning_rate 1e-2 --num_seeds 1") == 0
    with RunFolder.open(FOLDER):
        line = refused("--learning_rate 1e-2 --num_seeds 2", capsys)
    assert "is being trained by process" in line


def test_a_folder_that_changed_since_it_was_read_is_left_alone() -> None:
    assert train("--learning_rate 1e-2 --num_seeds 1") == 0
    study = parse_command_line(["--study", "tiny.toml", *PLAIN.split()])
    assert train("--learning_rate 1e-2 --num_seeds 2") == 0
    before = content()
    with pytest.raises(runner.Refused, match="has changed since it was read"):
        runner.train(study)
    assert content() == before
    assert train() == 0
    assert_whole(8)
