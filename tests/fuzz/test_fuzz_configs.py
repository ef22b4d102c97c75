"""Settings of lanes and commands, whatever their values: refused in a line or planned and kept.

How to try more of them: tests/fuzz/fuzzing.py.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fastanf import disk, kernels, memory
from fastanf.cli import parse_command_line
from fastanf.config import OPTIONS, RUN_OPTIONS, TrainConfig, from_flat
from fastanf.flags import vary_values
from fastanf.grouping import make_blocks
from fastanf.lane_records import blocks_from_rows, config_from_row
from fastanf.options import Option
from fastanf.plan import make_plan
from fastanf.presets import PRESETS, expand, lane_config
from fastanf.rows import lanes_text, read_lanes
from fastanf.settings import RunConfig
from fastanf.splitting import split_blocks
from tests.fuzz.fuzzing import (
    ALL_OPTIONS,
    ODD_TEXTS,
    VALUES,
    command_outcome,
    good_values,
    outcome,
    says_which,
    settings_of,
    spellings,
    texts,
    tries,
)

TIB = 2**40
FLAGS = [name for name, entry in ALL_OPTIONS.items() if entry.is_flag]
SETTINGS = [name for name in FLAGS if name in OPTIONS and name not in ("policy", "env", "backend")]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, in which nothing is left; a machine with much memory and disk."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(memory, "available_bytes", lambda device: TIB)
    monkeypatch.setattr(disk, "free_disk_bytes", lambda path: 2**60)
    monkeypatch.setattr(kernels, "NATIVE", ctypes.CDLL(None))
    monkeypatch.setattr(kernels, "TRITON", kernels.TRITON)  # put back after --impl
    precision = kernels.PRECISION
    yield tmp_path
    kernels.use_precision(precision)


def check_kept(config: TrainConfig, path: Path) -> None:
    """A configuration comes back from lanes.csv."""
    row = {"lane": 0, "block": 0, **config.flat()}
    path.write_text(lanes_text([row]))
    (again,) = read_lanes(path)
    assert config_from_row(again) == config == from_flat(config.flat())
    path.unlink()


def plan_text_of(lanes: list[TrainConfig]) -> str:
    blocks = split_blocks(make_blocks(lanes), TIB)
    return make_plan(blocks, "cpu", TIB).text()


# --- one option -----------------------------------------------------------------------------------


@tries(400)
@given(data=st.data())
def test_any_value_of_a_setting_is_kept_or_refused_by_its_name(folder: Path, data: Any) -> None:
    entry = data.draw(st.sampled_from(list(OPTIONS.values())))
    value = data.draw(VALUES | good_values(entry))
    config, refusal = outcome(lambda: TrainConfig.of(**{entry.name: value}))
    if refusal:
        assert says_which(refusal, entry)
        return
    kept = config.get(entry.name)
    assert OPTIONS[entry.name].parse(entry.spell(kept)) == kept
    if entry.name not in ("policy", "algorithm"):
        check_kept(config, folder / "lanes.csv")


@tries(200)
@given(data=st.data())
def test_any_value_of_a_command_s_option_is_kept_or_refused_by_its_name(data: Any) -> None:
    entry = data.draw(st.sampled_from(list(RUN_OPTIONS.values())))
    value = data.draw(VALUES | good_values(entry))
    run, refusal = outcome(lambda: RunConfig(**{entry.name: value}))
    assert says_which(refusal, entry) if refusal else isinstance(run, RunConfig)


@pytest.mark.parametrize("entry", ALL_OPTIONS.values(), ids=lambda entry: entry.name)
def test_odd_text_of_an_option_is_read_as_one_value_or_refused(entry: Option) -> None:
    for text in ODD_TEXTS:
        value, refusal = outcome(functools.partial(entry.parse, text, f"--{entry.name}"))
        if refusal:
            assert refusal.startswith(f"--{entry.name} must be ") and "got " in refusal
        else:
            assert entry.parse(entry.spell(value)) == value


# --- several options ------------------------------------------------------------------------------


@tries(150)
@given(policy=st.sampled_from(sorted(PRESETS)), values=settings_of(SETTINGS))
def test_settings_that_go_together_are_kept_and_planned(
    folder: Path, policy: str, values: dict[str, Any]
) -> None:
    config, refusal = outcome(lambda: lane_config(policy, values))
    if refusal:
        return
    check_kept(config, folder / "lanes.csv")
    text, refusal = outcome(lambda: plan_text_of([config, config.replace(seed=1)]))
    assert refusal or text.startswith("plan: ")


# --- the command line -----------------------------------------------------------------------------


@st.composite
def command_lines(draw: Any) -> list[str]:
    """A few flags with typed values."""
    arguments: list[str] = []
    for name in draw(st.lists(st.sampled_from(FLAGS), min_size=1, max_size=5)):
        entry = ALL_OPTIONS[name]
        flag, text = draw(spellings(entry)), draw(texts(entry))
        if name == "vary":
            varied = OPTIONS[draw(st.sampled_from(SETTINGS))]
            text = f"{varied.name}={','.join(draw(st.lists(texts(varied), max_size=3)))}"
        arguments += draw(st.sampled_from([[flag, text], [f"{flag}={text}"], [flag], [text, flag]]))
    return arguments


@tries(250)
@given(arguments=command_lines())
def test_any_command_line_is_a_study_or_refused_in_a_line(
    folder: Path, arguments: list[str]
) -> None:
    study, _ = command_outcome(lambda: parse_command_line(arguments))
    assert list(folder.iterdir()) == []
    if study is not None:
        assert study.lanes and study.plan.text()


@tries(250)
@given(data=st.data())
def test_a_flag_with_a_bad_value_is_refused_by_its_name(data: Any) -> None:
    entry = ALL_OPTIONS[data.draw(st.sampled_from(FLAGS))]
    assume(entry.name not in ("vary", "plan"))
    arguments = [f"{data.draw(spellings(entry))}={data.draw(texts(entry))}", "--run_dir=new"]
    _, refusal = command_outcome(
        lambda: parse_command_line(arguments[: 1 + (entry.name != "run_dir")])
    )
    if refusal:
        assert says_which(refusal, entry), refusal


HUGE = {
    "--hidden 1000000000": "hidden",
    "--hidden 1000000x1000000": "memory",
    f"--hidden {'1x' * 5000}1": "hidden",
    "--num_hid_layers 1000000000": "num_hid_layers",
    "--num_hid_layers 3 --num_hid_neurons 1e30": "num_hid_neurons",
    "--num_seeds 1000000000": "num_seeds",
    "--num_seeds 10000 --policy SAC TD3 ANF-SAC": "20000",
    "--envs_per_lane 1000000000": "envs_per_lane",
    "--envs_per_lane 1000000": "envs_per_lane",
    "--eval_episodes 1000000000": "eval_episodes",
    "--batch_size 10000000 --replay_capacity 1e12 --max_timesteps 1e12": "memory",
    "--max_timesteps 1000000000000000000": "max_timesteps",
    "--updates_per_step 1e18": "updates_per_step",
    "--topology_period 1e19": "topology_period",
    "--noise_fraction 0.9999999999999999": "memory",
    "--num_threads 1e30": "num_threads",
    "--learning_rate 1e308": "learning_rate",
    "--activation elu --activation_args 1e300": "activation_args",
    "--seed 1e30": "seed",
    "--run_dir " + "a" * 5000: "run_dir",
    "--study " + "a" * 5000: "study",
    "--study ~nobody-there/x.toml": "study",
    "--run_dir ~nobody-there/x": "run_dir",
    "--temperature -1e-9": "temperature",
    "--temperature -inf": "temperature",
    "--" + "x" * 10**6: "option",
    "--policy " + "x" * 10**6: "policy",
    "--env " + "x" * 10**6: "env",
    "--device " + "x" * 10**5: "device",
    "--backend " + "x" * 10**5: "backend",
    "--vary " + "x" * 10**5: "vary",
    "--vary " + "x" * 10**5 + "=1": "setting",
}


@pytest.mark.parametrize("line", HUGE, ids=lambda line: line[:60])
def test_huge_values_are_refused_by_name(line: str) -> None:
    study, refusal = command_outcome(lambda: parse_command_line(line.split()))
    assert study is None and HUGE[line] in refusal, refusal


def test_the_most_that_is_allowed_is_planned() -> None:
    line = "--max_timesteps 1e12 --num_seeds 2000 --eval_episodes 100000"
    study = parse_command_line(line.split())
    assert len(study.lanes) == 2000 and "plan: 2,000 lanes" in study.plan.text()


# --- varied settings ------------------------------------------------------------------------------


@tries(100)
@given(data=st.data())
def test_any_varied_values_make_lanes_or_are_refused(data: Any) -> None:
    def draw_item() -> str:
        entry = OPTIONS[data.draw(st.sampled_from(list(OPTIONS)))]
        return f"{entry.name}={','.join(data.draw(st.lists(texts(entry), max_size=4)))}"

    items = [draw_item() for _ in range(data.draw(st.integers(1, 2)))]
    expansion, refusal = outcome(lambda: expand(["ANF-SAC", "TD3"], vary_values(items)))
    assert refusal or len(expansion.lanes) == len(set(expansion.lanes)) > 0


@pytest.mark.parametrize("num_values", [30_000, 10**6])
def test_too_many_varied_values_are_refused(num_values: int) -> None:
    texts_of_values = ",".join(map(str, range(1, num_values + 1)))
    with pytest.raises(ValueError, match="--vary topology_period must have at most 20000 values"):
        vary_values([f"topology_period={texts_of_values}"])
    values = {"topology_period": list(range(1, num_values + 1))}
    with pytest.raises(ValueError, match="at most 20000 lanes"):
        expand(["SAC"], values)


def test_too_many_combinations_are_refused_before_they_are_made() -> None:
    values = [k / 1000 for k in range(900)]
    names = ["drop_fraction", "global_sparsity", "temperature", "discount"]
    vary: dict[str, list[float]] = dict.fromkeys(names, values)
    with pytest.raises(ValueError, match="must be at most 20000 lanes, got 656100000000;"):
        expand(["ANF-SAC"], vary)


# --- lanes.csv ------------------------------------------------------------------------------------

GOOD_ROWS: list[Mapping[str, Any]] = [
    {"lane": k, "block": k // 2, **lane.flat()}
    for k, lane in enumerate(
        [lane_config(policy).replace(seed=s) for policy in ("SAC", "ANF-TD3") for s in (0, 1)]
    )
]


@tries(300)
@given(data=st.data())
def test_any_cell_of_lanes_csv_is_read_or_refused_by_lane_and_column(
    folder: Path, data: Any
) -> None:
    rows = [dict(row) for row in GOOD_ROWS]
    number = data.draw(st.integers(0, 3))
    name = data.draw(st.sampled_from(["lane", "block", *OPTIONS]))
    rows[number][name] = data.draw(VALUES.filter(lambda value: not isinstance(value, bytes)))
    path = folder / "lanes.csv"
    text, _ = outcome(lambda: lanes_text(rows))
    if text is None:
        return
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    blocks, refusal = outcome(lambda: blocks_from_rows(read_lanes(path)))
    path.unlink()
    if refusal:
        assert "lanes.csv" in refusal
    else:
        assert [len(block) for block in blocks] == [2, 2]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"momentum": 0.9}, "lane 1 has the column 'momentum', which this version does not know"),
        ({"block": 1}, "lane 2: algorithm must be that of the other lanes of block 1"),
        ({"block": True}, "block must be"),
        ({"block": None}, "block must be 0 or 1, got None"),
        ({"batch_size": 7}, "lane 1: batch_size must be that of the other lanes of block 0"),
        ({"policy": "Evil"}, "lane 1: policy must be one of"),
        ({"algorithm": "td3"}, "lane 1: algorithm must be sac with policy SAC, got td3"),
        ({"optimizer": "SGD"}, "lane 1: optimizer must be that of the other lanes"),
    ],
)
def test_lanes_that_cannot_be_of_one_run_are_refused(change: dict[str, Any], words: str) -> None:
    rows = [dict(row) for row in GOOD_ROWS]
    rows[1] |= change
    with pytest.raises(ValueError, match=words):
        blocks_from_rows(rows)


def test_a_column_that_an_older_version_did_not_write_has_its_default() -> None:
    row = {name: value for name, value in GOOD_ROWS[0].items() if name != "weight_decay"}
    assert config_from_row(row) == config_from_row(GOOD_ROWS[0])
    for name in ("policy", "env", "seed", "algorithm", "variant", "max_timesteps"):
        less = {key: value for key, value in GOOD_ROWS[0].items() if key != name}
        with pytest.raises(ValueError, match=f"lacks the columns {name}"):
            config_from_row(less)


def test_no_lanes_are_no_run() -> None:
    with pytest.raises(ValueError, match="holds no lane"):
        blocks_from_rows([])
