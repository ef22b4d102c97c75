"""Blocks of lanes for measuring: which lanes they hold, a replay as full as in a long run.

Axes: L lanes, T ring slots in time, E environments per lane, D real features. Everything here leans
on old and stable parts of fastanf only, because --compare runs it on earlier revisions too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import stand_in
import torch

from envs.interface import EnvSpec
from fastanf import kernels
from fastanf.block import TrainingBlock
from fastanf.cli import parse_command_line
from fastanf.config import ALIASES, OPTIONS, TrainConfig, block_key, normalize
from fastanf.grouping import block_of, make_blocks
from fastanf.memory import available_bytes, resolve_device
from fastanf.presets import lane_config
from fastanf.replay import replay_bytes
from fastanf.replay_state import ENDS, GOES_ON, restore_span_, span_tensors

NUM_REAL_STEPS = 256
"""Lock steps with random actions that are really made, then repeated through the ring."""
NUM_TRANSITIONS = 100_000
"""Transitions a lane that the replay is filled with where memory allows: 14 MB of a HalfCheetah and
160 MB of a Humanoid, more than a processor's cache once there are some lanes."""
_SMALL_CAPACITY = 4096  # while the command line is checked; see `parse_lanes`
_MEMORY_SHARE = 0.4  # of what is free; the filling takes twice a replay for a moment

_OTHERWISE_SAID = {
    "policy", "env", "backend", "noise_fraction", "global_sparsity", "input_layer_sparsity",
    "batch_size", "layout", "envs_per_lane", "variant", "seed", "max_timesteps", "start_timesteps",
    "eval_freq", "eval_episodes", "replay_capacity",
}  # fmt: skip
"""Settings that have a column, or none because an update's work does not depend on them."""

stand_in.register()


class Described(NamedTuple):
    """What train.py's flags say about lanes of one kind."""

    by_policy: dict[str, list[TrainConfig]]
    """Equally many lanes of each policy, one a seed."""
    device: torch.device
    num_threads: int
    """0: all."""


def parse_lanes(train_flags: Sequence[str], num_seeds: int) -> Described:
    """The lanes that train.py's flags describe; --impl, --matmul_precision and --num_threads take
    effect.

    Args:
        train_flags: a number of seeds among them counts for nothing.
        num_seeds: lanes of each policy.

    Raises:
        ValueError: the lanes differ by more than policy and seed.
        SystemExit: code 2 after one line on stderr for flags that train.py refuses.
    """
    given = [f"--replay_capacity={_SMALL_CAPACITY}", *train_flags, "--num_seeds", str(num_seeds)]
    study = parse_command_line(given)
    if study.run.vary:
        raise ValueError("--vary makes lanes that differ; measure settings one by one: --sweep")
    # Lanes that agree in this may still be stored in different layouts, in blocks of their own.
    num_kinds = len({block_key(lane) for lane in study.lanes})
    if num_kinds > 1:
        raise ValueError(
            f"the flags must describe lanes of one kind, got {num_kinds}; "
            "measure tasks, algorithms and static settings one by one: --sweep"
        )
    by_policy: dict[str, list[TrainConfig]] = {}
    for lane in study.lanes:
        by_policy.setdefault(lane.algorithm.policy, []).append(lane)
    if hasattr(kernels, "use"):  # an earlier revision takes no --impl
        kernels.use(study.run.impl)
    if hasattr(kernels, "use_precision"):  # likewise
        kernels.use_precision(study.run.matmul_precision)
    if study.run.num_threads:
        torch.set_num_threads(study.run.num_threads)
    device = torch.device(resolve_device(study.run.device))
    return Described(by_policy, device, study.run.num_threads)


def gives_capacity(train_flags: Sequence[str]) -> bool:
    """Whether the flags say how many transitions the replay holds."""
    names = (token.partition("=")[0] for token in train_flags if token.startswith("--"))
    return any(ALIASES.get(normalize(name)) == "replay_capacity" for name in names)


def deal(by_policy: dict[str, list[TrainConfig]], count: int) -> list[TrainConfig]:
    """That many lanes, evenly over the policies; each begins with its first."""
    policies = list(by_policy)
    return [by_policy[policies[i % len(policies)]][i // len(policies)] for i in range(count)]


def check_one_block(lanes: Sequence[TrainConfig], device: torch.device, measure: str) -> None:
    """See that lanes of several policies train together.

    Args:
        lanes: of one kind (`parse_lanes`).
        device: that they train on.
        measure: what the script does, for the message.

    Raises:
        ValueError: their layers are stored in different layouts, so they are blocks of their own.
    """
    if not _knows_layouts(lanes) or len(make_blocks(lanes, device.type)) == 1:
        return
    policies = dict.fromkeys(lane.algorithm.policy for lane in lanes)
    raise ValueError(
        f"--policy must name policies that train together, got {' '.join(policies)}, whose layers "
        f"are stored in different layouts; {measure} one policy at a time, or with --layout masked"
    )


def _knows_layouts(lanes: Sequence[TrainConfig]) -> bool:
    """Whether layers may be stored as csr; an earlier revision knows masked ones only."""
    return hasattr(block_of(lanes), "layouts")


def replay_capacity(lane: TrainConfig, spec: EnvSpec, num_lanes: int, device: torch.device) -> int:
    """Transitions a lane so that the replays of all lanes together fit the free memory.

    Args:
        lane: any of them.
        spec: of its task.
        num_lanes: of all blocks that exist at once.
        device: of the replays.

    Returns:
        A number with one digit that is not zero, so that two processes of one comparison agree.
    """
    E = lane.task.envs_per_lane
    smallest = max(lane.algorithm.batch_size, 2 * E, NUM_REAL_STEPS * E)
    per_transition = replay_bytes(10_000, spec.num_features, spec.num_actions, E) / 10_000
    free = _MEMORY_SHARE * available_bytes(str(device))
    fitting = max(1, min(NUM_TRANSITIONS, int(free / per_transition / num_lanes)))
    digit = 10 ** (len(str(fitting)) - 1)
    return max(smallest, fitting // digit * digit)


def make_block(
    lanes: Sequence[TrainConfig], device: torch.device, num_threads: int = 0
) -> TrainingBlock:
    """A block after `NUM_REAL_STEPS` random lock steps, its replay full (`fill_replay_`)."""
    block = TrainingBlock(lanes, device, num_threads)
    for _ in range(min(NUM_REAL_STEPS, block.replay.num_slots - 1)):
        block.collector.random_step_()
    fill_replay_(block, block.replay.num_slots * block.replay.envs_per_lane)
    return block


def fill_replay_(block: TrainingBlock, num_transitions: int) -> None:
    """Repeat the transitions that a replay holds until it holds `num_transitions` a lane.

    The newest stay the newest, so that training goes on from them. Every transition is one that
    was really made: where a copy ends, the next one begins with another observation, so its last
    transition is marked as the end of an episode (by a time limit: `not_terminated` stays) with
    its true successor in the side table.

    Args:
        block: its replay has not wrapped around.
        num_transitions: per lane; no more than the ring holds are made.

    Raises:
        ValueError: the replay is empty or has wrapped around.
    """
    replay = block.replay
    R, num_slots = replay.time, replay.num_slots
    if not 0 < R < num_slots:
        raise ValueError(f"the replay must hold 1 to {num_slots - 1} lock steps, got {R}")
    last = min(num_transitions // replay.envs_per_lane, num_slots - 1)
    if last <= R:
        return
    span, newest = span_tensors(replay, 0, R), replay.observations(R).clone()
    source = (torch.arange(last, device=newest.device) - last) % R
    tiled = {name: part[:, source] for name, part in span.items() if name != "final_obs"}
    has_ended = span["end"] == ENDS
    # Where each end's last observation is among those of the span.
    place = (has_ended.flatten().cumsum(0) - 1).view_as(has_ended).clamp_min(0)[:, source]
    is_seam = (source == R - 1) & (torch.arange(last, device=newest.device) < last - 1)
    is_seam = is_seam[None, :, None] & (tiled["end"] == GOES_ON)
    tiled["end"].masked_fill_(is_seam, ENDS)
    lane, time, env = (tiled["end"] == ENDS).nonzero(as_tuple=True)
    kept = torch.cat([span["final_obs"], newest[:1, 0]])[place[lane, time, env]]  # never empty
    cut = is_seam[lane, time, env].unsqueeze(-1)
    tiled["final_obs"] = torch.where(cut, newest[lane, env], kept)
    replay.begin_at_(last, newest)
    restore_span_(replay, {name: part.cpu() for name, part in tiled.items()}, 0, 0, last)


def sparsity_text(lanes: Sequence[TrainConfig]) -> str:
    """The sparsity of the first sparse lane, or dense."""
    for lane in lanes:
        levels = [
            f"{name} {value:g}"
            for name, value in (
                ("global", lane.sparsity.global_sparsity),
                ("input", lane.sparsity.input_layer_sparsity),
            )
            if value
        ]
        if levels:
            return ", ".join(levels)
    return "dense"


def settings_text(lane: TrainConfig) -> str:
    """Settings without a column of their own that differ from the policy's, as field=value."""
    usual = lane_config(lane.algorithm.policy)
    return " ".join(
        f"{name}={option.spell(lane.get(name))}"
        for name, option in OPTIONS.items()
        if name not in _OTHERWISE_SAID and lane.get(name) != usual.get(name)
    )


def layout_text(lanes: Sequence[TrainConfig], device: torch.device) -> str:
    """csr where any layer of a block is stored so, else masked."""
    if not _knows_layouts(lanes):
        return "masked"
    layouts = block_of(lanes, device.type).layouts
    return "csr" if any("csr" in network for network in layouts) else "masked"


def _implementation(device: torch.device) -> str:
    """What computes on a device; on CUDA with the precision of its products."""
    if device.type == "cpu":
        return kernels.implementation()
    if not hasattr(kernels, "TRITON"):  # an earlier revision
        return "reference"
    return f"{kernels.implementation(device.type)}-{kernels.PRECISION}"


def block_sizes(lanes: Sequence[TrainConfig], device: torch.device) -> dict[str, str | int | float]:
    """What rows say about a block: its sizes, and the settings that its work depends on."""
    config = lanes[0]
    computes = _implementation(device)
    return {
        "impl": f"{layout_text(lanes, device)}/{computes}",
        "policies": "+".join(dict.fromkeys(lane.algorithm.policy for lane in lanes)),
        "env": config.task.env,
        "backend": config.task.backend,
        "noise_fraction": config.noise.noise_fraction,
        "sparsity": sparsity_text(lanes),
        "batch_size": config.algorithm.batch_size,
        "lanes": len(lanes),
        "envs_per_lane": config.task.envs_per_lane,
        "settings": settings_text(config),
    }
