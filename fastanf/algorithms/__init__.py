"""Soft Actor-Critic and TD3 on stacked lanes, built from settings of one lane each."""

from fastanf.algorithms.actor_critic import ActorCritic, AlgorithmSettings, Losses
from fastanf.algorithms.sac import SAC
from fastanf.algorithms.td3 import TD3

ALGORITHMS: dict[str, type[ActorCritic]] = {"sac": SAC, "td3": TD3}

__all__ = ["ALGORITHMS", "SAC", "TD3", "ActorCritic", "AlgorithmSettings", "Losses"]
