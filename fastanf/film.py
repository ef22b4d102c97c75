"""Films: pictures with a caption, as GIF or MP4; the file is there as a whole or not at all.

GIF: one palette for all pictures and no dithering, so that what stands still costs nothing.
MP4: H.264 by ffmpeg, which the package imageio-ffmpeg brings along (`fastanf[film]`).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from fastanf.files import write_atomic

SUFFIXES = (".mp4", ".gif")
AddPicture = Callable[[Image.Image], None]
_FONT_SHARE = 1 / 18
_MARGIN_SHARE = 1 / 40
"""Of the height of the picture."""


def check_film(path: Path, width: int, height: int) -> None:
    """Whether a film can be written there, before anything is drawn.

    Raises:
        ValueError: the suffix, the folder, the size or a missing package, in one line.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(f"--film must end in {' or '.join(SUFFIXES)}, got {str(path)!r}")
    if path.is_dir():
        raise ValueError(f"--film must be a file, got the folder {str(path)!r}")
    try:
        # os.access says yes to root even where nothing can be written.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(
            f"--film must be in a writable folder, got {str(path)!r} ({error.strerror})"
        ) from None
    if suffix == ".mp4":
        _ffmpeg()
        for name, size in (("width", width), ("height", height)):
            if size % 2:
                raise ValueError(f"--{name} must be even for an mp4, got {size}")


def caption(picture: Image.Image, above: Sequence[str], left: str, right: str) -> None:
    """Write lines above, and a word in each lower corner, into a picture."""
    canvas, margin = ImageDraw.Draw(picture), round(picture.height * _MARGIN_SHARE)
    width, bottom = picture.width, picture.height - margin
    size = max(9, round(picture.height * _FONT_SHARE))
    look: dict[str, Any] = {"fill": "white", "stroke_width": 1, "stroke_fill": "black"}
    top = margin
    for line in above:
        font = _font(size)
        font = _font(int(size * min(1, (width - 2 * margin) / font.getlength(line))))
        canvas.text((margin, top), line, font=font, anchor="la", **look)
        top += round(1.3 * size)
    canvas.text((margin, bottom), left, font=_font(size), anchor="ld", **look)
    canvas.text((width - margin, bottom), right, font=_font(size), anchor="rd", **look)


@contextlib.contextmanager
def open_film(path: Path, width: int, height: int, fps: float) -> Iterator[AddPicture]:
    """Write a film of the pictures that the body adds.

    Args:
        path: as `check_film` takes it; a file there is replaced at the end of the body.
        width, height: of the pictures.
        fps: pictures a second.

    Raises:
        OSError: it cannot be written.
    """
    if path.suffix.lower() == ".gif":
        pictures: list[Image.Image] = []
        yield lambda picture: pictures.append(_with_palette(picture, pictures))
        write_atomic(path, _gif(pictures, fps))
    else:
        beside = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mp4")
        try:
            with _mp4(beside, width, height, fps) as add:
                yield add
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which comes with matplotlib."""
    file = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(file), size)


def _with_palette(picture: Image.Image, earlier: Sequence[Image.Image]) -> Image.Image:
    """In 256 colours, those of the earlier pictures where there are any."""
    palette = earlier[0] if earlier else None
    return picture.quantize(256, palette=palette, dither=Image.Dither.NONE)


def _gif(pictures: Sequence[Image.Image], fps: float) -> bytes:
    # A GIF counts in hundredths of a second: each picture ends at the one that is nearest.
    ends = [round(100 * (k + 1) / fps) for k in range(len(pictures))]
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    stream = io.BytesIO()
    pictures[0].save(
        stream, "GIF", save_all=True, append_images=pictures[1:], duration=durations, loop=0
    )
    return stream.getvalue()


def _ffmpeg() -> Any:
    """The package imageio_ffmpeg, with a program ffmpeg that it finds.

    Raises:
        ValueError: one of them is not there.
    """
    try:
        package = importlib.import_module("imageio_ffmpeg")
        package.get_ffmpeg_exe()
    except (ImportError, RuntimeError):
        raise ValueError(
            "--film to an .mp4 needs the package imageio-ffmpeg: pip install 'fastanf[film]', or "
            "name a .gif"
        ) from None
    return package


@contextlib.contextmanager
def _mp4(path: Path, width: int, height: int, fps: float) -> Iterator[AddPicture]:
    writer = _ffmpeg().write_frames(
        str(path), (width, height), fps=fps, quality=7, macro_block_size=2
    )
    writer.send(None)
    try:
        yield lambda picture: writer.send(picture.tobytes())
    finally:
        writer.close()
