"""The command line: names of flags, studies, and everything that is refused."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastanf import __main__ as commands
from fastanf import cli, disk, kernels, memory
from fastanf.cli import Study, parse_command_line
from fastanf.config import OPTIONS, RUN_OPTIONS
from fastanf.presets import PRESETS

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every command runs in an empty folder of its own, on a machine with a TiB of memory and
    1,000 TiB of disk.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(disk, "free_disk_bytes", lambda path: 10**15)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**40)
    # Layouts are those of a machine with compiled kernels; --impl may change the choice.
    monkeypatch.setattr(kernels, "NATIVE", ctypes.CDLL(None))
    return tmp_path


def parse(line: str) -> Study:
    return parse_command_line(line.split())


def error_of(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that refuses a command."""
    with pytest.raises(SystemExit) as caught:
        parse(line)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("fastanf: error: ")
    return err.removeprefix("fastanf: error: ").rstrip("\n")


# --- studies --------------------------------------------------------------------------------------


def test_the_first_command_of_the_documentation_is_eight_lanes_in_a_block_a_layout() -> None:
    study = parse(
        "--policy ANF-SAC SAC --env HalfCheetah-v3 --fake_features 0.9 "
        "--input_layer_sparsity 0.8 --num_seeds 4"
    )
    assert [len(block.lanes) for block in study.blocks] == [4, 4]
    assert study.plan.text().count(" csr  ") == 2  # the input layers of ANF-SAC
    anf, dense = study.lanes[0], study.lanes[-1]
    assert (anf.noise.noise_fraction, anf.sparsity.input_layer_sparsity) == (0.9, 0.8)
    assert (dense.algorithm.policy, dense.sparsity.input_layer_sparsity) == ("SAC", None)
    assert [lane.algorithm.seed for lane in study.lanes] == [0, 1, 2, 3] * 2
    assert study.command_line[0] == "--policy"


def test_on_the_masked_layout_the_first_command_is_one_block() -> None:
    line = "--policy ANF-SAC SAC --fake_features 0.9 --num_seeds 4"
    study = parse(f"{line} --layout masked")
    assert [len(block.lanes) for block in study.blocks] == [8]
    assert "layout: as asked (--layout masked)" in study.plan.text()
    study = parse(f"{line} --impl reference")
    assert [len(block.lanes) for block in study.blocks] == [8]
    assert "layout: masked, because plain torch computes" in study.plan.text()


@pytest.mark.parametrize("precision", ["tf32", "float32"])
def test_precision_of_products_is_taken_over(precision: str) -> None:
    before = kernels.PRECISION
    try:
        kernels.use_precision({"tf32": "float32", "float32": "tf32"}[precision])
        parse(f"--policy SAC --matmul_precision {precision}")
        assert precision == kernels.PRECISION
        assert torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
    finally:
        kernels.use_precision(before)


def test_published_tutorial_commands_are_accepted() -> None:
    tail = "--env HalfCheetah-v3 --wandb_mode disabled"
    first = parse(f"--policy ANF-SAC --global_sparsity 0.5 {tail}").lanes[0]
    assert (first.sparsity.global_sparsity, first.sparsity.input_layer_sparsity) == (0.5, None)
    second = parse(
        f"--sparsity_distribution_method ER --global_sparsity 0.9 --policy ANF-SAC {tail}"
    ).lanes[0]
    assert second.sparsity.sparsity_distribution == "ER"
    study = parse(f"--input_layer_sparsity 0.8 --fake_features 0.9 --policy SAC {tail}")
    assert study.lanes[0].sparsity.input_layer_sparsity is None
    assert "input_layer_sparsity makes no difference to SAC" in study.plan.text()


def test_the_default_study_is_one_lane() -> None:
    study = parse_command_line([])
    assert len(study.lanes) == 1
    assert study.lanes[0].algorithm.policy == "ANF-SAC"
    assert study.run.run_dir is not None
    assert study.run.run_dir.startswith("runs/")
    assert study.run.run_dir.endswith("-ANF-SAC-HalfCheetah-v3")


@pytest.mark.parametrize(
    "flags",
    [
        "--noise_fraction 0.9",
        "--noise-fraction 0.9",
        "--noise-fraction=0.9",
        "--Noise_Fraction 9e-1",
        "--fake_features 0.9",
        "--fake-features=0.9",
    ],
)
def test_dashes_underscores_and_published_names_are_the_same_flag(flags: str) -> None:
    assert parse(flags).lanes == parse("--noise_fraction 0.9").lanes


def test_published_flags_set_what_they_stand_for() -> None:
    lane = parse(
        "--policy ANF-TD3 --ann_setZeta 0.1 --ann_ascTopologyChangePeriod 1e2 --lr 1e-4 "
        "--adjust_env_period 500_000 --policy_freq 3 --num_hid_layers 3 --num_hid_neurons 64 "
        "--init_new_weights_method unif --output_layer_sparse --buffer_size 5e5 --seed 7 "
        "--expl_noise 0.2 --policy_noise 0.3 --noise_clip 0.4 --discount 0.98 --sac_type Gaussian "
        "--activation srelu --act_func_args 0.4 2e-1 -0.4 -2e-1 --act_func_per_neuron "
        "--save_model --print_comments --save_results --start_timesteps 25e3"
    ).lanes[0]
    expected = {
        "drop_fraction": 0.1,
        "topology_period": 100,
        "learning_rate": 1e-4,
        "permute_period": 500_000,
        "policy_delay": 3,
        "target_period": 3,
        "hidden": (64, 64, 64),
        "new_weights": "unif",
        "sparse_output_layer": True,
        "replay_capacity": 500_000,
        "seed": 7,
        "exploration_noise": 0.2,
        "target_noise": 0.3,
        "target_noise_clip": 0.4,
        "discount": 0.98,
        "activation_args": (0.4, 0.2, -0.4, -0.2),
        "activation_per_neuron": True,
        "start_timesteps": 25_000,
    }
    assert {name: lane.get(name) for name in expected} == expected
    assert parse("--adjust_env_period -1").lanes[0].noise.permute_period == 0


@pytest.mark.parametrize("text", ["64 32", "64x32", "64,32"])
def test_hidden_layers_have_any_number_and_width(text: str) -> None:
    assert parse(f"--hidden {text}").lanes[0].network.hidden == (64, 32)
    assert parse("--hidden_dims 400").lanes[0].network.hidden == (400,)


def test_switches_go_on_and_off() -> None:
    assert parse("--automatic-temperature").lanes[0].algorithm.automatic_temperature
    assert not parse("--no_permute_replay").lanes[0].noise.permute_replay
    assert not parse("--permute-replay false").lanes[0].noise.permute_replay
    assert not parse("--no-tensorboard").run.tensorboard
    assert parse("--tensorboard=yes --plain").run.plain


def test_vary_takes_any_setting_by_any_name() -> None:
    study = parse(
        "--vary drop-fraction=0.02,0.05 --vary fake_features=0,0.9 hidden=256x256,64 --num_seeds 2"
    )
    assert len(study.lanes) == 2 * 2 * 2 * 2
    assert len(study.blocks) == 4
    variants = {lane.algorithm.variant for lane in study.lanes}
    assert "drop_fraction=0.02,hidden=256x256" in variants
    assert {lane.noise.noise_fraction for lane in study.lanes} == {0, 0.9}


def test_several_tasks_and_policies_by_spaces_or_commas() -> None:
    study = parse("--policy SAC,SS-SAC DS-TD3 --env Hopper-v3 Ant-v4")
    assert [(lane.algorithm.policy, lane.task.env) for lane in study.lanes] == [
        (policy, env)
        for env in ("Hopper-v3", "Ant-v4")
        for policy in ("SAC", "Static-SAC", "DS-TD3")
    ]


def test_a_run_folder_that_is_free_is_kept_and_not_made(folder: Path) -> None:
    assert parse("--run_dir a/b/new").run.run_dir == "a/b/new"
    assert list(folder.iterdir()) == []


def test_default_run_names_do_not_collide(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_run_name", lambda lanes: "name")
    (folder / "runs" / "name").mkdir(parents=True)
    assert parse_command_line([]).run.run_dir == "runs/name-1"


def test_plan_prints_and_stops(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert commands.main(["train", "--plan", "--policy", "TowS-SAC"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("plan: 1 lane in 1 block\n")
    assert err == ""
    assert list(folder.iterdir()) == []


def test_help_mentions_every_flag_alias_and_policy(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    words = set(capsys.readouterr().out.replace(",", " ").replace("]", " ").split())
    for entry in (*OPTIONS.values(), *RUN_OPTIONS.values()):
        if entry.is_flag:
            assert f"--{entry.name}" in words
            assert {f"--{alias}" for alias in entry.aliases} <= words
    assert set(PRESETS) <= {word.strip(".;()") for word in words}


# --- what is refused ------------------------------------------------------------------------------

BAD_COMMANDS = [
    ("--policy ANF-SCA", "policy must be one of", "did you mean ANF-SAC"),
    ("--policy ,", "policy must be one or more", "got none"),
    ("--env ,", "--env must be one or more", "got none"),
    ("--run_dir=", "--run_dir must be the name of a new folder", "got none"),
    ("--env HalfCheeta-v3", "'HalfCheeta-v3'", "HalfCheetah-v3"),
    ("--env Hopper-v3 Hoper-v3", "'Hoper-v3'", "Hopper-v3"),
    ("--env HalfCheetah-v3 --backend gymnasium", "'HalfCheetah-v3'", "HalfCheetah-v4"),
    ("--backend mujoco", "'mujoco'", "envpool, gymnasium"),
    ("--noise-fracton 0.9", "--noise-fracton is not an option", "--noise_fraction"),
    ("--vary drop_fracton=0.1", "drop_fracton", "did you mean drop_fraction"),
    ("--vary drop_fraction", "--vary must be field=v1,v2", "got 'drop_fraction'"),
    ("--vary drop_fraction=", "drop_fraction must have one or more values", ""),
    ("--vary drop_fraction=0.1,x", "--vary drop_fraction must be a number", "got 'x'"),
    ("--vary zeta=0.1 zeta=0.2", "zeta is given twice", ""),
    ("--vary seed=1,2", "vary: seed", "--num_seeds"),
    ("--global_sparsity 1", "--global_sparsity must be a number in [0, 1)", "got 1"),
    ("--global_sparsity -0.1", "--global_sparsity must be a number in [0, 1)", "got -0.1"),
    ("--input_layer_sparsity 1.5", "--input_layer_sparsity must be", "[0, 1)"),
    ("--policy TowS-SAC --global_sparsity 0.9999", "global_sparsity=0.9999", "at most"),
    ("--fake_features 0.9 --policy TowS-SAC --input_layer_sparsity 0", "global_sparsity=0.9", ""),
    ("--layout coo", "--layout must be one of auto, masked, csr", "got 'coo'"),
    ("--layout csr --policy DS-SAC", "layout csr does not go with optimizer Adam", "layout masked"),
    ("--layout csr --policy ANF-SAC DS-TD3", "layout csr", "allowed is layout masked, or auto"),
    ("--layout csr --target_sparsity trim", "target_sparsity trim", "allowed is layout masked"),
    ("--fake_features 1", "--fake_features must be a number in [0, 1)", "got 1"),
    ("--fake_features nan", "--fake_features must be a number in [0, 1)", "got nan"),
    ("--eval_freq 0", "--eval_freq must be an integer of at least 1", "got 0"),
    ("--eval_freq 1.5", "--eval_freq must be an integer of at least 1", "got 1.5"),
    ("--eval_freq often", "--eval_freq must be an integer of at least 1", "got 'often'"),
    ("--batch_size", "--batch_size", "expected one argument"),
    ("--hidden 256x0", "--hidden must be one or more widths", "256, 0"),
    ("--num_seeds 0", "--num_seeds must be an integer in [1, 10000]", "got 0"),
    ("--seed -1", "--seed must be an integer in", "got -1"),
    ("--seed 2147483647 --num_seeds 2", "seed must be an integer in", "got 2147483648"),
    ("--activation gelu", "--activation must be one of relu", "did you mean"),
    ("--activation srelu --act_func_args 1", "act_func_args", "threshold_right"),
    ("--act_func_per_neuron", "act_func_per_neuron", "srelu"),
    ("--plan=maybe", "--plan must be true or false", "got 'maybe'"),
    ("--plan=--", "--plan must be true or false", "got '--'"),
    ("--device=--", "device must be one of auto, cpu", "got '--'"),
    ("--no_plan=1", "--no_plan takes no value", "'1'"),
    ("--device tpu", "device must be one of auto, cpu", "got 'tpu'"),
    ("--wandb_mode sometimes", "--wandb_mode must be one of disabled", "got 'sometimes'"),
    ("--num_seeds 64 --replay_capacity 1e12 --max_timesteps 1e12", "needs", "--replay_capacity"),
    ("--replay_capacity 50", "replay_capacity must be an integer of at least 100", "got 50"),
    ("--noise_distribution empirical --noise_std 2", "noise_std must be 1", "got 2"),
    ("--algorithm td3", "--algorithm is not an option here", "--policy"),
    ("--load_model x", "--load_model is not an option here", "resume"),
    ("--not_save_model", "--not_save_model is not an option here", "--run_dir"),
    ("--ann_earlyStopTopologyChange 5e4", "is not an option here", "--topology static"),
    ("--load_noise_distribution a.npy", "is not an option here", "--noise_distribution empirical"),
    ("--sac_type Deterministic", "--sac_type must be Gaussian", "got 'Deterministic'"),
    ("--policy_freq 2 --policy SAC", "--policy_freq", "TD3"),
    ("--num_hid_layers 0", "--num_hid_layers must be an integer of at least 1", "got 0"),
    ("--num_hid_layers 1 --hidden 64", "--hidden must not go with", ""),
    ("-x", "-x is not an option", ""),
    ("hopper", "unrecognized arguments", "hopper"),
    ("--run_dir .", "--run_dir must be a new folder", "resume ."),
    ("--run_dir /proc/nowhere/x", "--run_dir must be in a writable folder", "/proc/nowhere/x"),
]


@pytest.mark.parametrize(("line", "start", "more"), BAD_COMMANDS, ids=[b[0] for b in BAD_COMMANDS])
def test_bad_commands_end_with_one_line_and_leave_nothing(
    line: str, start: str, more: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    message = error_of(line, capsys)
    assert start in message
    assert more in message
    assert list(folder.iterdir()) == []


def test_a_run_folder_may_be_called_as_argparse_ends_flags(folder: Path) -> None:
    assert parse("--run_dir=--").run.run_dir == "--"


def test_a_run_folder_that_exists_is_refused_with_resume(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "old").mkdir()
    assert "resume old" in error_of("--run_dir old", capsys)
    (folder / "file").write_text("")
    assert "--run_dir must be" in error_of("--run_dir file/new", capsys)
    (folder / "dangling").symlink_to("nowhere")
    assert "--run_dir must be" in error_of("--run_dir dangling", capsys)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_cannot_be_written_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "locked").mkdir(mode=0o500)
    assert "writable" in error_of("--run_dir locked/new", capsys)


def test_wandb_is_asked_for_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None)
    assert "pip install 'fastanf[wandb]'" in error_of("--wandb_mode offline", capsys)
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: object())
    assert parse("--wandb_mode offline").run.wandb_mode == "offline"


def test_a_plan_that_does_not_fit_is_shown_before_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 250 * 2**20)
    with pytest.raises(SystemExit) as caught:
        parse("--plan")
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out.startswith("plan: 1 lane")
    assert "--replay_capacity" in err
    assert err.count("\n") == 1


def test_a_disk_that_is_too_small_is_told_before_it_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    assert "disk: " in parse("").plan.text()
    monkeypatch.setattr(disk, "free_disk_bytes", lambda path: 100 * 2**20)
    with pytest.raises(SystemExit) as caught:
        parse("--plan --run_dir deep/new")
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert "100.0 MiB free in ./" in out
    assert err.startswith("fastanf: error: replay_capacity 1000000 needs more disk")
    assert err.count("\n") == 1
    allowed = err.split("--replay_capacity ")[1].split()[0]
    assert parse(f"--replay_capacity {allowed}").plan.disk is not None
    monkeypatch.setattr(disk, "free_disk_bytes", lambda path: 2**20)
    assert "even the smallest replay needs more disk" in error_of("", capsys)
    assert list(folder.iterdir()) == []


def test_checkpoints_are_any_time_apart_that_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    for value in ("-1", "0", "nan", "inf", "1e300", "soon"):
        message = error_of(f"--checkpoint_minutes {value}", capsys)
        assert "--checkpoint_minutes must be a number in (0, 1000000], got" in message
        assert value.replace("e", "e+") in message or value in message
    for value in (1e-6, 0.5, 1e6):
        assert parse(f"--checkpoint_minutes {value}").run.checkpoint_minutes == value


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], "did you mean train"),
        (["resume"], "resume takes one RUN_DIR"),
        (["resume", "nowhere"], "RUN_DIR must be the folder of a run"),
    ],
)
def test_bad_commands_of_the_module_end_with_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        commands.main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_the_module_says_what_it_can_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert commands.main([]) == 0
    assert "resume RUN_DIR" in capsys.readouterr().out


def test_a_run_that_is_refused_before_training_ends_with_one_line(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder came into being between the check of the command and the start."""
    monkeypatch.setattr(commands, "parse_command_line", lambda argv: late_study(folder, argv))
    with pytest.raises(SystemExit) as caught:
        commands.main(["train", "--run_dir", "new"])
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("fastanf: error: run_dir 'new' exists already")
    assert err.count("\n") == 1


def late_study(folder: Path, argv: list[str]) -> Study:
    study = parse_command_line(argv)
    (folder / "new").mkdir()
    return study


@pytest.mark.parametrize("arguments", [["--plan"], ["--help"]])
def test_a_reader_that_goes_away_gets_no_traceback(arguments: list[str], folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)  # as `| head -0` does
    command = [sys.executable, str(ROOT / "train.py"), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    with os.fdopen(writer, "wb") as out:
        done = subprocess.run(
            command, stdout=out, stderr=subprocess.PIPE, text=True, env=environment, check=False
        )
    assert done.stderr == ""
    # argparse lets the failure of a long help text pass.
    assert done.returncode in (commands.EXIT_BROKEN_PIPE, 0)[: 1 + (arguments == ["--help"])]


@pytest.mark.parametrize(
    "command",
    [
        [str(ROOT / "train.py"), "--fake_features", "1"],
        [str(ROOT / "train.py"), "--activation", "elu", "--activation_args", "1", "2"],
        ["-m", "fastanf", "train", "--policy", "ANF-SCA"],
    ],
    ids=["value", "arguments", "module"],
)
def test_errors_are_quick_and_need_no_torch(command: list[str], folder: Path) -> None:
    arguments = [sys.executable, "-X", "importtime", *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    modules = {line.split("|")[-1].strip() for line in lines if line.startswith("import time:")}
    rest = [line for line in lines if not line.startswith("import time:")]
    assert len(rest) == 1
    assert rest[0].startswith("fastanf: error: ")
    assert not modules & {"torch", "envpool", "mujoco"}
    assert list(folder.iterdir()) == []
