"""Files of figures, and the words that figures share."""

import re
import struct
from pathlib import Path

import pytest

from fastanf.report.connections import feature_map
from fastanf.report.drawing import (
    count_range,
    empty_figure,
    file_bytes,
    full_title,
    labels_of,
    save,
    shared_name,
    short_title,
)
from fastanf.report.figures_curves import learning_curves
from fastanf.report.figures_features import feature_heat_map
from tests.report_samples import feature_rows, sample_arm


def test_save_writes_each_format_beside_the_stem(tmp_path: Path) -> None:
    paths = save(learning_curves([sample_arm()]), tmp_path / "ANF-v0.9")
    assert [path.name for path in paths] == ["ANF-v0.9.png", "ANF-v0.9.svg"]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [p.name for p in paths]
    head = paths[0].read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">I", head[16:20])[0] > 1000
    assert b"<svg" in paths[1].read_bytes()


def test_equal_figures_give_equal_bytes() -> None:
    for kind in ("svg", "png"):
        first, second = (file_bytes(learning_curves([sample_arm()]), kind) for _ in range(2))
        assert first == second
        maps = [feature_map(feature_rows(0, sample_arm().steps), "actor", "x") for _ in range(2)]
        first, second = (file_bytes(feature_heat_map(one), kind) for one in maps)
        assert first == second


def test_text_of_an_svg_is_text_and_holds_no_date() -> None:
    svg = file_bytes(learning_curves([sample_arm(variant="a<b & $x$")]), "svg").decode()
    assert "a&lt;b &amp; $x$" in svg and "return while training" in svg
    assert "<dc:date" not in svg and not re.search(r"20\d\d-\d\d-\d\dT", svg)


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'pdf' is not allowed; use png or svg"):
        file_bytes(empty_figure("nothing", "nothing"), "pdf")


def test_labels_leave_out_what_all_share_and_the_shared_name_says_it() -> None:
    keys = [("ANF-SAC", "a=1, b=2"), ("ANF-SAC", "a=3, b=2")]
    assert labels_of(keys) == {keys[0]: ("a=1",), keys[1]: ("a=3",)}
    assert shared_name(keys) == "ANF-SAC, b=2"
    keys = [("SAC", ""), ("SAC", "a=1")]
    assert labels_of(keys) == {keys[0]: ("SAC",), keys[1]: ("a=1",)}
    keys = [("SAC", "a=1"), ("TD3", "a=1")]
    assert labels_of(keys) == {keys[0]: ("SAC",), keys[1]: ("TD3",)}
    assert shared_name(keys) == "a=1"
    assert labels_of([("SAC", "a=1")]) == {("SAC", "a=1"): ("SAC", "a=1")}
    assert shared_name([("SAC", "a=1")]) == ""


def test_titles_name_the_task_once() -> None:
    one, two = ("Ant-v3", 0.9), ("Ant-v3", 0.0)
    assert full_title([one, one], "", "return") == "Ant-v3, 90% noise features: return"
    assert full_title([one, two], "SAC", "return") == "Ant-v3, SAC: return"
    assert full_title([one, ("Hopper-v3", 0.9)], "", "return") == "Return"
    assert short_title(one, [one]) == "" and short_title(two, [one, two]) == "no noise features"


def test_counts_are_words() -> None:
    assert [count_range(n, "seed") for n in ([], [1], [5, 5], [3, 5])] == [
        "0 seeds",
        "1 seed",
        "5 seeds",
        "3 to 5 seeds",
    ]
