"""Figures as files beside the page and as images inside it."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from fastanf.plain_text import file_stem
from fastanf.report.drawing import save
from fastanf.report.markup import Markup, element, join, text

MAX_SVG_BYTES = 400_000
"""A larger SVG (many points) stands in the page as its PNG."""
SCREEN_DPI = 96
"""CSS pixels an inch: a figure is shown at its own size where there is room."""


@dataclass(frozen=True)
class Shelf:
    """Where the figures of a page go."""

    folder: Path

    def put(self, name: str, figure: Figure, alt: str, *caption: str) -> Markup:
        """Saves a figure as NAME.png and NAME.svg, and returns it as an element of the page.

        Args:
            name: of the files, no two the same; what a file name should not hold becomes "_".
            figure: to be saved.
            alt: what it shows, for those who do not see it.
            caption: text or markup beneath it.
        """
        name = file_name(name)
        width_inches = float(figure.get_figwidth())
        save(figure, self.folder / name)
        svg, png = (self.folder / f"{name}.{kind}" for kind in ("svg", "png"))
        source = data_url(svg if svg.stat().st_size <= MAX_SVG_BYTES else png)
        image = element(
            "img",
            src=source,
            alt=alt,
            style=f"--width:{round(width_inches * SCREEN_DPI)}px",
            loading="lazy",
        )
        links = join(
            (element("a", kind.upper(), href=f"{name}.{kind}") for kind in ("svg", "png")), ", "
        )
        return element(
            "figure",
            element("div", image, class_="card", tabindex="0", role="region", aria_label=alt),
            element("figcaption", join(map(text, caption)), " ", links),
        )


def file_name(name: str) -> str:
    """The name without anything but letters, digits, underscores and dashes, and not too long."""
    return file_stem(re.sub(r"[^A-Za-z0-9_-]+", "_", name))


def data_url(path: Path) -> str:
    """The file itself as an address."""
    kinds = {".svg": "image/svg+xml", ".png": "image/png"}
    return f"data:{kinds[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"
