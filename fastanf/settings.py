"""Every setting of a run: its name, default, meaning, allowed values, whether lanes may differ.

An option is *lane* (a column over the lanes of a block), *static* (part of the block's shape and
loop) or *run* (of the whole command). Names are unique over groups. The docstring under a field is
its help text. Defaults: Grooten et al. 2023, arXiv 2302.06548.
"""

from dataclasses import dataclass

from fastanf.activations import ACTIVATIONS
from fastanf.options import Allowed, Group, at_least, interval, option

# Settings reach the device in float32, up to 3.4e38, and counts in int64: what is beyond would
# become inf or fail somewhere else. The bounds are far from what anyone trains.
_MOST_STEPS = 10**12
_MOST_A_STEP = 10**6
"""Environments, updates: times `_MOST_STEPS` still an int64."""
_MOST_BATCH = 10**7
_MOST_EPISODES = 10**5
_MOST_THREADS = 10**4
MOST_WIDTH, MOST_LAYERS, _MOST_ARGUMENTS = 10**6, 100, 8
_LARGEST = 1e30


def _are_sizes(value: tuple[int, ...]) -> bool:
    return 1 <= len(value) <= MOST_LAYERS and min(value) >= 1 and max(value) <= MOST_WIDTH


def _are_arguments(value: tuple[float, ...]) -> bool:
    return len(value) <= _MOST_ARGUMENTS and all(abs(number) <= _LARGEST for number in value)


_SHARE = interval("[0, 1)")
_SHARE_CLOSED = interval("[0, 1]")
_NOT_NEGATIVE = interval(f"[0, {_LARGEST:g}]")
_POSITIVE = interval(f"(0, {_LARGEST:g}]")
_MINUTES = interval("(0, 1000000]")  # two years are as good as never
_NAME = Allowed("a name of at most 100 characters that print", lambda value: len(value) <= 100)
_NETWORKS = ("both", "actor", "critic")
_NUM_SEEDS = Allowed("an integer in [1, 10000]", lambda value: 1 <= value <= 10_000)
_SEED = Allowed("an integer in [0, 2147483647]", lambda value: 0 <= value < 2**31)


@dataclass(frozen=True)
class TaskConfig(Group):
    """The environment."""

    env: str = option("HalfCheetah-v3", kind="static", allowed=_NAME)
    """Task: HalfCheetah, Hopper, Walker2d, Ant or Humanoid, with -v3 (the papers' features), -v4 or
    -v5. Several are trained one after the other."""
    backend: str = option("envpool", kind="static", allowed=_NAME)
    """Simulator: envpool (CPU), mjx (on the device of the networks), or gymnasium (slow, the
    reference)."""
    mjx_impl: str = option("jax", kind="static", choices=("jax", "warp"))
    """How MJX computes: jax, or warp (NVIDIA GPUs, needs the package warp-lang)."""
    envs_per_lane: int = option(1, kind="static", allowed=at_least(1, _MOST_A_STEP))
    """Environments that each lane steps together; 1 is the papers' setting."""


@dataclass(frozen=True)
class NoiseConfig(Group):
    """The noise features of an extremely noisy environment."""

    noise_fraction: float = option(0.0, kind="static", aliases=("fake_features",), allowed=_SHARE)
    """Share of noise features: D real features become D / (1 - fraction), rounded up."""
    noise_std: float = option(1.0, kind="lane", aliases=("fake_noise_std",), allowed=_POSITIVE)
    """Standard deviation of gaussian noise features."""
    noise_distribution: str = option("gaussian", kind="static", choices=("gaussian", "empirical"))
    """gaussian, or empirical: histograms of the task's own real features."""
    noise_redraw: str = option("per_call", kind="static", choices=("per_call", "per_step"))
    """per_call: every network call sees fresh noise, as in the published code; per_step: the noise
    seen at an environment step is the noise that is replayed."""
    permute_period: int = option(0, kind="static", allowed=at_least(0, _MOST_STEPS))
    """Environment steps after which all features change places (transfer); 0 is never."""
    permute_replay: bool = option(True, kind="static")
    """Whether old transitions appear in the new order too, as in the published code."""
    normalize_observations: bool = option(False, kind="static")
    """Bring every feature, noise too, to mean 0 and variance 1 of what was observed in training."""


@dataclass(frozen=True)
class AlgorithmConfig(Group):
    """The learning algorithm."""

    policy: str = option("ANF-SAC", kind="lane", allowed=_NAME)
    """Preset that the lane was made from. Several train together."""
    variant: str = option("", kind="lane", is_flag=False)
    """What --vary set in this lane, as field=value,field=value."""
    seed: int = option(0, kind="lane", allowed=_SEED, is_flag=False)
    """The lane's seed; every random number of the lane follows from it."""
    algorithm: str = option("sac", kind="static", choices=("sac", "td3"), is_flag=False)
    """Set by the policy."""
    discount: float = option(0.99, kind="lane", aliases=("gamma",), allowed=_SHARE)
    """Discount of the return per environment step."""
    tau: float = option(0.005, kind="lane", allowed=interval("(0, 1]"))
    """Step of the target networks towards the online ones; 1 copies them."""
    target_period: int = option(
        1, kind="lane", aliases=("target_update_interval",), allowed=at_least(1, _MOST_STEPS)
    )
    """Updates between two moves of the target networks."""
    batch_size: int = option(100, kind="static", allowed=at_least(1, _MOST_BATCH))
    """Transitions of a minibatch, per lane."""
    policy_delay: int = option(1, kind="static", allowed=at_least(1, _MOST_STEPS))
    """Critic updates for each actor update."""
    temperature: float = option(0.2, kind="lane", aliases=("alpha",), allowed=_NOT_NEGATIVE)
    """SAC: weight of the entropy, or its first value when it is tuned."""
    automatic_temperature: bool = option(False, kind="lane", aliases=("automatic_entropy_tuning",))
    """SAC: tune the temperature towards a target entropy of -A."""
    target_noise: float = option(0.2, kind="lane", aliases=("policy_noise",), allowed=_NOT_NEGATIVE)
    """TD3: standard deviation of the noise on the target action, as a share of the action limit."""
    target_noise_clip: float = option(
        0.5, kind="lane", aliases=("noise_clip",), allowed=_NOT_NEGATIVE
    )
    """TD3: largest noise on the target action, as a share of the action limit."""
    exploration_noise: float = option(
        0.1, kind="lane", aliases=("expl_noise",), allowed=_NOT_NEGATIVE
    )
    """TD3: standard deviation of the noise on the actions taken, as a share of the action limit."""


@dataclass(frozen=True)
class OptimizerConfig(Group):
    """The optimizer of actor, critics and temperature."""

    optimizer: str = option("MaskAdam", kind="lane", choices=("MaskAdam", "Adam", "SGD"))
    """MaskAdam keeps gradient and moments of inactive connections at zero; Adam does not."""
    learning_rate: float = option(1e-3, kind="lane", aliases=("lr",), allowed=_POSITIVE)
    """Step size of the optimizer."""
    weight_decay: float = option(2e-4, kind="lane", allowed=_NOT_NEGATIVE)
    """L2 penalty, added to the gradient of every parameter."""
    input_l1: float = option(0.0, kind="lane", allowed=_NOT_NEGATIVE)
    """L1 penalty on the first layers' weights of the features, added to their gradient."""
    input_group_lasso: float = option(0.0, kind="lane", allowed=_NOT_NEGATIVE)
    """Penalty on the norm of each feature's weights in the first layers, added to the gradient."""


@dataclass(frozen=True)
class NetworkConfig(Group):
    """The networks of actor and critics."""

    hidden: tuple[int, ...] = option(
        (256, 256),
        kind="static",
        aliases=("hidden_dims",),
        allowed=Allowed(
            f"one or more widths of at least 1, e.g. 256x256 (at most {MOST_LAYERS} of them, each "
            f"at most {MOST_WIDTH})",
            _are_sizes,
        ),
    )
    """Widths of the hidden layers, any number of them, e.g. 256x256 or 400 300."""
    activation: str = option("relu", kind="static", choices=ACTIVATIONS)
    """Activation of the hidden layers."""
    activation_args: tuple[float, ...] = option(
        (),
        kind="static",
        aliases=("act_func_args",),
        allowed=Allowed(
            f"finite numbers, e.g. 0.4 0.2 -0.4 0.2 (at most {_MOST_ARGUMENTS}, each at most "
            f"{_LARGEST:g})",
            _are_arguments,
        ),
    )
    """Parameters of the activation, in its own order; its defaults when none are given."""
    activation_per_neuron: bool = option(False, kind="static", aliases=("act_func_per_neuron",))
    """Learn the parameters of lex and srelu for each neuron instead of each layer."""
    layer_norm: bool = option(False, kind="static")
    """Normalise every hidden layer before its activation, with a learned scale and shift."""
    input_gate: bool = option(False, kind="static")
    """Multiply every feature by a learned gate in (0, 1), in each network; weight decay draws gates
    to 0.5."""


@dataclass(frozen=True)
class SparsityConfig(Group):
    """How sparse the layers are, and how their connections change."""

    global_sparsity: float | None = option(None, kind="lane", allowed=_SHARE)
    """Share of inactive connections in each whole network, dense layers included."""
    input_layer_sparsity: float | None = option(None, kind="lane", allowed=_SHARE)
    """Share of inactive connections in the first layer, whatever the distribution says."""
    sparsity_distribution: str = option(
        "uniform",
        kind="lane",
        aliases=("sparsity_distribution_method",),
        choices=("uniform", "ER", "new"),
    )
    """How the global sparsity is divided over the layers."""
    sparse_output_layer: bool = option(
        False, kind="lane", aliases=("output_layer_sparse", "output_layer_sparsity")
    )
    """Whether the actor's output layer takes part; the critics' single output is always dense."""
    sparse_networks: str = option("both", kind="lane", choices=_NETWORKS)
    """Networks that are sparse; the other is dense."""
    topology: str = option("set", kind="lane", choices=("set", "static", "rigl", "pruning"))
    """set: drop the weakest connections and grow as many at random; rigl: grow those of largest
    gradient; pruning: start dense, the weakest leave for good; static: keep the first ones."""
    evolving_networks: str = option("both", kind="lane", choices=_NETWORKS)
    """Networks whose connections change; those of the other stay as they start."""
    drop_fraction: float = option(
        0.05, kind="lane", aliases=("ann_setZeta", "zeta"), allowed=_SHARE_CLOSED
    )
    """Share of the active connections that is replaced at each topology change."""
    drop_schedule: str = option("constant", kind="lane", choices=("constant", "cosine"))
    """cosine: the drop fraction falls to 0 at topology_end, along half a cosine."""
    topology_period: int = option(
        1000,
        kind="lane",
        aliases=("ann_ascTopologyChangePeriod",),
        allowed=at_least(1, _MOST_STEPS),
    )
    """Updates between two topology changes."""
    topology_end: float = option(1.0, kind="lane", allowed=interval("(0, 1]"))
    """Share of the run's updates after which connections stay. A cosine ends there, and pruning
    reaches its sparsity."""
    new_weights: str = option(
        "zero",
        kind="lane",
        aliases=("init_new_weights_method",),
        choices=("zero", "unif", "xavier"),
    )
    """First value of a grown connection."""
    target_sparsity: str = option("mask", kind="static", choices=("mask", "trim"))
    """mask: targets have the online connections; trim: as many, the largest (published code)."""
    layout: str = option("auto", kind="static", choices=("auto", "masked", "csr"))
    """How sparse layers are stored: masked (all weights, zeros among them), csr (active connections
    only); auto: whichever is faster, layer by layer."""


@dataclass(frozen=True)
class ScheduleConfig(Group):
    """How long, how often, how much memory."""

    max_timesteps: int = option(1_000_000, kind="static", allowed=at_least(1, _MOST_STEPS))
    """Environment steps of each lane after the random ones."""
    start_timesteps: int = option(25_000, kind="static", allowed=at_least(1, _MOST_STEPS))
    """Environment steps of each lane with random actions, in addition to max_timesteps."""
    updates_per_step: int = option(1, kind="static", allowed=at_least(1, _MOST_A_STEP))
    """Updates for each lock step of a lane's environments."""
    eval_freq: int = option(5000, kind="static", allowed=at_least(1, _MOST_STEPS))
    """Environment steps of each lane between two evaluations."""
    eval_episodes: int = option(10, kind="static", allowed=at_least(1, _MOST_EPISODES))
    """Deterministic episodes of an evaluation."""
    replay_capacity: int = option(
        1_000_000, kind="static", aliases=("buffer_size",), allowed=at_least(2, _MOST_STEPS)
    )
    """Transitions that each lane keeps."""


@dataclass(frozen=True)
class RunConfig(Group):
    """The command as a whole."""

    study: str | None = option(None, kind="run")
    """A study: a TOML file, or the name of one that comes with the package (`python -m fastanf
    studies`). Other options are over what it says; its folder is runs/ and its name."""
    num_seeds: int = option(1, kind="run", allowed=_NUM_SEEDS)
    """Seeds of each policy and variant, counted up from the first."""
    first_seed: int = option(0, kind="run", aliases=("seed",), allowed=_SEED)
    """The first seed."""
    vary: tuple[str, ...] = option((), kind="run")
    """Settings with several values, as field=v1,v2; all combinations train. Sizes: 256x256."""
    run_dir: str | None = option(None, kind="run")
    """New folder for records and checkpoints, or the one that the study has; by default runs/ and
    the study's name, or time, policy and task."""
    device: str = option("auto", kind="run", allowed=_NAME)
    """Where the networks and the replay live: auto, cpu, cuda or cuda:N."""
    impl: str = option("auto", kind="run", choices=("auto", "native", "triton", "reference"))
    """Kernels: native (compiled, on the CPU), triton (on CUDA), reference (plain torch, slow);
    auto: the fast ones where they can be had."""
    matmul_precision: str = option("tf32", kind="run", choices=("tf32", "float32"))
    """Products of hidden layers on CUDA: tf32 (factors rounded to 10 bits) or exact float32. Output
    layers, losses and optimizers are always exact, and so is the CPU."""
    num_threads: int = option(0, kind="run", allowed=at_least(0, _MOST_THREADS))
    """CPU threads; 0 is all."""
    lanes_per_block: int = option(0, kind="run", allowed=at_least(0, _MOST_STEPS))
    """Most lanes that train together; 0 is as many as memory holds. Fewer make more blocks, which
    train one after the other."""
    checkpoint_minutes: float = option(5.0, kind="run", allowed=_MINUTES)
    """Minutes between two checkpoints; more where writing them would take over 3% of the run's
    time. One is also written where Ctrl-C or SIGTERM stops the run."""
    wandb_mode: str = option("disabled", kind="run", choices=("disabled", "online", "offline"))
    """Copy the records to Weights & Biases; online and offline need the extra fastanf[wandb]."""
    tensorboard: bool = option(True, kind="run")
    """Write TensorBoard files into the run folder."""
    profile: bool = option(False, kind="run")
    """Time the stages of training; with every evaluation their table goes into stages.csv,
    train.csv and TensorBoard."""
    plan: bool = option(False, kind="run")
    """Print blocks, lanes, layers and memory, and stop."""
    plain: bool = option(False, kind="run")
    """Print plain lines instead of a live display."""
