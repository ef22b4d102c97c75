"""What pairs of rounds say: ratios, and the stage to blame."""

from __future__ import annotations

import pytest
import ratios

from tests.profiling.fake_benchmark import stage_figures


def pairs_of(*slower_ms: dict[str, float]) -> list[ratios.Pair]:
    """This tree slowed by what is given for each round, against the other as it is."""
    return [(stage_figures(**slower), stage_figures()) for slower in slower_ms]


def test_ratios_are_taken_within_pairs() -> None:
    # The machine slows down threefold between the pairs; within each the ratio is 2.
    pairs = [({"x_per_s": 30.0}, {"x_per_s": 15.0}), ({"x_per_s": 10.0}, {"x_per_s": 5.0})]
    (found,) = ratios.ratios(pairs)
    assert found.ratio == (2.0, 2.0, 2.0)
    assert (found.this.p50, found.other.p50) == (20.0, 10.0)


def test_metrics_that_one_tree_lacks_or_has_as_zero_have_no_ratio() -> None:
    pairs = [({"a_per_s": 1.0, "b_per_s": 2.0, "c_count": 1.0}, {"b_per_s": 1.0, "c_count": 0.0})]
    assert [one.metric for one in ratios.ratios(pairs)] == ["b_per_s"]


def test_slowed_stage_is_named_with_its_part_of_the_change() -> None:
    rounds = ({"critic_optimizer": t, "target": 0.1} for t in (2.9, 3.0, 3.1))
    changes = ratios.stage_changes(pairs_of(*rounds))
    assert changes is not None
    first, second, *rest = changes.stages
    assert (first.stage, second.stage) == ("critic optimizer", "target")
    assert first.change_ms.p50 == 3.0 and first.ratio == 2.0
    assert first.share == pytest.approx(3.0 / 3.1)
    assert sum(change.share for change in changes.stages) == pytest.approx(1.0)
    assert all(change.change_ms.p50 == 0 for change in rest)
    assert changes.sentence() == (
        "slower by 47.7%: critic optimizer takes 3 ms more (2.94..3.06), 97% of the change"
    )


def test_quickened_stage_is_named_and_slower_ones_are_not() -> None:
    changes = ratios.stage_changes(pairs_of({"target": -1.5, "sample": 0.1}))
    assert changes is not None
    assert changes.sentence().startswith("faster by 21.5%: target takes 1.5 ms less (1.5..1.5)")
    assert "sample" not in changes.sentence()


def test_stages_with_a_notable_part_are_named_beside_the_first() -> None:
    changes = ratios.stage_changes(pairs_of({"target": 2.0, "sample": 1.0, "other": 0.1}))
    assert changes is not None
    sentence = changes.sentence()
    assert "target takes 2 ms more" in sentence and "; sample takes 1 ms more" in sentence
    assert "other takes" not in sentence


def test_change_within_the_spread_blames_no_stage() -> None:
    changes = ratios.stage_changes(pairs_of({"target": 0.3}, {"target": -0.3}))
    assert changes is not None
    assert changes.sentence().startswith("no change beyond the spread of the rounds")


def test_stage_that_one_tree_lacks_counts_as_nothing_there() -> None:
    this, other = stage_figures(), stage_figures()
    this["stage:polyak_ms"] = 1.0
    changes = ratios.stage_changes([(this, other)])
    assert changes is not None
    assert (changes.stages[0].stage, changes.stages[0].ratio) == ("polyak", None)
    assert changes.stages[0].share == 1.0


def test_tree_without_stages_has_no_stage_changes() -> None:
    assert ratios.stage_changes([(stage_figures(), {"lane_updates_per_s": 1.0})]) is None
