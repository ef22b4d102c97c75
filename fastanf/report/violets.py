"""A colour map of one hue for counts: equal steps look equal, pale is none."""

import numpy as np
from matplotlib.colors import ListedColormap

PALEST, DARKEST = (0.985, 0.01), (0.30, 0.13)
"""Lightness and chroma in OKLab (Ottosson 2020) of no connection and of the most."""
HUE = 305.0
"""Degrees in OKLab: violet, the colour of the real features."""


def violets() -> ListedColormap:
    """256 shades of one hue, evenly spaced in OKLab's lightness, pale for none."""
    t = np.linspace(0, 1, 256)[:, None]
    shades = np.array(PALEST) + t * (np.array(DARKEST) - np.array(PALEST))
    return ListedColormap(_rgb_of_oklab(shades[:, 0], shades[:, 1], float(np.deg2rad(HUE))))


def _rgb_of_oklab(L: np.ndarray, chroma: np.ndarray, angle: float) -> np.ndarray:
    """[...] lightness and chroma -> [..., 3] sRGB in 0..1.

    Source: Björn Ottosson, "A perceptual color space for image processing", 2020.
    """
    a, b = chroma * np.cos(angle), chroma * np.sin(angle)
    long = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (L - 0.0894841775 * a - 1.2914855480 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    )
    linear = np.clip(linear, 0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
