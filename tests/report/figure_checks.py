"""What every figure of a report must satisfy: type that can be read, and none upon another."""

from collections.abc import Iterator

from matplotlib.figure import Figure
from matplotlib.text import Text

MIN_POINTS = 8
SLACK = 1.5
"""Pixels at 200 dpi by which boxes of text may touch: they hold the height of absent letters."""
MAX_INCHES = 9.9


def drawn_texts(figure: Figure) -> list[Text]:
    """All text that is drawn; of ticks, those in view."""
    figure.draw_without_rendering()
    found = list(figure.texts)
    for axes in figure.axes:
        found += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in axis.get_major_ticks():
                if low <= tick.get_loc() <= high:
                    found += [tick.label1, tick.label2]
    return [one for one in found if one.get_visible() and one.get_text().strip()]


def words(figure: Figure) -> str:
    """All text of a figure, a line each; wrapped lines are joined again."""
    return "\n".join(one.get_text().replace("\n", " ") for one in drawn_texts(figure))


def collisions(figure: Figure) -> Iterator[tuple[str, str]]:
    """Pairs of texts whose boxes overlap."""
    texts = drawn_texts(figure)
    boxes = [one.get_window_extent() for one in texts]
    for k, (text, box) in enumerate(zip(texts, boxes, strict=True)):
        for other, there in zip(texts[:k], boxes[:k], strict=True):
            across = min(box.x1, there.x1) - max(box.x0, there.x0)
            upward = min(box.y1, there.y1) - max(box.y0, there.y0)
            if across > SLACK and upward > SLACK:
                yield text.get_text(), other.get_text()


def assert_readable(figure: Figure) -> None:
    """Nothing leaves the canvas, no type is too small, no texts overlap, and it fits a page."""
    width, height = figure.get_size_inches() * figure.dpi
    assert figure.get_figwidth() <= MAX_INCHES
    for one in drawn_texts(figure):
        box = one.get_window_extent()
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{one.get_text()!r} leaves the figure"
        assert float(one.get_fontsize()) >= MIN_POINTS, f"{one.get_text()!r} is too small"
    assert not list(collisions(figure))
