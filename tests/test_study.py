"""Studies as files: what they say, how flags and arms change it, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastanf import study
from fastanf.__main__ import main
from fastanf.config import OPTIONS, RUN_OPTIONS
from fastanf.presets import expand
from fastanf.study import StudySpec, find_study, load_study, parse_study, shipped_names

WHOLE = '''
name = "small"
about = """One sentence
on two lines."""
policy = ["ANF-SAC", "SAC"]
env = "Hopper-v3"
num_seeds = 2
seed = 3
[settings]
fake_features = 0.9
hidden = [64, 32]
max-timesteps = 1_000
[vary]
drop_fraction = [0.05, 0.1]
learning_rate = [1e-3, 1e-4]
'''
ARMS = """
name = "arms"
policy = "SAC"
[settings]
noise_fraction = 0.9
temperature = 0.1
[vary]
learning_rate = [1e-3, 1e-4]
[[arm]]
[[arm]]
settings.temperature = 0.3
[[arm]]
policy = ["ANF-SAC", "Static-SAC"]
[arm.settings]
learning_rate = 3e-4
[arm.vary]
drop_fraction = [0.1, 0.2]
"""


def series(spec: StudySpec) -> list[tuple[str, str]]:
    return list(
        dict.fromkeys((x.algorithm.policy, x.algorithm.variant) for x in spec.expand().lanes)
    )


# --- what a file says -----------------------------------------------------------------------------


def test_a_file_is_the_expansion_of_what_it_says() -> None:
    spec = parse_study(WHOLE)
    assert (spec.name, spec.about, spec.text) == ("small", "One sentence on two lines.", WHOLE)
    expected = expand(
        ["ANF-SAC", "SAC"],
        {"drop_fraction": [0.05, 0.1], "learning_rate": [1e-3, 1e-4]},
        num_seeds=2,
        overrides={"noise_fraction": 0.9, "hidden": (64, 32), "max_timesteps": 1000},
        first_seed=3,
        envs=["Hopper-v3"],
    )
    assert spec.expand() == expected
    assert spec.expand().notes == ("4 lanes equal to others were left out",)


def test_what_a_file_leaves_out_is_as_on_the_command_line() -> None:
    assert parse_study('name = "x"').expand() == expand(["ANF-SAC"], envs=["HalfCheetah-v3"])


def test_values_may_be_spelled_as_on_the_command_line() -> None:
    text = 'name = "x"\n[settings]\nhidden = "64x32"\ninput_layer_sparsity = "none"\n'
    (lane,) = parse_study(text + 'optimizer = "maskadam"').expand().lanes
    assert lane.network.hidden == (64, 32)
    assert lane.sparsity.input_layer_sparsity == 0.8  # the policy's own where none is given
    assert lane.optimizer.optimizer == "MaskAdam"


@pytest.mark.parametrize("name", shipped_names())
def test_every_shipped_study_is_found_and_expands(name: str) -> None:
    spec = load_study(name)
    assert spec.name == name and len(spec.about) > 50
    lanes = spec.expand().lanes
    assert len(lanes) >= 20 and spec.num_seeds == 5
    of_a_series = {
        (x.task.env, x.noise.noise_fraction, x.algorithm.policy, x.algorithm.variant) for x in lanes
    }
    assert len(lanes) == spec.num_seeds * len(of_a_series)


def test_studies_are_found_by_path_and_shipped_ones_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shipped = study.SHIPPED / "anf_noise.toml"
    for file in ("anf_noise", "anf_noise.toml", "studies/anf_noise.toml", "studies/anf_noise"):
        assert find_study(file) == shipped
    with pytest.raises(ValueError, match="elsewhere/anf_noise"):
        find_study("elsewhere/anf_noise.toml")
    (tmp_path / "studies").mkdir()
    own = tmp_path / "studies" / "anf_noise.toml"
    own.write_text('name = "own"')
    assert load_study("studies/anf_noise.toml").name == "own"
    assert load_study("anf_noise").name == "anf_noise"
    with pytest.raises(ValueError, match=r"one of anf_.*'anf_nose' \(did you mean anf_noise"):
        find_study("anf_nose")
    with pytest.raises(ValueError, match="--study"):
        find_study("studies")  # a folder
    own.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="cannot be read"):
        load_study("studies/anf_noise.toml")


def test_shipped_studies_are_listed_with_their_lanes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["studies"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in shipped_names():
        assert f"{name}: {len(load_study(name).expand().lanes)} lanes" in lines
    assert max(map(len, lines)) <= 100
    with pytest.raises(SystemExit):
        main(["studies", "anf_noise"])


# --- arms -----------------------------------------------------------------------------------------


def test_a_study_with_arms_is_the_union_of_their_expansions() -> None:
    spec = parse_study(ARMS)
    assert series(spec) == [
        ("SAC", "learning_rate=0.001"),
        ("SAC", "learning_rate=0.0001"),
        ("SAC", "temperature=0.3,learning_rate=0.001"),
        ("SAC", "temperature=0.3,learning_rate=0.0001"),
        ("ANF-SAC", "learning_rate=0.0003,drop_fraction=0.1"),
        ("ANF-SAC", "learning_rate=0.0003,drop_fraction=0.2"),
        ("Static-SAC", "learning_rate=0.0003"),
    ]
    assert {lane.noise.noise_fraction for lane in spec.expand().lanes} == {0.9}
    assert spec.all_policies == ("SAC", "ANF-SAC", "Static-SAC")


def test_lanes_of_arms_that_are_equal_are_kept_once() -> None:
    text = 'name = "x"\npolicy = "SAC"\n[[arm]]\n[[arm]]\nsettings.temperature = 0.2\n'
    expansion = parse_study(text + 'settings.drop_fraction = 0.1\n[[arm]]\npolicy="sac"').expand()
    assert [lane.algorithm.variant for lane in expansion.lanes] == [""]
    assert expansion.notes == (
        "drop_fraction makes no difference to SAC with the other settings given",
        "2 lanes equal to others were left out",
    )


def test_an_arm_may_vary_what_is_shared_and_fix_what_is_varied() -> None:
    text = 'name = "x"\npolicy = "SAC"\n[settings]\ntau = 0.1\n[vary]\ndiscount = [0.9, 0.99]\n'
    spec = parse_study(text + "[[arm]]\nsettings.gamma = 0.5\nvary.tau = [0.2, 0.3]")
    assert series(spec) == [("SAC", "discount=0.5,tau=0.2"), ("SAC", "discount=0.5,tau=0.3")]


# --- flags beside a file --------------------------------------------------------------------------


def changed(text: str, settings: Any = (), vary: Any = (), **values: Any) -> StudySpec:
    return parse_study(text).changed(dict(settings), dict(vary), **values)


def test_flags_are_over_the_file() -> None:
    spec = changed(
        WHOLE,
        {"noise_fraction": 0.5, "drop_fraction": 0.3, "tau": 0.1},
        {"lr": [1e-2], "max_timesteps": [10, 20]},
        policies=("ANF-TD3",),
        envs=("Ant-v3",),
        num_seeds=1,
        first_seed=None,
    )
    lanes = spec.expand().lanes
    assert [lane.algorithm.variant for lane in lanes] == [
        "drop_fraction=0.3,learning_rate=0.01,max_timesteps=10",
        "drop_fraction=0.3,learning_rate=0.01,max_timesteps=20",
    ]
    lane = lanes[0]
    assert (lane.algorithm.policy, lane.task.env, lane.algorithm.seed) == ("ANF-TD3", "Ant-v3", 3)
    assert (lane.noise.noise_fraction, lane.algorithm.tau) == (0.5, 0.1)
    assert lane.network.hidden == (64, 32)


def test_a_flag_for_a_varied_setting_makes_lanes_of_the_whole_study() -> None:
    """Their variant too, so that what is trained first is extended by the whole study later."""
    whole = parse_study(WHOLE).expand().lanes
    part = changed(WHOLE, {"drop_fraction": 0.1}).expand().lanes
    assert 0 < len(part) < len(whole)
    assert set(part) < set(whole)


def test_settings_given_as_flags_reach_every_arm() -> None:
    spec = changed(ARMS, {"temperature": 0.5, "learning_rate": 0.01, "batch_size": 50}, num_seeds=2)
    assert series(spec) == [
        ("SAC", "learning_rate=0.01"),
        ("ANF-SAC", "learning_rate=0.01,drop_fraction=0.1"),
        ("ANF-SAC", "learning_rate=0.01,drop_fraction=0.2"),
        ("Static-SAC", "learning_rate=0.01"),
    ]
    lanes = spec.expand().lanes
    assert {(x.algorithm.temperature, x.algorithm.batch_size) for x in lanes} == {(0.5, 50)}
    assert len(lanes) == 8


@pytest.mark.parametrize(
    ("flag", "arguments"),
    [("--policy", {"policies": ("SAC",)}), ("--vary", {"vary": {"tau": [0.1]}})],
)
def test_arms_take_no_other_policies_or_axes(flag: str, arguments: Any) -> None:
    with pytest.raises(ValueError, match=rf"^{flag} does not go with study arms, which has arms"):
        changed(ARMS, **arguments)


def test_a_setting_both_given_and_varied_by_flags_is_refused() -> None:
    with pytest.raises(ValueError, match="study small: vary: drop_fraction has a value of its own"):
        changed(WHOLE, {"drop_fraction": 0.3}, {"zeta": [0.1]}).expand()


# --- what is refused ------------------------------------------------------------------------------

BAD_FILES = [
    ('name = "x', "not TOML"),
    ("[" * 3_000, "not TOML|nested too deeply"),
    ("a" + ".a" * 2_000, "line 1 has 4001 characters"),
    ("about = 'x'", "name must be letters.*got None"),
    ("name = '../x'", "name must be letters.*'../x'"),
    ("name = 3", "name must be letters.*got 3"),
    ("name = 'x'\nabout = 3", "about must be a text, got 3"),
    ("name = 'x'\npolicis = 'SAC'", r"'policis' must be one of name, about.*did you mean policy"),
    ("name = 'x'\nnoise_fraction = 0.9", "noise_fraction is a setting.*under settings"),
    ("name = 'x'\ndevice = 'cpu'", "device belongs to a command.*--device"),
    ("name = 'x'\nseed = 1\nfirst_seed = 2", "first_seed is given twice"),
    ("name = 'x'\nnum_seeds = 0", r"num_seeds must be an integer in \[1, 10000\], got 0"),
    ("name = 'x'\nnum_seeds = '3'", "num_seeds must be an integer .*got '3'"),
    ("name = 'x'\nfirst_seed = -1", "first_seed must be an integer in"),
    ("name = 'x'\npolicy = 'SCA'", r"policy must be one of SAC.*did you mean SAC"),
    ("name = 'x'\npolicy = []", r"policy must be a name or a list of names, got \[\]"),
    ("name = 'x'\nenv = 3", "env must be a name or a list of names, got 3"),
    ("name = 'x'\nsettings = 3", "settings must be a table, got 3"),
    ("name = 'x'\n[settings]\nnoise_fracton = 0.9", "settings: noise_fracton .*noise_fraction"),
    ("name = 'x'\n[settings]\nnoise_fraction = 1", r"settings: noise_fraction must be .*\[0, 1\)"),
    ("name = 'x'\n[settings]\nnoise_fraction = '0.9'", "settings: noise_fraction must .*'0.9'"),
    ("name = 'x'\n[settings]\nhidden = [256, 0]", "settings: hidden must be one or more widths"),
    ("name = 'x'\n[settings]\nbatch_size = 2024-01-01", "settings: batch_size must be an integer"),
    ("name = 'x'\n[settings]\nzeta = 0.1\ndrop_fraction = 0.2", "drop_fraction is given twice"),
    ("name = 'x'\n[settings]\nseed = 1", "settings: seed stands at the top"),
    ("name = 'x'\n[settings]\npolicy = 'SAC'", "settings: policy stands at the top"),
    ("name = 'x'\n[settings]\nplan = true", "settings: plan belongs to a command"),
    ("name = 'x'\n[settings]\nalgorithm = 'td3'", "settings: algorithm follows from the policy"),
    ("name = 'x'\n[vary]\ntau = 0.1", "vary: tau must be a list of one or more values, got 0.1"),
    ("name = 'x'\n[vary]\ntau = []", "vary: tau must be a list of one or more values"),
    ("name = 'x'\n[vary]\ntau = [0.1, 2]", r"vary: tau must be a number in \(0, 1\], got 2"),
    ("name = 'x'\n[settings]\ntau = 0.1\n[vary]\ntau = [0.2]", "vary: tau is given twice"),
    ("name = 'x'\narm = 3", r"arm must be tables: \[\[arm\]\]"),
    ("name = 'x'\n[arm]\npolicy = 'SAC'", r"arm must be tables: \[\[arm\]\]"),
    ("name = 'x'\n[[arm]]\n[[arm]]\nenv = 'x'", "arm 2: 'env' must be one of policy, settings"),
    ("name = 'x'\n[[arm]]\npolicy = 'SCA'", "arm 1: policy must be one of"),
    ("name = 'x'\n[[arm]]\nsettings.tau = 2", r"arm 1: settings: tau must be a number in \(0, 1\]"),
]


@pytest.mark.parametrize(("text", "words"), BAD_FILES, ids=[words for _, words in BAD_FILES])
def test_bad_files_are_refused_in_one_line_with_file_and_key(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^bad\.toml: .*({words})") as caught:
        parse_study(text, "bad.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("policy = ['SAC', 'sac']", "policy must name different values"),
        ("[vary]\ntau = [0.1, 0.1]", "vary: tau must name different values"),
        ("[settings]\nnoise_std = 2\nnoise_distribution = 'empirical'", "noise_std must be 1"),
        ("first_seed = 2147483647\nnum_seeds = 2", "seed must be an integer in"),
    ],
)
def test_values_that_do_not_go_together_are_refused_with_the_study(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=f"^study x: {words}"):
        parse_study(f"name = 'x'\n{text}").expand()


SCALARS = st.one_of(
    st.booleans(),
    st.integers(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["SAC", "none", "64x64", "csr"]),
    st.dates(),
    st.times(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=2)
    ),
    max_leaves=6,
)
NAMES = st.one_of(
    st.sampled_from([*OPTIONS, *RUN_OPTIONS]),
    st.sampled_from(["lr", "Fake-Features", "arm", "settings", "vary", "seed"]),
    st.text(max_size=6),
)
TABLES = st.dictionaries(NAMES, VALUES | st.lists(SCALARS, max_size=3), max_size=3)
STUDIES = st.fixed_dictionaries(
    {"name": st.just("x") | VALUES},
    optional={
        "about": VALUES,
        "policy": st.sampled_from(["SAC", ["SAC", "ANF-TD3"]]) | VALUES,
        "num_seeds": st.integers(1, 3) | VALUES,
        "settings": TABLES | VALUES,
        "vary": TABLES | VALUES,
        "arm": st.lists(st.fixed_dictionaries({}, optional={"settings": TABLES, "vary": TABLES}))
        | VALUES,
        "other": VALUES,
    },
)


@settings(max_examples=200, deadline=None)
@given(content=STUDIES)
def test_whatever_a_file_holds_it_is_a_study_or_refused_in_one_line(content: dict) -> None:
    def parsed(text: str, **_: Any) -> dict:
        return content

    with pytest.MonkeyPatch.context() as patch:  # tomllib has no writer
        patch.setattr(study.tomllib, "loads", parsed)
        try:
            spec = parse_study("", "file.toml")
        except ValueError as error:
            assert str(error).startswith("file.toml: ") and "\n" not in str(error)
            return
    try:
        lanes = spec.expand().lanes
    except ValueError as error:
        assert str(error).startswith("study x: ")
        return
    assert lanes and len({(x.algorithm.seed) for x in lanes}) == spec.num_seeds


@settings(max_examples=200, deadline=None)
@given(text=st.text(max_size=60))
def test_any_text_is_a_study_or_refused_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match=r"^file: ") as caught:
        parse_study(text, "file")
    assert "\n" not in str(caught.value)
