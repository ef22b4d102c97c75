"""Empirical noise: the marginal distribution of every real feature, as a histogram.

A feature's distribution is a row of K = 257 quantiles, the edges of K - 1 bins of equal mass. A
uniform number picks a bin and the place in it, so a draw is a linear interpolation between two
edges (`sample`). Noise feature i follows real feature i mod D.

The tables of all built-in tasks are stored beside this file. `python -m envs.empirical` gathers
them anew: half of the rows act uniformly at random at each step, the other half follow sine waves
of random frequency, phase and amplitude, one per action component, drawn anew every 100 steps,
because white-noise actions alone hardly move a robot. Neither is a trained policy: the tables cover
the states that early training visits, not those of an expert.

Axes: D real features, K quantiles, N environment rows, A action components.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import logging
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs import registry
from envs.interface import EnvSpec

log = logging.getLogger(__name__)

QUANTILES_FILE = Path(__file__).parent / "data" / "empirical_quantiles.npz"
NUM_QUANTILES = 257
_PROVENANCE = "provenance"
_SEGMENT_STEPS = 100


@functools.cache
def load_quantiles(env_id: str) -> NDArray[np.float32]:
    """Quantile table of one task, [D, K], increasing along K; read-only and shared.

    Raises:
        ValueError: no table is stored for this task, or their file is damaged.
    """
    stored = _stored(env_id)
    if stored.ndim != 2 or stored.shape[1] != NUM_QUANTILES or stored.dtype.kind != "f":
        raise ValueError(_damage(f"{env_id} is {stored.dtype} {[*stored.shape]}"))
    quantiles = stored.astype(np.float32)
    quantiles.setflags(write=False)
    return quantiles


def load_provenance() -> dict[str, object]:
    """How the stored tables were gathered: steps, rows, seed, policy and versions."""
    return json.loads(str(_stored(_PROVENANCE, is_task=False)))


def _stored(name: str, is_task: bool = True) -> NDArray[Any]:
    try:
        # An array of objects would be a pickle.
        with np.load(QUANTILES_FILE, allow_pickle=False) as tables:
            known, found = tables.files, tables[name] if name in tables.files else None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(_damage(str(error))) from error
    if found is None or (is_task and name == _PROVENANCE):
        there = ", ".join(other for other in known if other != _PROVENANCE)
        raise ValueError(f"no empirical quantiles for env {name!r}; there are: {there}")
    return found


def _damage(reason: str) -> str:
    return f"{str(QUANTILES_FILE)!r} is damaged ({reason}); install the package anew"


def sample(
    quantiles: NDArray[np.float32],
    uniforms: NDArray[np.float32],
    feature: NDArray[np.integer] | int,
) -> NDArray[np.float32]:
    """Draw from histograms of equal-mass bins: q[f, b] + t * (q[f, b+1] - q[f, b]).

    Here b + t = u * (K - 1) with b whole: the inverse of the distribution function that is linear
    within each bin.

    Args:
        quantiles: [D, K] increasing edges.
        uniforms: [...] in [0, 1].
        feature: index in [0, D), of a shape that broadcasts with `uniforms`.

    Returns:
        Values of the broadcast shape, float32.
    """
    num_bins = quantiles.shape[1] - 1
    place = np.asarray(uniforms, dtype=np.float32) * np.float32(num_bins)
    # In float32 a uniform just below 1 may round up to the last edge; it belongs to the last bin.
    bin_index = np.minimum(place.astype(np.int64), num_bins - 1)
    low = quantiles[feature, bin_index]
    high = quantiles[feature, bin_index + 1]
    return low + (place - bin_index.astype(np.float32)) * (high - low)


def exploring_actions(
    spec: EnvSpec, num_rows: int, num_steps: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Actions [num_steps, N, A] in the task's units: even rows uniform, odd rows sine waves.

    A wave has a period of 4 to 100 steps and an amplitude of at most the action limit.
    """
    low, high = np.array(spec.action_low), np.array(spec.action_high)
    shape = (num_rows, spec.num_actions)
    actions = rng.uniform(low, high, size=(num_steps, *shape))
    for start in range(0, num_steps, _SEGMENT_STEPS):
        step = np.arange(start, min(start + _SEGMENT_STEPS, num_steps))[:, None, None]
        frequency = rng.uniform(0.01, 0.25, size=shape)
        phase = rng.uniform(0.0, 1.0, size=shape)
        amplitude = rng.uniform(0.0, 1.0, size=shape) * (high - low) / 2
        wave = (high + low) / 2 + amplitude * np.sin(2 * np.pi * (frequency * step + phase))
        actions[start : start + _SEGMENT_STEPS, 1::2] = wave[:, 1::2]
    return actions.astype(np.float32)


def gather_quantiles(
    env_id: str, *, backend: str = "envpool", num_rows: int = 64, num_steps: int = 2000, seed: int
) -> NDArray[np.float16]:
    """Quantile table [D, K] of the observations that `exploring_actions` lead to.

    Every observation counts once, the first one of each episode included. Stored in half precision:
    its relative error of 5e-4 is below the sampling error of the quantiles.
    """
    stream = np.random.SeedSequence(seed).generate_state(num_rows) % registry.SEED_LIMIT
    env = registry.make(env_id, backend, stream.tolist())
    actions = exploring_actions(env.spec, num_rows, num_steps, np.random.default_rng(seed))
    seen = [env.reset()]
    for action in actions:
        result = env.step(action)
        seen.append(result.obs)
        done = result.terminated | result.truncated
        seen.append(result.final_obs[done])
    env.close()
    values = np.concatenate(seen)
    levels = np.linspace(0.0, 1.0, NUM_QUANTILES)
    edges = np.stack([np.quantile(column, levels) for column in values.T])
    limit = float(np.finfo(np.float16).max)
    return np.clip(edges, -limit, limit).astype(np.float16)


def gather_file(
    out: Path, env_ids: Sequence[str], *, num_rows: int, num_steps: int, seed: int
) -> None:
    """Gather the tables of `env_ids` and write them with their provenance to one .npz file."""
    tables = {}
    for env_id in env_ids:
        log.info("gathering %s: %d steps of %d rows", env_id, num_steps, num_rows)
        tables[env_id] = gather_quantiles(env_id, num_rows=num_rows, num_steps=num_steps, seed=seed)
    provenance = {
        "env_ids": list(env_ids),
        "rows": num_rows,
        "steps_per_row": num_steps,
        "seed": seed,
        "policy": "even rows uniform actions, odd rows random sine waves (exploring_actions)",
        "versions": {name: importlib.metadata.version(name) for name in ("envpool", "numpy")},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    record = {_PROVENANCE: np.array(json.dumps(provenance))}
    np.savez_compressed(out, allow_pickle=False, **record, **tables)
    log.info("wrote %s, %d bytes", out, out.stat().st_size)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of `python -m envs.empirical`."""
    parser = argparse.ArgumentParser(description="Gather the tables of the empirical noise.")
    parser.add_argument("--out", type=Path, default=QUANTILES_FILE, help="the .npz file to write")
    parser.add_argument("--envs", nargs="+", default=registry.known_env_ids("envpool"))
    parser.add_argument("--rows", type=int, default=64, help="environment rows")
    parser.add_argument("--steps", type=int, default=2000, help="steps of each row")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for env_id in chosen.envs:
        registry.validate(env_id, "envpool")
    gather_file(
        chosen.out,
        chosen.envs,
        num_rows=chosen.rows,
        num_steps=chosen.steps,
        seed=chosen.seed,
    )


if __name__ == "__main__":
    main()
