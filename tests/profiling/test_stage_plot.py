"""The picture of the stages: no text on another, every stage named, and files that are written."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import stage_plot
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

import envs
from fastanf.instrument import STEP_STAGES, UPDATE_STAGES, Stage
from fastanf.peaks import Peaks
from fastanf.presets import lane_config
from fastanf.stage_table import StageTable, StageTime, make_table
from fastanf.workload import step_work, update_work

LONG_TITLE = (
    "ANF-SAC ANF-TD3 SAC Static-SAC, Humanoid-v3 at noise 0.99, input 0.8, 64 lanes, batch 256, "
    "masked/native, compile=update, autocast=bfloat16, policy_delay=2"
)
PEAKS = Peaks(200.0, 40.0, 120.0, 64_000_000)
TYPICAL = dict(zip(UPDATE_STAGES, (0.4, 17, 11, 15, 4, 17, 13, 1.6, 0.5, 0.02), strict=True)) | {
    Stage.OTHER: 0.3
}
CASES = {
    "HalfCheetah": ("HalfCheetah-v3", 0.99, TYPICAL),
    "Humanoid": ("Humanoid-v3", 0.9, {name: 3 * ms for name, ms in TYPICAL.items()}),
    "tiny beside large": ("HalfCheetah-v3", 0.9, dict.fromkeys(TYPICAL, 1e-3) | {Stage.TARGET: 9}),
    "all alike": ("Hopper-v3", 0.5, dict.fromkeys(TYPICAL, 1.0)),
    "seconds": ("Humanoid-v3", 0.9, {name: 137.3 * ms for name, ms in TYPICAL.items()}),
    "many digits": ("Humanoid-v3", 0.9, {name: 1.234e-4 * ms for name, ms in TYPICAL.items()}),
    "two": ("Hopper-v3", 0.5, {Stage.TARGET: 2.0, Stage.OTHER: 1.0}),
    "none with operations": ("Hopper-v3", 0.0, {Stage.SAMPLE: 2.0, Stage.OTHER: 1.0}),
}


def tables_of(env: str, noise: float, ms: dict[Stage, float]) -> tuple[StageTable, StageTable]:
    settings = {"env": env, "noise_fraction": noise, "policy_delay": 3, "layout": "masked"}
    lanes = [lane_config("ANF-TD3", settings)]
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
    update, step = tables_of(*CASES[case])
    figure = stage_plot.draw(update, step, title=LONG_TITLE)
    figure.set_dpi(stage_plot.DPI)
    figure.canvas.draw()
    texts = [t for t in texts_of(figure) if t.get_visible()]
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    width, height = (inches * stage_plot.DPI for inches in stage_plot.SIZE)
    bars = [a.get_window_extent() for a in figure.artists if isinstance(a, Rectangle)]
    assert len(bars) == len(update.rows) + len(step.rows)
    shown = [(text, box) for text, box in boxes if _is_drawn(figure, text, box)]
    for text, box in shown:
        assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, text
        assert not any(box.overlaps(bar) for bar in bars), f"{text!r} lies on a bar"
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
        assert any(w.startswith(f"{row.name}  ") and w.endswith(_share(row.share)) for w in words)
    assert any(w.startswith("One update: ") for w in words)


def _share(share: float) -> str:
    return "<0.1%" if share < 0.0005 else f"{share:.1%}"


def test_milliseconds_have_no_exponent_where_there_are_thousands() -> None:
    update, step = tables_of(*CASES["seconds"])
    words = [t.get_text() for t in texts_of(stage_plot.draw(update, step, "title"))]
    assert f"One update: {update.whole_ms:,.0f} ms" in words
    assert not any("e+" in word for word in words)


def test_a_low_rate_is_not_written_as_none() -> None:
    words = [
        t.get_text() for t in texts_of(stage_plot.draw(*tables_of(*CASES["seconds"]), "title"))
    ]
    assert any(", useful " in word for word in words)
    assert not any(word.endswith((", useful 0", "  0")) or "  0," in word for word in words)


def test_of_two_stages_at_one_place_the_smaller_is_drawn_last() -> None:
    figure = stage_plot.draw(*tables_of(*CASES["HalfCheetah"]), title="title")
    points = [c for c in figure.axes[0].collections if isinstance(c, PathCollection)]
    areas = [float(point.get_sizes()[0]) for point in points]
    assert len(areas) > 2 and areas == sorted(areas, reverse=True)


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
