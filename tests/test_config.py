"""Settings, presets, and the lanes that a study expands to."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from fastanf import activations
from fastanf.config import (
    ACTIVATIONS,
    ALIASES,
    LANE_NAMES,
    OPTIONS,
    RUN_OPTIONS,
    STATIC_NAMES,
    RunConfig,
    TrainConfig,
    block_key,
    field_docs,
    from_flat,
    group_help,
    interval,
    train_option,
)
from fastanf.presets import PRESET_ALIASES, PRESETS, expand, find_preset, lane_config
from fastanf.sparse import distribution, topology

SPARSITY = ("global_sparsity", "input_layer_sparsity", "topology", "optimizer")


def picked(config: TrainConfig, *names: str) -> tuple[Any, ...]:
    return tuple(config.get(name) for name in names)


# --- settings -------------------------------------------------------------------------------------


def test_defaults_are_the_papers() -> None:
    config = TrainConfig()
    assert picked(config, "discount", "tau", "batch_size", "learning_rate", "weight_decay") == (
        (0.99, 0.005, 100, 1e-3, 2e-4)
    )
    assert picked(config, "max_timesteps", "start_timesteps", "eval_freq", "eval_episodes") == (
        (1_000_000, 25_000, 5000, 10)
    )
    assert picked(config, "temperature", "target_noise", "target_noise_clip") == (0.2, 0.2, 0.5)
    assert picked(config, "drop_fraction", "topology_period", "exploration_noise") == (
        (0.05, 1000, 0.1)
    )
    assert picked(config, "hidden", "activation", "new_weights") == ((256, 256), "relu", "zero")


def test_every_setting_is_read_replaced_and_listed_by_its_flat_name() -> None:
    config = TrainConfig()
    flat = config.flat()
    assert list(flat) == list(OPTIONS)
    for name, value in flat.items():
        assert config.get(name) == value
        assert config.replace(**{name: value}) == config
    changed = config.replace(drop_fraction=0.25, hidden=[400, 300])
    assert changed.sparsity.drop_fraction == 0.25
    assert changed.network.hidden == (400, 300)
    assert config.get("drop_fraction") == 0.05


def test_every_setting_is_lane_or_static() -> None:
    assert set(LANE_NAMES) | set(STATIC_NAMES) == set(OPTIONS)
    assert not set(LANE_NAMES) & set(STATIC_NAMES)
    assert {"policy", "seed", "drop_fraction", "global_sparsity", "learning_rate"} <= set(
        LANE_NAMES
    )
    assert {"env", "hidden", "batch_size", "algorithm", "noise_fraction"} <= set(STATIC_NAMES)


def test_every_setting_has_a_help_text() -> None:
    for entry in (*OPTIONS.values(), *RUN_OPTIONS.values()):
        assert len(entry.help) > 10, entry.name
    assert all(about for _, about in group_help())
    assert field_docs(RunConfig)["first_seed"] == "The first seed."


def test_no_two_settings_share_a_name_or_an_alias() -> None:
    names = [*OPTIONS, *RUN_OPTIONS]
    assert len(names) == len(set(names))
    aliases = [alias for e in (OPTIONS | RUN_OPTIONS).values() for alias in e.aliases]
    # The command's --seed is the first seed; a lane's own seed is no flag.
    assert not (set(aliases) & set(names)) - {"seed"}
    assert len(aliases) == len(set(aliases))


def test_flat_settings_survive_json() -> None:
    config = lane_config("DS-TD3", {"hidden": (64, 32, 16), "activation_args": (0.5,)})
    assert from_flat(json.loads(json.dumps(config.flat()))) == config


@pytest.mark.parametrize("entry", OPTIONS.values(), ids=lambda entry: entry.name)
def test_spelling_and_parsing_are_inverse(entry: Any) -> None:
    values = [entry.default, *entry.choices]
    values += [(3, 2)] if entry.is_tuple else []
    for value in values:
        assert entry.parse(entry.spell(value)) == value


def test_integers_may_be_written_as_floats() -> None:
    assert train_option("max_timesteps").parse("1e6") == 1_000_000
    assert isinstance(TrainConfig.of(eval_freq=5e3).get("eval_freq"), int)
    assert isinstance(TrainConfig.of(temperature=1).get("temperature"), float)


def test_words_are_read_in_any_case() -> None:
    config = TrainConfig.of(optimizer="maskadam", sparsity_distribution="er")
    assert picked(config, "optimizer", "sparsity_distribution") == ("MaskAdam", "ER")


BAD_VALUES: list[Mapping[str, Any]] = [
    {"noise_fraction": 1.0},
    {"noise_fraction": -0.1},
    {"noise_std": 0.0},
    {"noise_std": float("inf")},
    {"noise_distribution": "gausian"},
    {"noise_redraw": "per_update"},
    {"permute_period": -1},
    {"global_sparsity": 1.0},
    {"global_sparsity": float("nan")},
    {"input_layer_sparsity": -0.1},
    {"sparsity_distribution": "ERK"},
    {"drop_fraction": 1.1},
    {"topology": "rigl"},
    {"topology_period": 0},
    {"new_weights": "one"},
    {"target_sparsity": "none"},
    {"layout": "csr"},
    {"discount": 1.0},
    {"tau": 0.0},
    {"target_period": 0},
    {"batch_size": 0},
    {"batch_size": 2.5},
    {"batch_size": True},
    {"policy_delay": 0},
    {"temperature": -1.0},
    {"automatic_temperature": 1},
    {"target_noise": -0.1},
    {"exploration_noise": -0.1},
    {"optimizer": "RMSprop"},
    {"learning_rate": 0.0},
    {"weight_decay": -1e-4},
    {"hidden": ()},
    {"hidden": (256, 0)},
    {"hidden": "256"},
    {"activation": "gelu"},
    {"activation_args": (float("nan"),)},
    {"max_timesteps": 0},
    {"start_timesteps": 0},
    {"updates_per_step": 0},
    {"eval_freq": 0},
    {"eval_episodes": 0},
    {"replay_capacity": 1},
    {"replay_capacity": 99},
    {"start_timesteps": 4, "envs_per_lane": 8},
    {"noise_std": 2.0, "noise_distribution": "empirical"},
    {"envs_per_lane": 0},
    {"seed": -1},
    {"env": 3},
]


@pytest.mark.parametrize("values", BAD_VALUES, ids=str)
def test_bad_values_are_refused_in_one_line_with_name_value_and_what_is_allowed(
    values: Mapping[str, Any],
) -> None:
    name, value = next(iter(values.items()))
    with pytest.raises(ValueError) as caught:
        TrainConfig.of(**values)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{name} must be ")
    assert f"got {value!r}" in message or f"got {value:g}" in message


def test_mistyped_names_and_words_get_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"did you mean drop_fraction"):
        TrainConfig.of(drop_fracton=0.1)
    with pytest.raises(ValueError, match=r"did you mean Adam"):
        TrainConfig.of(optimizer="Adm")
    with pytest.raises(ValueError, match=r"did you mean ANF-SAC"):
        find_preset("ANF-SCA")


def test_run_settings_are_checked_too() -> None:
    cases: list[dict[str, Any]] = [{"num_seeds": 0}, {"first_seed": -1}, {"checkpoint_minutes": 0}]
    for values in cases:
        with pytest.raises(ValueError, match=next(iter(values))):
            RunConfig(**values)


@pytest.mark.parametrize(
    ("text", "inside", "outside"),
    [
        ("[0, 1)", (0, 0.5), (-1e-9, 1)),
        ("(0, 1]", (1e-9, 1), (0, 1.1)),
        ("(0, inf)", (1e-9, 1e9), (0, float("inf"), float("nan"))),
    ],
)
def test_intervals_hold_what_their_text_says(text: str, inside: Any, outside: Any) -> None:
    allowed = interval(text)
    assert all(allowed.test(value) for value in inside)
    assert not any(allowed.test(value) for value in outside)


def test_choices_are_those_of_the_modules_that_use_them() -> None:
    assert set(ACTIVATIONS) == set(activations.ACTIVATIONS)
    assert OPTIONS["sparsity_distribution"].choices == distribution.METHODS
    assert OPTIONS["new_weights"].choices == topology.NEW_WEIGHTS


def test_a_short_run_needs_no_larger_replay() -> None:
    config = TrainConfig.of(max_timesteps=1000, start_timesteps=500)
    assert config.effective_replay_capacity == 1500
    assert config.replace(replay_capacity=700).effective_replay_capacity == 700


PUBLISHED = {
    "fake_features": "noise_fraction",
    "fake_noise_std": "noise_std",
    "sparsity_distribution_method": "sparsity_distribution",
    "output_layer_sparse": "sparse_output_layer",
    "ann_setzeta": "drop_fraction",
    "ann_asctopologychangeperiod": "topology_period",
    "init_new_weights_method": "new_weights",
    "automatic_entropy_tuning": "automatic_temperature",
    "target_update_interval": "target_period",
    "policy_noise": "target_noise",
    "noise_clip": "target_noise_clip",
    "expl_noise": "exploration_noise",
    "lr": "learning_rate",
    "act_func_args": "activation_args",
    "act_func_per_neuron": "activation_per_neuron",
    "buffer_size": "replay_capacity",
    "seed": "first_seed",
    "wandb_mode": "wandb_mode",
}


def test_published_names_are_aliases() -> None:
    assert {alias: ALIASES[alias] for alias in PUBLISHED} == PUBLISHED
    assert train_option("--ann-setZeta").name == "drop_fraction"


# --- presets --------------------------------------------------------------------------------------


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


# --- lanes of a study -----------------------------------------------------------------------------


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


def test_what_lanes_of_a_block_share() -> None:
    key = block_key(TrainConfig())
    assert block_key(TrainConfig.of(seed=3, drop_fraction=0.2, optimizer="Adam")) == key
    assert block_key(TrainConfig.of(optimizer="SGD")) != key
    for values in ({"batch_size": 64}, {"hidden": (64,)}, {"noise_fraction": 0.5}):
        assert block_key(TrainConfig.of(**values)) != key
