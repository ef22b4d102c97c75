"""The flags that say where a study trains: how they are spelled, and what is said of wrong ones."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from fastanf.__main__ import main
from fastanf.cluster.flags import HELP, ClusterFlags, read_cluster_flags


def read(line: str) -> ClusterFlags:
    return read_cluster_flags(shlex.split(line))


def refusal(line: str) -> str:
    with pytest.raises(ValueError) as caught:
        read(line)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 700
    return message


def test_a_study_alone_trains_here() -> None:
    assert read("tiny.toml") == ClusterFlags("tiny.toml")
    assert read("tiny.toml").address is None


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("--ray", {"address": ""}),
        ("--ray auto", {"address": "auto"}),
        ("--ray=auto", {"address": "auto"}),
        ("--ray head.cluster:6379", {"address": "head.cluster:6379"}),
        ("--ray=10.0.0.1:1", {"address": "10.0.0.1:1"}),
        ("--ray [::1]:65535", {"address": "[::1]:65535"}),
        ("--RAY auto", {"address": "auto"}),
        ("--ray a:1 --ray b:2", {"address": "b:2"}),  # as of train's, the last one counts
        ("--ray --dry-run", {"address": "", "is_dry": True}),
        ("--dry_run --ray", {"address": "", "is_dry": True}),
        ("--dry-run", {"is_dry": True}),
        ("--ray --cpus_per_block 3", {"address": "", "cpus_per_block": 3}),
        ("--ray --cpus-per-block=3", {"address": "", "cpus_per_block": 3}),
        ("--cpus_per_block 10000 --ray auto", {"address": "auto", "cpus_per_block": 10_000}),
        ("--ray --gpus_per_block 0.5", {"address": "", "gpus_per_block": 0.5}),
        ("--ray --gpus-per-block=1", {"address": "", "gpus_per_block": 1.0}),
        ("--ray --gpus_per-block .25", {"address": "", "gpus_per_block": 0.25}),
        (
            "--ray=a:1 --cpus-per-block=2 --gpus-per-block=1e-1 --dry-run",
            {"address": "a:1", "cpus_per_block": 2, "gpus_per_block": 0.1, "is_dry": True},
        ),
    ],
)
def test_flags_may_be_spelled_with_dashes_or_underscores_and_joined(
    line: str, expected: dict[str, Any]
) -> None:
    assert read(f"four {line}") == ClusterFlags("four", **expected)


@pytest.mark.parametrize(
    ("line", "address", "rest"),
    [
        ("--ray --num_seeds 3", "", "--num_seeds 3"),
        ("--num_seeds=3 --ray auto --plain", "auto", "--num_seeds=3 --plain"),
        ("--env A B --ray", "", "--env A B"),
        ("--run_dir s3://bucket/x --ray h:1", "h:1", "--run_dir s3://bucket/x"),
        ("--ray-x 3", None, "--ray-x 3"),
        ("--plan -r", None, "--plan -r"),
        ("--vary 'lr=1e-3 1e-4' --ray", "", "--vary 'lr=1e-3 1e-4'"),
        ("-ray", None, "-ray"),
        ("ray", None, "ray"),
    ],
)
def test_all_other_words_are_train_s_in_their_order(
    line: str, address: str | None, rest: str
) -> None:
    expected = ClusterFlags("s.toml", address, train_arguments=shlex.split(rest))
    assert read(f"s.toml {line}") == expected


@pytest.mark.parametrize("line", ["", "--ray four", "-h", "--dry-run"])
def test_without_a_file_first_it_is_said(line: str) -> None:
    message = refusal(line)
    got = repr(line.split()[0]) if line else "none"
    assert message.startswith(f"study takes FILE first, got {got}: the file of a study, or a name")


@pytest.mark.parametrize(
    ("address", "got"),
    [
        ("here", "'here'"),
        ("h:", "'h:'"),
        (":6379", "':6379'"),
        ("h:0", "'h:0'"),
        ("h:65536", "'h:65536'"),
        ("h:6379x", "'h:6379x'"),
        ("AUTO", "'AUTO'"),
        ("ray://h:10001", "'ray://h:10001'"),
        ("h:" + "9" * 5000, "'h:999"),
        ("'h\n:x'", r"'h\n:x'"),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, got: str) -> None:
    for line in (f"four --ray {address}", f"four --ray={address}"):
        message = refusal(line)
        assert message.startswith("--ray must be HOST:PORT of a Ray cluster's head node, auto, or")
        assert f"got {got}" in message


def test_an_address_that_is_joined_and_empty_is_none() -> None:
    assert "got ''" in refusal("four --ray=")


@pytest.mark.parametrize(
    "value", ["0", "-1", "1.5", "two", "", "10001", "9" * 5000, "1e3", "²", "+1"]
)
def test_cpus_of_a_block_are_counted(value: str) -> None:
    message = refusal(f"four --ray --cpus_per_block={value}")
    assert message.startswith("--cpus_per_block must be an integer in [1, 10000], got ")
    assert repr(value)[:20] in message


@pytest.mark.parametrize(
    "value", ["0", "-0.5", "1.01", "nan", "inf", "half", "", "9" * 5000, "0.00001"]
)
def test_gpus_of_a_block_are_a_share_of_one(value: str) -> None:
    message = refusal(f"four --ray --gpus_per_block={value}")
    assert message.startswith("--gpus_per_block must be in [0.0001, 1], because a block trains on")
    assert repr(value)[:20] in message


@pytest.mark.parametrize("name", ["cpus_per_block", "gpus_per_block"])
@pytest.mark.parametrize(("after", "got"), [("", "none"), (" --ray", "none"), (" -3", "'-3'")])
def test_a_flag_without_its_value_is_named(name: str, after: str, got: str) -> None:
    for spelled in (name, name.replace("_", "-")):
        message = refusal(f"four --ray --{spelled}{after}")
        assert message.startswith(f"--{name} must be ") and message.endswith(f"got {got}")


@pytest.mark.parametrize("value", ["true", "", "0"])
def test_a_dry_run_has_no_value(value: str) -> None:
    assert refusal(f"four --dry-run={value}") == f"--dry-run takes no value, got {value!r}"


@pytest.mark.parametrize("flag", ["--cpus_per_block", "--gpus_per_block"])
def test_shares_without_ray_are_refused(flag: str) -> None:
    message = refusal(f"four {flag} 1")
    assert message == f"{flag} goes with --ray: give --ray too, or leave it out"
    both = refusal("four --gpus_per_block 1 --cpus_per_block 1")
    assert both.startswith("--cpus_per_block goes with --ray")


def test_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--help"]) == 0
    said = capsys.readouterr().out
    assert said == f"{HELP}\n" and max(map(len, said.splitlines())) <= 100
    for flag in ("--ray [ADDRESS]", "--cpus_per_block N", "--gpus_per_block X", "--dry-run"):
        assert flag in said


def test_a_wrong_flag_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["study", "four", "--cpus_per_block", "2"])
    assert caught.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "--cpus_per_block goes with --ray" in lines[0]
