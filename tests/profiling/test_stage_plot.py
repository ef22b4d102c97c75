"""The picture of the stages: no text on another, every stage named, and files that are written."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import stage_plot
from matplotlib.figure import Figure
from matplotlib.text import Text

import envs
from fastanf.instrument import STEP_STAGES, UPDATE_STAGES, Stage
from fastanf.peaks import Peaks
from fastanf.presets import lane_config
from fastanf.stage_table import StageTable, StageTime, make_table
from fastanf.workload import step_work, update_work

PEAKS = Peaks(200.0, 40.0, 120.0, 64_000_000)
TYPICAL = dict(
    zip(UPDATE_STAGES, (0.4, 3.1, 17, 11, 15, 4, 17, 13, 1.6, 0.5, 0.02), strict=True)
) | {Stage.OTHER: 0.3}
CASES = {
    "HalfCheetah": ("HalfCheetah-v3", 0.99, TYPICAL),
    "Humanoid": ("Humanoid-v3", 0.9, {name: 3 * ms for name, ms in TYPICAL.items()}),
    "tiny beside large": ("HalfCheetah-v3", 0.9, dict.fromkeys(TYPICAL, 1e-3) | {Stage.TARGET: 9}),
    "all alike": ("Hopper-v3", 0.5, dict.fromkeys(TYPICAL, 1.0)),
    "two": ("Hopper-v3", 0.5, {Stage.TARGET: 2.0, Stage.OTHER: 1.0}),
    "none with operations": ("Hopper-v3", 0.0, {Stage.SAMPLE: 2.0, Stage.OTHER: 1.0}),
}


def tables_of(env: str, noise: float, ms: dict[Stage, float]) -> tuple[StageTable, StageTable]:
    lanes = [lane_config("ANF-TD3", {"env": env, "noise_fraction": noise, "policy_delay": 3})]
    spec = envs.spec(env)
    step = dict.fromkeys((*STEP_STAGES, Stage.OTHER), 0.2) | {Stage.UPDATE: sum(ms.values())}

    def times(of: dict[Stage, float]) -> list[StageTime]:
        return [StageTime(name, [round(value * 1e6)], 1.0) for name, value in of.items()]

    return (
        make_table("One update", times(ms), update_work(lanes, spec), PEAKS),
        make_table("One training step", times(step), step_work(lanes, spec, 16), PEAKS),
    )


def texts_of(figure: Figure) -> list[Text]:
    return [t for t in figure.findobj(Text) if isinstance(t, Text) and t.get_text().strip()]


@pytest.mark.parametrize("case", CASES)
def test_no_text_lies_on_another_or_leaves_the_picture(case: str) -> None:
    figure = stage_plot.draw(*tables_of(*CASES[case]), title="ANF-TD3, 64 lanes, batch 100")
    figure.set_dpi(stage_plot.DPI)
    figure.canvas.draw()
    texts = [t for t in texts_of(figure) if t.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    width, height = (inches * stage_plot.DPI for inches in stage_plot.SIZE)
    shown = [(text, box) for text, box in boxes if _is_drawn(figure, text, box)]
    for text, box in shown:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
    for (one, a), (other, b) in itertools.combinations(shown, 2):
        assert not a.padded(-1).overlaps(b.padded(-1)), f"{one!r} lies on {other!r}"


def _is_drawn(figure: Figure, text: str, box) -> bool:
    # Ticks beyond the ends of a logarithmic axis exist, but are clipped.
    axes = figure.axes[0].get_window_extent()
    is_tick = text.startswith("$")
    return not is_tick or (axes.x0 - 60 <= box.x0 <= axes.x1 and axes.y0 - 40 <= box.y0 <= axes.y1)


@pytest.mark.parametrize("case", CASES)
def test_every_stage_is_named_in_its_bar(case: str) -> None:
    update, step = tables_of(*CASES[case])
    words = [t.get_text() for t in texts_of(stage_plot.draw(update, step, "title"))]
    for row in (*update.rows, *step.rows):
        assert any(w.startswith(f"{row.name}  ") and w.endswith(f"{row.share:.1%}") for w in words)
    assert f"One update: {update.whole_ms:.3g} ms" in words


def test_every_stage_has_a_colour_of_its_own() -> None:
    assert set(stage_plot.COLOURS) == set(Stage)
    assert len(set(stage_plot.COLOURS.values())) == len(Stage)


@pytest.mark.parametrize(("name", "magic"), [("a.png", b"\x89PNG"), ("a.svg", b"<?xml")])
def test_the_file_is_written_in_its_format(tmp_path: Path, name: str, magic: bytes) -> None:
    stage_plot.write_plot(tmp_path / name, *tables_of(*CASES["two"]), title="two")
    assert (tmp_path / name).read_bytes().startswith(magic)


@pytest.mark.parametrize(
    ("name", "message"), [("none/a.png", "--plot .* cannot be written"), ("a.xyz", "--plot must")]
)
def test_what_cannot_be_written_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        stage_plot.write_plot(tmp_path / name, *tables_of(*CASES["two"]), title="two")
