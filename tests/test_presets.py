"""The policies as presets, and the lanes that a study expands to."""

from typing import Any

import pytest

from fastanf.config import TrainConfig
from fastanf.presets import PRESET_ALIASES, PRESETS, expand, lane_config

SPARSITY = ("global_sparsity", "input_layer_sparsity", "topology", "optimizer")


def picked(config: TrainConfig, *names: str) -> tuple[Any, ...]:
    return tuple(config.get(name) for name in names)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("SAC", (None, None, "static", "Adam")),
        ("TD3", (None, None, "static", "Adam")),
        ("ANF-SAC", (None, 0.8, "set", "MaskAdam")),
        ("ANF-TD3", (None, 0.8, "set", "MaskAdam")),
        ("Static-SAC", (None, 0.8, "static", "MaskAdam")),
        ("Static-TD3", (None, 0.8, "static", "MaskAdam")),
        ("TowS-SAC", (0.9, None, "set", "MaskAdam")),
        ("TowS-TD3", (0.9, None, "set", "MaskAdam")),
        ("DS-SAC", (0.5, None, "set", "Adam")),
        ("DS-TD3", (0.5, None, "set", "Adam")),
    ],
)
def test_presets_say_how_sparse_and_which_optimizer(policy: str, expected: tuple[Any, ...]) -> None:
    config = lane_config(policy)
    assert picked(config, *SPARSITY) == expected
    assert config.algorithm.policy == policy
    is_td3 = policy.endswith("TD3")
    assert config.algorithm.algorithm == ("td3" if is_td3 else "sac")
    assert config.algorithm.policy_delay == (2 if is_td3 else 1)
    assert set(PRESETS) >= {policy}


def test_target_schedules_of_the_presets() -> None:
    schedule = {name: picked(lane_config(name), "tau", "target_period") for name in PRESETS}
    assert schedule.pop("DS-SAC") == (1.0, 1000)
    for name, values in schedule.items():
        assert values == (0.005, 2 if name.endswith("TD3") else 1)


def test_dynamic_sparse_presets_have_their_papers_numbers() -> None:
    names = ("sparsity_distribution", "batch_size", "learning_rate", "drop_fraction")
    assert picked(lane_config("DS-SAC"), *names) == ("ER", 256, 3e-4, 0.1)
    assert picked(lane_config("DS-TD3"), *names) == ("ER", 100, 1e-3, 0.05)
    assert picked(lane_config("ANF-SAC"), *names) == ("uniform", 100, 1e-3, 0.05)


@pytest.mark.parametrize(("alias", "name"), PRESET_ALIASES.items())
def test_other_names_of_a_policy_are_the_same_lane(alias: str, name: str) -> None:
    assert lane_config(alias) == lane_config(name)
    assert lane_config(alias.lower()) == lane_config(name)


def test_explicit_settings_are_over_the_presets() -> None:
    config = lane_config("DS-SAC", {"tau": 0.1, "batch_size": 64, "optimizer": "SGD", "zeta": 0.3})
    assert picked(config, "tau", "batch_size", "optimizer", "drop_fraction") == (
        (0.1, 64, "SGD", 0.3)
    )


def test_default_sparsity_gives_way_to_an_explicit_one() -> None:
    def levels(policy: str, **given: float) -> tuple[Any, ...]:
        return picked(lane_config(policy, given), "global_sparsity", "input_layer_sparsity")

    assert levels("ANF-SAC", global_sparsity=0.5) == (0.5, None)
    assert levels("ANF-SAC", input_layer_sparsity=0.95) == (None, 0.95)
    assert levels("ANF-SAC", input_layer_sparsity=0.0) == (None, 0.0)
    assert levels("TowS-TD3", global_sparsity=0.7) == (0.7, None)
    assert levels("TowS-TD3", input_layer_sparsity=0.5) == (0.9, 0.5)


def test_a_dense_policy_stays_dense_whatever_the_sparsity_settings() -> None:
    given = {
        "global_sparsity": 0.9,
        "input_layer_sparsity": 0.8,
        "topology": "set",
        "optimizer": "MaskAdam",
        "drop_fraction": 0.3,
    }
    assert lane_config("SAC", given) == lane_config("SAC")
    assert lane_config("SAC", {"optimizer": "SGD", "lr": 0.1}).get("optimizer") == "SGD"
    with pytest.raises(ValueError, match="input_layer_sparsity"):
        lane_config("SAC", {"input_layer_sparsity": 2.0})


def test_lanes_are_the_product_of_tasks_policies_values_and_seeds() -> None:
    lanes = expand(
        ["ANF-SAC", "Static-SAC"],
        {"learning_rate": [1e-3, 1e-4], "hidden": [(64, 64), (32,)]},
        num_seeds=3,
        first_seed=5,
        envs=["Hopper-v3", "Ant-v3"],
    ).lanes
    assert len(lanes) == 2 * 2 * 4 * 3
    assert lanes[0].algorithm.variant == "learning_rate=0.001,hidden=64x64"
    assert [lane.algorithm.seed for lane in lanes[:4]] == [5, 6, 7, 5]
    assert lanes[-1].task.env == "Ant-v3"
    assert len(set(lanes)) == len(lanes)


def test_without_varied_settings_the_variant_is_empty() -> None:
    assert [lane.algorithm.variant for lane in expand(["SAC", "TD3"]).lanes] == ["", ""]


def test_a_dense_lane_is_not_repeated_under_varied_sparsity() -> None:
    expansion = expand(["ANF-SAC", "SAC"], {"input_layer_sparsity": [0.8, 0.95]}, num_seeds=2)
    policies = [lane.algorithm.policy for lane in expansion.lanes]
    assert (policies.count("ANF-SAC"), policies.count("SAC")) == (4, 2)
    assert {lane.algorithm.variant for lane in expansion.lanes} == {
        "",
        "input_layer_sparsity=0.8",
        "input_layer_sparsity=0.95",
    }
    assert expansion.notes == ("2 lanes equal to others were left out",)


def test_a_static_lane_is_not_repeated_under_a_varied_drop_fraction() -> None:
    lanes = expand(["Static-SAC"], {"drop_fraction": [0.1, 0.2], "lr": [1e-3, 1e-4]}).lanes
    assert [lane.algorithm.variant for lane in lanes] == [
        "learning_rate=0.001",
        "learning_rate=0.0001",
    ]


def test_settings_without_effect_are_noted() -> None:
    expansion = expand(["SAC"], overrides={"input_layer_sparsity": 0.8, "exploration_noise": 0.3})
    assert [note.split()[0] for note in expansion.notes] == [
        "input_layer_sparsity",
        "exploration_noise",
    ]
    both = expand(["SAC", "ANF-TD3"], overrides={"zeta": 0.1, "exploration_noise": 0.3})
    assert both.notes == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policies": ["SAC", "sac"]}, "policy must name different values.*'SAC' twice"),
        ({"policies": []}, "policy must be one or more of"),
        ({"policies": ["SS-SAC", "Static-SAC"]}, "'Static-SAC' twice"),
        ({"envs": ["Ant-v3", "Ant-v3"]}, "'Ant-v3' twice"),
        ({"vary": {"lr": [1e-3, 1e-3]}}, "learning_rate must name different values"),
        ({"vary": {"lr": [1e-3], "learning_rate": [1e-4]}}, "learning_rate is given twice"),
        ({"vary": {"lr": []}}, "learning_rate must have one or more values"),
        ({"vary": {"zeta": [2.0]}}, "drop_fraction must be a number in"),
        ({"vary": {"seed": [1, 2]}}, "--num_seeds"),
        ({"vary": {"algorithm": ["td3"]}}, "use --policy"),
        ({"vary": {"zeta": [0.1]}, "overrides": {"drop_fraction": 0.2}}, "one or the other"),
        ({"vary": {"zetta": [0.1]}}, "did you mean"),
    ],
)
def test_contradicting_studies_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        expand(**{"policies": ["ANF-SAC"], **arguments})
