"""Simulated tasks for reinforcement learning, plain or with many noise features.

`make` builds a batched simulator behind the contract of `envs.interface`; `make_ene` builds an
extremely noisy environment as a gymnasium `VectorEnv`. Nothing here imports fastanf.
"""

from envs.interface import EnvSpec, RowVecEnv, Step, TensorStep, TensorVecEnv, VecEnv
from envs.noise import NoiseSpec, NoisyVectorEnv, make_ene, num_features
from envs.registry import (
    known_env_ids,
    lives_on_device,
    make,
    preflight,
    register_backend,
    spec,
    validate,
)

__all__ = [
    "EnvSpec",
    "NoiseSpec",
    "NoisyVectorEnv",
    "RowVecEnv",
    "Step",
    "TensorStep",
    "TensorVecEnv",
    "VecEnv",
    "known_env_ids",
    "lives_on_device",
    "make",
    "make_ene",
    "num_features",
    "preflight",
    "register_backend",
    "spec",
    "validate",
]
