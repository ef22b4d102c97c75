"""One plain sparse network: dense matrices and explicit masks, Adam of torch, SET by sorting lists.

Axes: B rows of a minibatch, I inputs, O outputs, F features; no lanes, no stacking, row-major.
Written from the papers to check the stacked code: SET, Mocanu et al. 2018, arXiv 1707.04780;
MaskAdam and the noise, Grooten et al. 2023, arXiv 2302.06548. Random numbers are the definitions
(`*_ref`) of the lane's streams.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fastanf.config import TrainConfig
from fastanf.kernels.noise import noise_ref
from fastanf.kernels.philox import random_bits_ref, random_normal_ref, random_uniform_ref
from fastanf.rng import Stream, stream_word


@dataclass
class PlainLayer:
    """weight [O, I], bias [O]; mask [O, I] bool."""

    weight: Tensor
    bias: Tensor
    mask: Tensor

    @property
    def is_sparse(self) -> bool:
        return not bool(self.mask.all())


class PlainNetwork:
    """A multilayer perceptron with ReLU."""

    def __init__(self, layers: list[PlainLayer]):
        self.layers = layers

    def __call__(self, x: Tensor) -> Tensor:
        """[B, I] -> [B, O]."""
        for layer in self.layers[:-1]:
            x = torch.relu(functional.linear(x, layer.weight, layer.bias))
        return functional.linear(x, self.layers[-1].weight, self.layers[-1].bias)

    def parameters(self) -> list[Tensor]:
        return [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)]

    def copy(self) -> PlainNetwork:
        """Equal numbers, no gradients."""
        return PlainNetwork(
            [
                PlainLayer(*(t.detach().clone() for t in vars(layer).values()))
                for layer in self.layers
            ]
        )


class PlainRandom:
    """The numbers of one lane, by the documented streams and steps."""

    def __init__(self, seed: int, dtype: torch.dtype):
        self.key, self.dtype = torch.tensor([seed]), dtype

    def normal(self, stream: Stream, step: int, num_rows: int, num_columns: int) -> Tensor:
        """[num_rows, num_columns]; the lane draws them column by column."""
        n = num_rows * num_columns
        flat = random_normal_ref(self.key, torch.tensor([[step]]), stream_word(stream), n)
        return flat.view(num_columns, num_rows).T.to(self.dtype)

    def bits(self, stream: Stream, step: int, sub: int, n: int) -> list[int]:
        word = stream_word(stream, sub)
        return random_bits_ref(self.key, torch.tensor([[step]]), word, n).flatten().tolist()

    def uniform(self, stream: Stream, step: int, sub: int, n: int) -> Tensor:
        word = stream_word(stream, sub)
        return random_uniform_ref(self.key, torch.tensor([[step]]), word, n).flatten()

    def permutation(self, step: int, n: int) -> list[int]:
        words = self.bits(Stream.PERMUTATION, step, 0, 2 * n)
        return sorted(range(n), key=lambda i: (words[i] << 31) | (words[n + i] >> 1))


class PlainFeatures:
    """An extremely noisy view of observations: D real features, then noise, then a permutation.

    Args:
        random: of the lane.
        config: the lane's settings.
        num_features: F.
    """

    def __init__(self, random: PlainRandom, config: TrainConfig, num_features: int):
        self.random, self.num_features = random, num_features
        self.std = config.noise.noise_std
        self.is_per_step = config.noise.noise_redraw == "per_step"
        self.permutes_replay = config.noise.permute_replay
        self.envs_per_lane = config.task.envs_per_lane
        self.orders: list[tuple[int, list[int]]] = []

    def permute(self, time: int) -> None:
        """A new order from `time` on."""
        self.orders.append((time, self.random.permutation(time, self.num_features)))

    def __call__(self, obs: Tensor, obs_id: Tensor, call: int) -> Tensor:
        """[B, D] -> [B, F] for one network call.

        Args:
            obs: real features.
            obs_id: [B] ids, which are the noise's rows if noise is drawn once per step.
            call: number of the network call, 8 * update + its place in the update; else the
                noise's rows count on from call * B.
        """
        B, D = obs.shape
        if self.is_per_step:
            stream, row = Stream.STEP_FEATURES, obs_id
        else:
            stream, row = Stream.LEARN_FEATURES, call * B + torch.arange(B)
        std = torch.tensor([self.std])
        noise = noise_ref(self.random.key, row[None], stream, self.num_features - D, std)[0].T
        x = torch.cat([obs, noise.to(obs.dtype)], 1)
        shown = x.clone()
        for since, order in self.orders:
            is_shown = torch.ones(B, dtype=torch.bool)
            if not self.permutes_replay:
                is_shown = obs_id // (2 * self.envs_per_lane) >= since
            shown[is_shown] = x[is_shown][:, order]
        return shown


class PlainOptimizer:
    """Adam of torch with coupled L2 (or SGD); MaskAdam where the gradient is masked first."""

    def __init__(self, network: PlainNetwork, config: TrainConfig):
        self.network, self.masks_gradient = network, config.optimizer.optimizer == "MaskAdam"
        kind = torch.optim.SGD if config.optimizer.optimizer == "SGD" else torch.optim.Adam
        self.optimizer = kind(
            network.parameters(),
            lr=config.optimizer.learning_rate,
            weight_decay=config.optimizer.weight_decay,
        )

    def step(self, loss: Tensor) -> None:
        """Follow the gradient of the loss, on active connections only."""
        parameters = self.network.parameters()
        grads = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            for layer, grad in zip(self.network.layers, grads[::2], strict=True):
                if self.masks_gradient:
                    grad *= layer.mask
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            self.optimizer.step()
            for layer in self.network.layers:
                layer.weight *= layer.mask

    def forget(self, weight: Tensor, changed: Tensor) -> None:
        """MaskAdam starts afresh where a connection left or came."""
        moments = self.optimizer.state.get(weight, {})
        if self.masks_gradient:
            for name in moments.keys() & {"exp_avg", "exp_avg_sq"}:
                moments[name][changed] = 0


@torch.no_grad()
def move_target(target: PlainNetwork, online: PlainNetwork, tau: float, trims: bool) -> None:
    """target <- (1 - tau) target + tau online, on the online connections or trimmed to as many."""
    for old, new in zip(target.layers, online.layers, strict=True):
        old.weight.copy_((1 - tau) * old.weight + tau * new.weight)
        old.bias.copy_((1 - tau) * old.bias + tau * new.bias)
        if trims and new.is_sparse:
            num_kept = int(new.weight.count_nonzero())
            flat = old.weight.view(-1)
            ranks = flat.abs().argsort(descending=True)
            flat[ranks[num_kept:]] = 0.0
        elif not trims:
            old.weight *= new.mask


@torch.no_grad()
def evolve(
    network: PlainNetwork,
    target: PlainNetwork | None,
    optimizer: PlainOptimizer,
    random: PlainRandom,
    config: TrainConfig,
    update: int,
    number: tuple[int, int, int],
) -> None:
    """SET: the smallest active weights leave, as many connections grow at random.

    Args:
        network: changed.
        target: on the same connections, or None where it has its own.
        optimizer: of the network.
        random: of the lane.
        config: of the lane.
        update: number of the update.
        number: 0 for the actor or 1 for the critic; which of the critics; how many there are.
    """
    kind, copy, num_copies = number
    period = config.sparsity.topology_period
    if config.sparsity.topology != "set" or update < 2 or (update - 2) % period:
        return
    for index, layer in enumerate(network.layers):
        if not layer.is_sparse:
            continue
        n, sub = layer.mask.numel(), 1000 * kind + index
        own = slice(copy * n, (copy + 1) * n)
        drop_keys = random.bits(Stream.TOPOLOGY_DROP, update, sub, num_copies * n)[own]
        grow_keys = random.bits(Stream.TOPOLOGY_GROW, update, sub, num_copies * n)[own]
        uniforms = random.uniform(Stream.TOPOLOGY_VALUE, update, sub, num_copies * n)[own]
        active = {i for i, is_active in enumerate(layer.mask.flatten().tolist()) if is_active}
        magnitude = layer.weight.abs().flatten().tolist()
        # The fraction is the decimal that was typed, so 0.3 * 10 is 3.
        count = math.floor(round(config.sparsity.drop_fraction * len(active), 9))
        dropped = sorted(active, key=lambda i: (magnitude[i], drop_keys[i]))[:count]
        kept = active - set(dropped)
        candidates = [i for i in range(n) if i not in kept]
        grown = sorted(candidates, key=lambda i: grow_keys[i])[:count]
        changed = torch.zeros(n, dtype=torch.bool)
        changed[dropped + grown] = True
        fresh = torch.zeros(n, dtype=layer.weight.dtype)
        fresh[grown] = _first_values(config, layer, uniforms)[grown]
        layer.mask.view(-1)[dropped] = False
        layer.mask.view(-1)[grown] = True
        layer.weight.view(-1)[changed] = fresh[changed]
        optimizer.forget(layer.weight, changed.view_as(layer.mask))
        if target is not None:
            target.layers[index].weight *= layer.mask


def _first_values(config: TrainConfig, layer: PlainLayer, uniforms: Tensor) -> Tensor:
    num_outputs, num_inputs = layer.mask.shape
    bound = {
        "zero": 0.0,
        "unif": 1 / math.sqrt(num_inputs),
        "xavier": math.sqrt(6 / (num_inputs + num_outputs)),
    }
    # In float32 like every first weight, whatever the networks compute in.
    return ((2 * uniforms - 1) * bound[config.sparsity.new_weights]).to(layer.weight.dtype)
