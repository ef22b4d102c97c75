"""Run folders with made-up records, for the tests of what reads records: no training, no simulator.

Axes: one lane for each env, noise fraction, policy and seed, in this order; S evaluations of each.
The numbers follow from the lane's number and settings alone.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from envs import noise, registry
from fastanf.config import TrainConfig
from fastanf.presets import expand
from fastanf.records import RunFolder
from fastanf.report import (
    figures_in_page,
    section_answer,
    section_connections,
    section_costs,
    section_curves,
    section_efficiency,
    section_tasks,
)
from fastanf.report.markup import VOID
from fastanf.rows import EvaluationRow, FeatureRow, TopologyRow, TrainingRow

EVAL_FREQ = 5000
LAST_RETURNS = {"ANF-SAC": 9000.0, "Static-SAC": 5000.0, "TowS-SAC": 8000.0}
"""Where the mean of a policy's made-up learning curves goes; 3000 for any other."""
NUM_SHOWN_NOISE = 256
EVAL_EPISODES = 10


def run_lanes(
    policies: Sequence[str] = ("ANF-SAC", "SAC"),
    envs: Sequence[str] = ("HalfCheetah-v3",),
    noise_fractions: Sequence[float] = (0.9,),
    num_seeds: int = 4,
    first_seed: int = 0,
    **settings: Any,
) -> list[TrainConfig]:
    """The lanes of a study; `settings` are flat names of all lanes."""
    return [
        lane
        for env in envs
        for fraction in noise_fractions
        for lane in expand(
            policies,
            num_seeds=num_seeds,
            overrides={"max_timesteps": 4 * EVAL_FREQ, **settings, "noise_fraction": fraction},
            first_seed=first_seed,
            envs=[env],
        ).lanes
    ]


def write_run(
    path: Path,
    lanes: Sequence[TrainConfig] | None = None,
    num_evaluations: int | Mapping[int, int] = 4,
    status: str = "finished",
    manifest: Mapping[str, Any] | None = None,
    nan_from: Mapping[int, int] | None = None,
    lane_values: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a run folder as a run would and returns it.

    Args:
        path: a new folder.
        lanes: `run_lanes()` if None.
        num_evaluations: S, or lane -> S (lanes that are not named have none).
        status: what the manifest ends with.
        manifest: further entries.
        nan_from: lane -> index of the evaluation from which on its returns are nan.
        lane_values: what lanes.csv and eval.csv say in place of the lanes' own values.
    """
    lanes = run_lanes() if lanes is None else lanes
    values = lane_values or {}
    settings = [{"lane": k, "block": 0, **lane.flat(), **values} for k, lane in enumerate(lanes)]
    content = {"device": "cpu", "kernels": "native", "command_line": "--policy ANF-SAC SAC"}
    evaluations, training, topology, features = [], [], [], []
    for number, lane in enumerate(lanes):
        count = num_evaluations if isinstance(num_evaluations, int) else 0
        if not isinstance(num_evaluations, int):
            count = num_evaluations.get(number, 0)
        for index in range(count):
            is_nan = index >= (nan_from or {}).get(number, count)
            evaluations.append(_evaluation(number, lane, index, is_nan, values))
            training.append(_training(number, lane, index))
            for network in ("actor", "critic1", "critic2"):
                rows = [*_connections(number, lane, index, network)]
                topology += [row for row in rows if isinstance(row, TopologyRow)]
                features += [row for row in rows if isinstance(row, FeatureRow)]
    with RunFolder.create(path, {**content, **(manifest or {})}, settings) as folder:
        folder.append(training)
        folder.append(topology)
        folder.append(features)
        folder.append(evaluations)
        if status != "running":
            folder.set_status(status)
    return path


def made_up_return(number: int, lane: TrainConfig, index: int) -> float:
    """The return of a lane's evaluation."""
    rng = np.random.default_rng((number, index))
    last = LAST_RETURNS.get(lane.algorithm.policy, 3000.0)
    seed_effect = 1 + 0.08 * np.sin(1.7 * number)
    curve = 1 - np.exp(-(index + 1) / 6)
    effects = seed_effect * (1 - 0.3 * lane.noise.noise_fraction) * curve
    return float(round(last * effects + rng.normal(0, 60), 3))


def _evaluation(
    number: int, lane: TrainConfig, index: int, is_nan: bool, values: Mapping[str, Any]
) -> EvaluationRow:
    mean = float("nan") if is_nan else made_up_return(number, lane, index)
    step = (index + 1) * EVAL_FREQ
    named = {**lane.flat(), **values}
    return EvaluationRow(
        number, named["policy"], named["env"], named["seed"], named["noise_fraction"],
        named["variant"], step, step, round(12.5 * (index + 1), 3), mean, 80.0, mean - 100,
        mean + 100, EVAL_EPISODES,
    )  # fmt: skip


def _training(number: int, lane: TrainConfig, index: int) -> TrainingRow:
    step, mean = (index + 1) * EVAL_FREQ, made_up_return(number, lane, index)
    return TrainingRow(
        number, step, step, 5, 0.9 * mean, 1.0, -mean / 100, 0.2, mean / 100, -4.0,
        400.0 + number, 400.0 + number, 0,
    )  # fmt: skip


def _connections(
    number: int, lane: TrainConfig, index: int, network: str
) -> Iterator[TopologyRow | FeatureRow]:
    """Connections wander from noise to real features where the topology changes."""
    spec = registry.spec(lane.task.env, lane.task.backend)
    num_real = spec.num_features
    num_features = noise.num_features(num_real, lane.noise.noise_fraction)
    step, num_noise = (index + 1) * EVAL_FREQ, num_features - num_real
    counts: list[int] = []
    if lane.sparsity.input_layer_sparsity:
        density, hidden = 1 - lane.sparsity.input_layer_sparsity, lane.network.hidden[0]
        is_moving = lane.sparsity.topology == "set"
        per_real = min(hidden, density * hidden * (1 + 0.4 * index * is_moving))
        total = round(density * hidden * num_features)
        per_noise = max(0.0, (total - per_real * num_real) / max(1, num_noise))
        rng = np.random.default_rng((number, index, len(network)))
        means = [per_real] * num_real + [per_noise] * num_noise
        counts = [int(min(hidden, max(0, rng.normal(mean, 3)))) for mean in means]
        real, unreal = sum(counts[:num_real]), sum(counts[num_real:])
        yield TopologyRow(
            number, step, step, network, 0, real + unreal,
            (real + unreal) / (hidden * num_features), real, unreal, real / (real + unreal),
        )  # fmt: skip
    yield FeatureRow(
        number, step, step, network, num_real, num_features, 0.05 + 0.01 * index,
        0.05 - 0.004 * index if num_noise else float("nan"),
        " ".join(map(str, counts[: num_real + NUM_SHOWN_NOISE])),
    )  # fmt: skip


def without_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have empty figures from here on: drawing takes most of their time."""
    sections = (
        section_answer, section_connections, section_costs, section_curves, section_efficiency,
        section_tasks,
    )  # fmt: skip
    for section in sections:
        for name, value in vars(section).items():
            is_drawn = getattr(value, "__module__", "").startswith("fastanf.report.figures_")
            if is_drawn and inspect.isfunction(value):
                monkeypatch.setattr(section, name, lambda *_, **__: Figure(figsize=(2, 1)))
    monkeypatch.setattr(figures_in_page, "save", _save_nothing)


def _save_nothing(_: Figure, stem: Path) -> None:
    for kind in ("svg", "png"):
        stem.with_name(f"{stem.name}.{kind}").write_bytes(kind.encode())


class Page(HTMLParser):
    """A page as it was parsed: its elements in order, its text, and what is wrong with its tags."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.errors: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.text = ""
        self._open: list[str] = []
        self.feed(self.source)
        self.close()
        self.errors += [f"{tag} is not closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("h1", "h2", "h3"):
            self.headings.append((int(tag[1]), ""))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.errors.append(f"{tag} is closed where it is not open")

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self._open and self._open[-1] in ("h1", "h2", "h3"):
            level, text = self.headings[-1]
            self.headings[-1] = (level, text + data)

    def sections(self) -> list[str]:
        """Headings of the sections."""
        return [text for level, text in self.headings if level == 2]

    def values(self, name: str) -> list[str]:
        """Every value of an attribute."""
        return [str(found[name]) for _, found in self.elements if name in found]
