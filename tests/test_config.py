"""The settings of a run: defaults, names, refusals, rules over several."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from fastanf.config import (
    ALIASES,
    LANE_NAMES,
    OPTIONS,
    RUN_OPTIONS,
    STATIC_NAMES,
    TrainConfig,
    block_key,
    csr_obstacle,
    from_flat,
    group_help,
    train_option,
)
from fastanf.options import field_docs
from fastanf.presets import find_preset, lane_config
from fastanf.settings import RunConfig
from fastanf.sparse import distribution, schedule, topology


def picked(config: TrainConfig, *names: str) -> tuple[Any, ...]:
    return tuple(config.get(name) for name in names)


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
    {"topology": "snfs"},
    {"drop_schedule": "linear"},
    {"topology_end": 0.0},
    {"topology_end": 1.01},
    {"evolving_networks": "none"},
    {"sparse_networks": "critics"},
    {"topology_period": 0},
    {"new_weights": "one"},
    {"target_sparsity": "none"},
    {"layout": "coo"},
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


def test_what_csr_layers_cannot_serve_is_refused_with_what_is_allowed() -> None:
    sparse = {"input_layer_sparsity": 0.8, "layout": "csr"}
    changing = {"optimizer": "Adam", "topology": "set"}
    assert csr_obstacle(TrainConfig.of(**sparse)) is None
    for fine in ({"optimizer": "SGD"}, {"optimizer": "Adam", "topology": "static"}):
        assert csr_obstacle(TrainConfig.of(**sparse, **fine)) is None
    for values, words in (({"target_sparsity": "trim"}, "trim"), (changing, "optimizer Adam")):
        with pytest.raises(
            ValueError, match=rf"^layout csr .*{words}.* is layout masked, or auto$"
        ):
            TrainConfig.of(**sparse, **values)
        # Where no connection is missing there is nothing to refuse.
        assert TrainConfig.of(layout="csr", **values).sparsity.layout == "csr"
        assert csr_obstacle(TrainConfig.of(**values)) is not None


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


def test_choices_are_those_of_the_modules_that_use_them() -> None:
    assert OPTIONS["sparsity_distribution"].choices == distribution.METHODS
    assert OPTIONS["new_weights"].choices == topology.NEW_WEIGHTS
    assert OPTIONS["topology"].choices == tuple(topology.TOPOLOGIES)
    assert OPTIONS["drop_schedule"].choices == schedule.DROP_SCHEDULES


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


def test_what_lanes_of_a_block_share() -> None:
    key = block_key(TrainConfig())
    assert block_key(TrainConfig.of(seed=3, drop_fraction=0.2, optimizer="Adam")) == key
    assert block_key(TrainConfig.of(optimizer="SGD")) != key
    for values in (
        {"batch_size": 64},
        {"hidden": (64,)},
        {"noise_fraction": 0.5},
        {"layout": "masked"},
    ):
        assert block_key(TrainConfig.of(**values)) != key


def test_a_setting_may_be_named_by_an_alias_but_not_twice() -> None:
    assert TrainConfig.of(lr=0.5).get("learning_rate") == 0.5 == TrainConfig.of(lr=0.5).get("lr")
    with pytest.raises(ValueError, match="learning_rate is given twice, also as lr"):
        from_flat({"learning_rate": 0.5, "lr": 0.25})


def test_settings_fit_into_the_numbers_of_a_device() -> None:
    """float32 holds 3.4e38, int64 9.2e18; what counts the updates of a run is a product."""
    for name, value in {"learning_rate": 1e39, "temperature": 1e308, "noise_std": 1e31}.items():
        with pytest.raises(ValueError, match=rf"^{name} must be a number in .*1e\+30\]"):
            TrainConfig.of(**{name: value})
    longest = TrainConfig.of(max_timesteps=10**12, updates_per_step=10**6)
    assert longest.num_updates < 2**63
    with pytest.raises(ValueError, match="max_timesteps must be an integer of at least 1 and at"):
        TrainConfig.of(max_timesteps=10**12 + 1)


def test_names_hold_nothing_that_does_not_print() -> None:
    for value in ("a\nb", "a\0", "\x1b[2J", "\udc80", "\u202e"):
        with pytest.raises(ValueError, match="variant must be a name of characters that print"):
            TrainConfig.of(variant=value)
