"""The networks of a lane before they are built: sizes, and how sparse each layer is.

Axes: C = 2 critics, F features with noise, A actions. The actor has sizes (F, *hidden, A) in TD3
and (F, *hidden, 2A) in SAC (mean, log std), each critic (F + A, *hidden, 1).
"""

import functools
import itertools
from dataclasses import dataclass

from envs import noise
from envs.interface import EnvSpec
from fastanf.config import TrainConfig
from fastanf.settings import NetworkConfig, SparsityConfig
from fastanf.sparse.distribution import LayerSparsity, active_count, layer_sparsity
from fastanf.sparse.topology import STATIC, TOPOLOGIES


@dataclass(frozen=True)
class NetworkPlan:
    """Sizes and sparsity of an actor, or of one critic."""

    name: str
    sizes: tuple[int, ...]
    """Input, hidden layers, output."""
    sparsity: LayerSparsity
    has_layer_norm: bool = False
    """Whether every hidden unit has a scale and a shift."""
    num_gates: int = 0
    """Features with a gate."""
    topology: str = STATIC.name
    """How the connections change, a name in TOPOLOGIES."""

    @property
    def starts_dense(self) -> bool:
        """Whether all connections are there at first, and `active_counts` at the end."""
        return TOPOLOGIES[self.topology].starts_dense

    @functools.cached_property
    def connections(self) -> tuple[int, ...]:
        """Possible connections of each layer."""
        return tuple(n_in * n_out for n_in, n_out in itertools.pairwise(self.sizes))

    @functools.cached_property
    def active_counts(self) -> tuple[int, ...]:
        """Active connections of each layer."""
        pairs = zip(self.connections, self.sparsity.sparsities, strict=True)
        return tuple(active_count(n, s) for n, s in pairs)

    @property
    def num_biases(self) -> int:
        return sum(self.sizes[1:])

    @property
    def num_norms(self) -> tuple[int, ...]:
        """Scales and shifts behind each layer."""
        return (*(2 * n * self.has_layer_norm for n in self.sizes[1:-1]), 0)

    @property
    def num_dense(self) -> int:
        """Parameters that are no connections: biases, scales and shifts, gates."""
        return self.num_biases + sum(self.num_norms) + self.num_gates

    @property
    def num_active(self) -> int:
        """Active parameters, biases included."""
        return sum(self.active_counts) + self.num_dense

    @property
    def num_total(self) -> int:
        """Parameters of the dense network."""
        return sum(self.connections) + self.num_dense


def lane_networks(config: TrainConfig, spec: EnvSpec) -> tuple[NetworkPlan, NetworkPlan]:
    """The actor and one critic of a lane.

    The critics' output layer is always dense (it has one neuron), as in the published code.

    Raises:
        ValueError: a global level that cannot be met, or a layer left without connections.
    """
    algorithm = config.algorithm
    key = (algorithm.algorithm, algorithm.policy, config.noise.noise_fraction)
    return _networks(*key, config.network, config.sparsity, spec)


@functools.lru_cache(maxsize=4096)  # the lanes of a study differ in their seeds most of all
def _networks(
    algorithm: str,
    policy: str,
    noise_fraction: float,
    network: NetworkConfig,
    sparsity: SparsityConfig,
    spec: EnvSpec,
) -> tuple[NetworkPlan, NetworkPlan]:
    num_features = noise.num_features(spec.num_features, noise_fraction)
    num_heads = 2 if algorithm == "sac" else 1
    hidden = network.hidden
    all_sizes = {
        "actor": (num_features, *hidden, num_heads * spec.num_actions),
        "critic": (num_features + spec.num_actions, *hidden, 1),
    }
    plans = []
    for name, sizes in all_sizes.items():
        is_sparse = sparsity.sparse_networks in ("both", name)
        evolves = is_sparse and sparsity.evolving_networks in ("both", name)
        owner = f"{name} of {policy} on {spec.env_id}"
        try:
            solved = layer_sparsity(
                sizes,
                (sparsity.global_sparsity or 0.0) * is_sparse,
                sparsity.input_layer_sparsity if is_sparse else None,
                sparsity.sparsity_distribution,
                sparsity.sparse_output_layer and name == "actor",
            )
        except ValueError as error:
            raise ValueError(f"{error} ({owner})") from None
        num_gates = num_features if network.input_gate else 0
        topology = sparsity.topology if evolves else STATIC.name
        plan = NetworkPlan(name, sizes, solved, network.layer_norm, num_gates, topology)
        if 0 in plan.active_counts:
            layer = plan.active_counts.index(0) + 1
            raise ValueError(
                f"input_layer_sparsity must leave a connection in layer {layer} of the {owner}, "
                f"got {sparsity.input_layer_sparsity} of {plan.connections[layer - 1]} connections"
            )
        plans.append(plan)
    return plans[0], plans[1]
