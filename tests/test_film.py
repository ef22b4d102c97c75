"""Films: captions in pictures, GIF and MP4 files as a whole, and what is refused beforehand."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastanf.film import caption, check_film, open_film

WIDTH, HEIGHT = 96, 64


def pictures(number: int) -> list[Image.Image]:
    """A white square that moves over grey."""
    made = []
    for k in range(number):
        pixels = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
        pixels[20:40, 3 * k : 3 * k + 10] = 255
        made.append(Image.fromarray(pixels))
    return made


def write(path: Path, number: int, fps: float) -> None:
    check_film(path, WIDTH, HEIGHT)
    with open_film(path, WIDTH, HEIGHT, fps) as add:
        for picture in pictures(number):
            add(picture)


@pytest.mark.parametrize(("fps", "total_ms"), [(20.0, 350), (1 / 0.045, 320), (50.0, 140)])
def test_a_gif_has_every_picture_and_their_pace(tmp_path: Path, fps: float, total_ms: int) -> None:
    write(tmp_path / "run.gif", 7, fps)
    film: Any = Image.open(tmp_path / "run.gif")
    assert film.n_frames == 7 and film.size == (WIDTH, HEIGHT) and film.info["loop"] == 0
    elapsed = 0
    for k, picture in enumerate(pictures(7)):
        film.seek(k)
        elapsed += film.info["duration"]
        assert np.array_equal(np.asarray(film.convert("RGB")), np.asarray(picture))
        assert abs(elapsed - 1000 * (k + 1) / fps) <= 5  # ms; a GIF counts in tens
    assert elapsed == total_ms
    assert [file.name for file in tmp_path.iterdir()] == ["run.gif"]


def test_an_mp4_has_every_picture_and_their_pace(tmp_path: Path) -> None:
    package = pytest.importorskip("imageio_ffmpeg", reason="MP4 needs imageio-ffmpeg")
    write(tmp_path / "run.mp4", 30, 10.0)
    number, seconds = package.count_frames_and_secs(str(tmp_path / "run.mp4"))
    assert (number, seconds) == (30, pytest.approx(3.0, abs=0.1))
    reader = package.read_frames(str(tmp_path / "run.mp4"))
    assert next(reader)["size"] == (WIDTH, HEIGHT)
    first = np.frombuffer(next(reader), np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert np.abs(first.astype(int) - np.asarray(pictures(1)[0])).mean() < 5  # it is lossy
    reader.close()
    assert [file.name for file in tmp_path.iterdir()] == ["run.mp4"]


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_what_breaks_down_leaves_the_old_film(tmp_path: Path, suffix: str) -> None:
    if suffix == ".mp4":
        pytest.importorskip("imageio_ffmpeg", reason="MP4 needs imageio-ffmpeg")
    path = tmp_path / f"run{suffix}"
    path.write_text("old")
    with pytest.raises(KeyError), open_film(path, WIDTH, HEIGHT, 20.0) as add:
        add(pictures(1)[0])
        raise KeyError
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("size", [(160, 120), (320, 240), (1280, 720)])
def test_a_caption_lies_within_the_picture(size: tuple[int, int]) -> None:
    def changed(above: tuple[str, ...], left: str, right: str) -> np.ndarray:
        picture = Image.new("RGB", size, (90, 90, 90))
        caption(picture, above, left, right)
        return (np.asarray(picture) != 90).any(2)

    width, height = size
    text = changed(("ANF-SAC after 1,000,000 steps, and more words than there is room",), "", "")
    assert text[:, -1].sum() == 0 and text[height // 2 :].sum() == 0 and text.sum() > 50
    assert np.nonzero(text.any(0))[0].max() > 0.8 * width  # as large as there is room
    left, right = changed((), "step 7", ""), changed((), "", "-12")
    assert left[:, width // 2 :].sum() == 0 and right[:, : width // 2].sum() == 0
    for corner in (left, right):
        assert corner[: height // 2].sum() == 0 and corner[-1].sum() == 0 and corner.sum() > 20


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("run.avi", "--film must end in .mp4 or .gif, got"),
        ("run", "--film must end in .mp4 or .gif, got"),
        ("folder.gif", "--film must be a file, got the folder"),
        ("missing/run.gif", "--film must be in a writable folder, got .*No such file"),
    ],
)
def test_a_film_that_cannot_be_is_refused_beforehand(
    tmp_path: Path, name: str, message: str
) -> None:
    (tmp_path / "folder.gif").mkdir()
    with pytest.raises(ValueError, match=message):
        check_film(tmp_path / name, WIDTH, HEIGHT)


def test_an_mp4_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    check_film(tmp_path / "run.gif", 65, 65)
    with pytest.raises(ValueError, match=r"imageio-ffmpeg: pip install 'fastanf\[film\]'.* \.gif"):
        check_film(tmp_path / "run.mp4", 64, 64)


def test_an_mp4_has_even_sizes(tmp_path: Path) -> None:
    pytest.importorskip("imageio_ffmpeg", reason="MP4 needs imageio-ffmpeg")
    with pytest.raises(ValueError, match="--height must be even for an mp4, got 63"):
        check_film(tmp_path / "run.mp4", 64, 63)
