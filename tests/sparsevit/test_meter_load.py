"""Measurements that drift, start slowly, or have others' load beside them."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from sparsevit.latency.load import LoadWatch, waited_ns
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.meter import ATTEMPTS, measure
from sparsevit.latency.sampling import Sampler
from sparsevit.latency.timers import device_timer
from tests.sparsevit.fake_clock import FakeClock

CPU = torch.device("cpu")


def test_a_steady_drift_cancels_in_the_ratio_and_is_flagged():
    """The machine slows down to half its speed: raw medians move, the ratio does not."""
    clock = FakeClock()
    slow = lambda seconds: 1 + seconds / 10  # noqa: E731
    found = measure(
        clock.run("run", lambda s: 4 * slow(s)),
        reference=clock.run("dense", lambda s: 10 * slow(s)),
        device=CPU,
        share=1e-6,
        max_seconds=10,
        clock=clock,
    )
    assert found.ratio == pytest.approx(0.4, rel=0.01)
    assert found.disturbed
    assert found.set_aside > 0.75


def test_rounds_in_which_the_reference_was_slow_are_set_aside():
    """A neighbour on the same host: no counter shows it, but the reference does."""
    clock = FakeClock()
    load = lambda seconds: 1.4 if 0.3 < seconds < 0.5 else 1.0  # noqa: E731
    found = measure(
        clock.run("run", lambda s: 4 * load(s)),
        reference=clock.run("dense", lambda s: 10 * load(s)),
        device=CPU,
        clock=clock,
        min_samples=40,
    )
    assert (found.p50, found.p99, found.disturbed, found.attempts) == (4.0, 4.0, False, 1)
    assert (found.reference_p50, found.ratio) == (10.0, 0.4)
    assert 0.1 < found.set_aside < 0.5


def test_a_reference_that_is_noisy_by_itself_keeps_its_samples():
    """6% from one sample to the next, and nothing else runs."""
    clock, rng = FakeClock(), np.random.default_rng(0)
    dense = clock.run("dense", lambda _: 10.0 * (1 + 0.06 * rng.standard_normal()))
    run = clock.run("run", lambda _: 4.0 * (1 + 0.06 * rng.standard_normal()))
    found = measure(run, reference=dense, device=CPU, max_seconds=3, clock=clock)
    assert found.set_aside < 0.1
    assert not found.disturbed


def test_a_slow_start_is_waited_out_where_the_quiet_latency_is_known():
    """Without that knowledge the slow state, which lasts for the first second, is taken for the
    device's speed."""
    load = lambda seconds: 1.3 if seconds < 1 else 1.0  # noqa: E731
    found = []
    for known in (None, 10.0):
        clock = FakeClock()
        found.append(
            measure(
                clock.run("run", lambda s: 4 * load(s)),
                reference=clock.run("dense", lambda s: 10 * load(s)),
                device=CPU,
                clock=clock,
                quiet_ms=known,
            )
        )
    assert [(one.p50, one.slower, one.disturbed) for one in found] == [
        (4.0 * 1.3, 0.0, False),
        (4.0, 0.0, False),
    ]


def test_a_device_that_stays_slower_is_measured_as_it_is_and_says_so():
    clock = FakeClock()
    found = measure(
        clock.run("run", lambda _: 5.2),
        reference=clock.run("dense", lambda _: 13.0),
        device=CPU,
        max_seconds=20,
        clock=clock,
        quiet_ms=10.0,
    )
    assert (found.p50, found.disturbed, found.attempts) == (5.2, False, 1)
    assert found.slower == pytest.approx(0.3)
    # It may be as fast again at any time, and a sparse forward lost up to 15% more than dense.
    assert found.interval == pytest.approx((5.2 / 1.3 / 1.15, 5.2))
    assert found.reference_interval == pytest.approx((10.0, 13.0))
    assert found.ratio_interval == pytest.approx((0.4 / 1.15, 0.4 * 1.05))
    assert 7 < clock.ns / 1e9 < 13  # half of the time, no more


@pytest.mark.parametrize(
    ("known", "every", "disturbed"),
    [(10.0, 0.6, False), (10.0, 1.8, True), (None, 0.6, True)],
)
def test_few_quiet_moments_do_where_the_quiet_latency_is_known(known, every, disturbed):
    """A sixth of the time is quiet, or a twentieth. Without that knowledge it could be a rare boost."""
    clock = FakeClock()
    load = lambda seconds: 1.0 if seconds % every < 0.1 else 1.4  # noqa: E731
    found = measure(
        clock.run("run", lambda s: 4 * load(s)),
        reference=clock.run("dense", lambda s: 10 * load(s)),
        device=CPU,
        max_seconds=12,
        min_samples=60,
        clock=clock,
        quiet_ms=known,
    )
    assert found.set_aside > 0.75
    assert (found.p50, found.disturbed) == (4.0, disturbed)
    assert found.slower == 0


def test_a_burst_of_load_that_nothing_shows_is_measured_again():
    clock = FakeClock()
    load = lambda seconds: 2.0 if 0.1 < seconds < 0.2 else 1.0  # noqa: E731
    run = clock.run("run", lambda s: 4 * load(s))
    found = measure(run, device=CPU, clock=clock, min_samples=40)
    assert (found.p50, found.disturbed, found.attempts) == (4.0, False, 2)


def test_a_measurement_that_stays_disturbed_says_so():
    clock = FakeClock()
    found = measure(
        clock.run("run", lambda _: 4.0),
        reference=clock.run("dense", lambda s: 10.0 * (1 + s)),
        device=CPU,
        max_seconds=1e6,
        clock=clock,
    )
    assert (found.disturbed, found.attempts) == (True, ATTEMPTS)


class Busy:
    """Other processes take the cores between two moments; the sampler is told how long it waited."""

    def __init__(self, clock: FakeClock, begin: float, end: float) -> None:
        self.clock, self.begin, self.end = clock, begin, end

    def load(self, seconds: float) -> float:
        return 3.0 if self.begin <= seconds < self.end else 1.0

    def waited(self) -> int:
        """Two thirds of the time under load were spent in line."""
        busy = min(max(self.clock.ns / 1e9, self.begin), self.end) - self.begin
        return round(busy * 2 / 3 * 1e9)

    def measured(self, seconds: float) -> list[Measurement]:
        timer = device_timer(CPU, self.clock)
        run, dense = (
            self.clock.run(name, lambda s, ms=ms: ms * self.load(s))
            for name, ms in (("run", 4.0), ("dense", 10.0))
        )
        sampler = Sampler(timer, [run], dense, 0.02, 20, self.waited, by_level=False)
        sampler.sample(self.clock.ns + int(seconds * 1e9), self.clock, None)
        return sampler.measurements(1)


def test_rounds_under_foreign_load_are_set_aside():
    found = Busy(FakeClock(), 0.1, 0.4).measured(10)[0]
    assert (found.p50, found.interval, found.ratio) == (4.0, (4.0, 4.0), 0.4)
    assert 20 <= found.samples <= 25
    assert not found.disturbed
    assert 0.2 < found.set_aside < 0.5
    assert 0.1 < found.load["waited"] < 0.67


def test_a_number_from_under_load_throughout_is_marked():
    found = Busy(FakeClock(), 0.0, 1e6).measured(1)[0]
    assert found.samples >= 8
    assert found.p50 == 12.0
    assert (found.set_aside, found.disturbed) == (1.0, True)


def test_waiting_for_a_core_is_counted():
    """More spinning threads than cores: this process must have waited."""
    before = waited_ns()
    spin = "import time; end = time.monotonic() + 1.5\nwhile time.monotonic() < end: pass"
    others = [
        subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2 * (os.cpu_count() or 1))
    ]
    end = time.monotonic() + 1.0
    while time.monotonic() < end:
        pass
    waited = waited_ns() - before
    for other in others:
        other.wait()
    assert waited > 5e7


def test_the_load_of_others_is_seen():
    watch = LoadWatch()
    spin = "import time; end = time.monotonic() + 1\nwhile time.monotonic() < end: pass"
    subprocess.run([sys.executable, "-c", spin], check=True)
    seen = watch.seen()
    assert seen["foreign_cores"] > 0.5
    assert 0 <= seen["steal"] <= 1
    assert len(seen["load_average"]) == 3
