"""How bench.latency judges a measurement under planted load: what counts as quiet, and what holds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.latency_load import LEARN, around, judged, quiet_among, trial
from sparsevit.latency.measurement import Measurement

QUIET = Measurement(
    p50=16.0,
    p90=16.5,
    p99=17.0,
    interval=(15.8, 16.2),
    samples=30,
    converged=True,
    noise_floor=0.01,
    drift=0.0,
    disturbed=False,
    attempts=1,
    threads=2,
    reference_p50=30.0,
    reference_interval=(29.8, 30.2),
    ratio=0.533,
    ratio_interval=(0.52, 0.54),
)


class TestQuiet:
    def test_a_dense_network_of_another_speed_was_not_alone(self) -> None:
        alone = [replace(QUIET, reference_p50=ms) for ms in (30.0, 31.5, 31.0, 29.0, 28.0)]
        assert sorted(quiet_among(alone, 30.0)) == [0, 2, 3]

    def test_what_is_disturbed_is_not_quiet(self) -> None:
        alone = [QUIET, replace(QUIET, reference_p50=30.5, disturbed=True)]
        assert sorted(quiet_among(alone, 30.0)) == [0]

    def test_the_one_that_says_what_is_quiet_counts_whatever_it_is_marked(self) -> None:
        alone = [replace(QUIET, disturbed=True), replace(QUIET, reference_p50=40.0)]
        assert sorted(quiet_among(alone, 30.0)) == [0]

    def test_a_trial_is_held_against_the_speed_known_at_its_time(self) -> None:
        """The host becomes faster by a tenth after the first trial."""
        early = [QUIET] * LEARN
        late = [replace(QUIET, p50=14.4, interval=(14.2, 14.6), reference_p50=27.0)] * 2
        loaded, loads = [early[0], late[0]], [(0.0, 1.0)] * 2
        found = judged(loads, loaded, [*early, *late], [30.0, 27.0])
        assert [one["quiet_low"] for one in found] == [16.0, 14.4]
        assert all(one["holds"] for one in found)
        by_fastest = judged(loads, loaded, [*early, *late], [27.0, 27.0])
        assert [one["holds"] for one in by_fastest] == [False, True]

    @pytest.mark.parametrize(
        ("number", "places"), [(0, [2]), (2, [2]), (3, [2, 5]), (5, [2, 5]), (6, [5]), (99, [5])]
    )
    def test_the_nearest_before_and_after_a_trial_are_asked(
        self, number: int, places: list[int]
    ) -> None:
        quiet = {place: replace(QUIET, p50=float(place)) for place in (2, 5)}
        assert [one.p50 for one in around(quiet, number)] == places


class TestTrial:
    def test_an_interval_holds_the_quiet_value_or_does_not(self) -> None:
        assert trial(replace(QUIET, interval=(14.0, 15.9)), QUIET)["holds"] is False
        assert trial(replace(QUIET, interval=(14.0, 16.0)), QUIET)["holds"] is True

    def test_the_quiet_value_lies_between_before_and_after(self) -> None:
        loaded, later = replace(QUIET, interval=(16.4, 16.6)), replace(QUIET, p50=17.0)
        assert trial(loaded, QUIET)["holds"] is False
        assert trial(loaded, QUIET, later)["holds"] is True

    def test_a_slow_one_is_held_against_the_quiet_ratio(self) -> None:
        """Its interval in ms reaches down to the known speed, which would hold anything."""
        slow = replace(QUIET, slower=0.5, interval=(10.0, 25.0), ratio_interval=(0.6, 0.7))
        assert trial(slow, QUIET)["holds"] is False
        assert trial(replace(slow, ratio_interval=(0.5, 0.7)), QUIET)["holds"] is True

    def test_a_miss_that_is_marked_says_both(self) -> None:
        found = trial(replace(QUIET, interval=(1.0, 2.0), disturbed=True), QUIET)
        assert (found["holds"], found["disturbed"]) == (False, True)
