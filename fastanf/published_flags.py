"""The flags of the published ANF code that are not aliases of a setting here.

Some stand for other settings, some ask for what is done anyway, some have no counterpart; the
aliases stand with the settings themselves.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fastanf.config import OPTIONS
from fastanf.options import at_least, shown
from fastanf.settings import MOST_LAYERS, MOST_WIDTH

ELSEWHERE: Mapping[str, str] = {
    "algorithm": "it follows from --policy",
    "variant": "it follows from --vary",
    "env_init_friction": "it belongs to a task that is not offered; leave it out",
    "empty_buffer_on_env_change": "the replay is kept; see --permute_replay",
    "refill_timesteps": "the replay is kept; see --permute_replay",
    "refill_mode": "the replay is kept; see --permute_replay",
    "load_model": "use `python -m fastanf resume RUN_DIR`",
    "save_model_period": "use --checkpoint_minutes",
    "outname": "use --run_dir",
    "load_noise_distribution": "use --noise_distribution empirical",
    "ann_earlystoptopologychange": "connections change to the end; use --topology static for none",
    "not_save_model": "records and checkpoints are always written; use --run_dir to say where",
    "not_save_results": "records and checkpoints are always written; use --run_dir to say where",
    "not_print_comments": "use --plain, and send the output elsewhere",
}
"""Flags (of the published code, mostly) without a counterpart: what to use instead."""

ALREADY_SO = ("save_model", "save_results", "print_comments")
"""Published switches that ask for what is done anyway."""

TRANSLATED: Mapping[str, str] = {
    "adjust_env_period": "--permute_period N; -1 is never",
    "num_hid_layers": "--hidden, as many widths",
    "num_hid_neurons": "--hidden, as wide",
    "policy_freq": "TD3 policies: --policy_delay N --target_period N",
    "sac_type": "only Gaussian",
}
"""Published flags that stand for other settings."""


def published_values(
    values: Mapping[str, Any], overrides: Mapping[str, Any], policies: Sequence[str]
) -> dict[str, Any]:
    """Settings that translated flags of the published code stand for.

    Args:
        values: text by flag, these flags among them.
        overrides: the settings that are given by their own flags.
        policies: as typed.

    Returns:
        Values by setting.

    Raises:
        ValueError: a value that is not allowed, or a setting that is given both ways.
    """
    result: dict[str, Any] = {}
    if values.get("sac_type", "gaussian").lower() != "gaussian":
        raise ValueError(f"--sac_type must be Gaussian, got {shown(values['sac_type'])}")
    if "adjust_env_period" in values:
        text = values["adjust_env_period"]
        never = is_number(text) and float(text) == -1
        period = OPTIONS["permute_period"].parse("0" if never else text, "--adjust_env_period")
        result["permute_period"] = period
    if "num_hid_layers" in values or "num_hid_neurons" in values:
        size = dataclasses.replace(OPTIONS["batch_size"], allowed=at_least(1, MOST_LAYERS))
        count = size.parse(values.get("num_hid_layers", "2"), "--num_hid_layers")
        size = dataclasses.replace(size, allowed=at_least(1, MOST_WIDTH))
        width = size.parse(values.get("num_hid_neurons", "256"), "--num_hid_neurons")
        result["hidden"] = (width,) * count
    if "policy_freq" in values:
        if not all(policy.upper().endswith("TD3") for policy in policies):
            raise ValueError("--policy_freq must go with TD3 policies only; use --policy_delay")
        period = OPTIONS["policy_delay"].parse(values["policy_freq"], "--policy_freq")
        result |= {"policy_delay": period, "target_period": period}
    for name in result:
        if name in overrides:
            raise ValueError(f"--{name} must not go with a published flag that stands for it")
    return result


def is_number(text: str) -> bool:
    """Whether the text spells a float."""
    try:
        float(text)
    except ValueError:
        return False
    return True
