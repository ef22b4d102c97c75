"""One agent of another library, training; runs in the environment of requirements.txt.

    python train_peer.py sb3|sbx THREADS SEED

Prints "ready" when it trains at full speed. Each line "go SECONDS" on stdin then lets it train that
long and prints the environment steps it made (one update each) and the seconds it took.
"""

from __future__ import annotations

import importlib
import os
import sys
import time

NUM_NOISE, BATCH_SIZE, HIDDEN, LEARNING_RATE, TEMPERATURE = 153, 256, [256, 256], 1e-3, 0.2
RANDOM_STEPS, WARM_STEPS, CAPACITY = 1000, 300, 100_000


def limit_threads(threads: int) -> None:
    """Give the numerical libraries that many threads; before they are imported."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = (
            "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        )
    import torch

    torch.set_num_threads(threads)


def make_env(seed: int):
    """HalfCheetah whose observation has standard-normal noise features, drawn at every step."""
    import gymnasium
    import numpy as np

    class Noisy(gymnasium.ObservationWrapper):
        def __init__(self, env: gymnasium.Env):
            super().__init__(env)
            assert env.observation_space.shape is not None
            size = env.observation_space.shape[0] + NUM_NOISE
            self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
            self.rng = np.random.default_rng(seed)

        def observation(self, observation):
            noise = self.rng.standard_normal(NUM_NOISE, dtype=np.float32)
            return np.concatenate([observation.astype(np.float32), noise])

    return Noisy(gymnasium.make("HalfCheetah-v4"))


def make_callback():
    """Waits for the word to go, and counts the steps until the time is over."""
    from stable_baselines3.common.callbacks import (  # pyright: ignore[reportMissingImports]
        BaseCallback,
    )

    class Rounds(BaseCallback):
        def __init__(self) -> None:
            super().__init__()
            self.start = self.until = 0.0
            self.first_step = 0

        def _on_step(self) -> bool:
            if self.num_timesteps < RANDOM_STEPS + WARM_STEPS:
                return True
            now = time.perf_counter()
            if now < self.until:
                return True
            if self.until:
                print(self.num_timesteps - self.first_step, now - self.start, flush=True)
            else:
                print("ready", flush=True)
            words = sys.stdin.readline().split()
            if len(words) != 2:
                return False  # the other side has seen enough
            self.first_step = self.num_timesteps
            self.start = time.perf_counter()
            self.until = self.start + float(words[1])
            return True

    return Rounds()


def main() -> None:
    """Train until stdin ends."""
    library, threads, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    limit_threads(threads)
    module = importlib.import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[library])
    model = module.SAC(
        "MlpPolicy",
        make_env(seed),
        learning_rate=LEARNING_RATE,
        buffer_size=CAPACITY,
        learning_starts=RANDOM_STEPS,
        batch_size=BATCH_SIZE,
        train_freq=1,
        gradient_steps=1,
        ent_coef=TEMPERATURE,
        policy_kwargs={"net_arch": HIDDEN},
        seed=seed,
        device="cpu",
    )
    model.learn(10**9, callback=make_callback())


if __name__ == "__main__":
    main()
