"""The meter on a fake clock: what it reports follows from durations chosen here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sparsevit.errors import DeviceError, DeviceOutOfMemory
from sparsevit.latency.load import LoadWatch, waited_ns
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.meter import ATTEMPTS, measure, measure_many
from sparsevit.latency.sampling import MOST_ROUNDS, Sampler
from sparsevit.latency.timers import device_timer

CPU = torch.device("cpu")


class FakeClock:
    """A clock that only runs advance."""

    def __init__(self) -> None:
        self.ns = 0
        self.calls: list[str] = []

    def __call__(self) -> int:
        return self.ns

    def run(self, name: str, ms: Callable[[float], float]) -> Callable[[], None]:
        """A run that takes ms(seconds so far) milliseconds."""

        def call() -> None:
            self.calls.append(name)
            self.ns += round(ms(self.ns / 1e9) * 1e6)

        return call


def noisy(ms: float, share: float, seed: int = 0) -> Callable[[float], float]:
    rng = np.random.default_rng(seed)
    return lambda _: ms * (1 + share * abs(rng.standard_normal()))


def test_a_steady_run_is_measured_exactly():
    clock = FakeClock()
    found = measure(clock.run("run", lambda _: 4.0), device=CPU, clock=clock)
    assert (found.p50, found.p90, found.p99, found.interval) == (4.0, 4.0, 4.0, (4.0, 4.0))
    assert (found.samples, found.converged, found.attempts) == (20, True, 1)
    assert (found.noise_floor, found.drift, found.disturbed) == (0.0, 0.0, False)
    assert found.ratio is found.reference_p50 is None
    assert found.corrected_ms == 4.0


def test_the_reference_is_interleaved_and_gives_the_ratio():
    clock = FakeClock()
    run, dense = clock.run("run", lambda _: 4.0), clock.run("dense", lambda _: 10.0)
    found = measure(run, reference=dense, device=CPU, clock=clock)
    assert (found.ratio, found.ratio_interval) == (0.4, (0.4, 0.4))
    assert (found.reference_p50, found.reference_interval) == (10.0, (10.0, 10.0))
    assert found.corrected_ms == 4.0
    sampled = clock.calls[-41:]
    assert sampled == ["dense", "run"] * 20 + ["dense"]


def test_samples_are_taken_until_the_interval_is_narrow():
    clock = FakeClock()
    coarse = measure(clock.run("run", noisy(5, 0.2)), device=CPU, share=0.1, clock=clock)
    fine = measure(clock.run("run", noisy(5, 0.2)), device=CPU, share=0.02, clock=clock)
    for found, share in ((coarse, 0.1), (fine, 0.02)):
        low, high = found.interval
        assert found.converged
        assert high - low <= (share + 2 * found.noise_floor) * found.p50
        assert low <= found.p50 <= high
        assert found.p50 <= found.p90 <= found.p99
    assert fine.samples > 4 * coarse.samples


def test_the_interval_is_longer_by_the_noise_floor_at_both_ends():
    clock = FakeClock()
    rng = np.random.default_rng(0)
    found = measure(
        clock.run("run", lambda _: 5.0),
        reference=clock.run("dense", lambda _: 10 * rng.uniform(0.5, 1.5)),
        device=CPU,
        clock=clock,
    )
    assert found.noise_floor > 0.01
    margin = 5 * found.noise_floor
    assert found.interval == pytest.approx((5 - margin, 5 + margin))


def test_the_time_limit_ends_an_unsteady_measurement():
    clock = FakeClock()
    rng = np.random.default_rng(0)
    found = measure(
        clock.run("run", lambda _: float(rng.exponential(100)) + 1),
        device=CPU,
        share=1e-4,
        max_seconds=20,
        clock=clock,
    )
    assert not found.converged
    assert clock.ns / 1e9 == pytest.approx(20, abs=2)


def test_a_slow_run_is_still_sampled_a_few_times():
    clock = FakeClock()
    found = measure(clock.run("run", lambda _: 60_000.0), device=CPU, max_seconds=1, clock=clock)
    assert (found.samples, found.p50, found.converged) == (8, 60_000.0, False)


def test_rounds_are_bounded_whatever_the_clock_says():
    clock = FakeClock()
    rng = np.random.default_rng(0)
    run = clock.run("run", lambda _: 1e-3 * float(rng.exponential()) + 1e-6)
    found = measure(run, device=CPU, share=1e-9, clock=clock)
    assert found.samples == MOST_ROUNDS


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
    # It may be as fast again at any time: the interval holds both.
    assert found.interval == pytest.approx((4.0, 5.2))
    assert found.reference_interval == pytest.approx((10.0, 13.0))
    assert found.ratio_interval == pytest.approx((0.4, 0.4))
    assert 7 < clock.ns / 1e9 < 13  # half of the time, no more


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


def test_many_runs_take_turns_and_end_on_their_own():
    clock = FakeClock()
    reports: list[tuple[int, int]] = []
    found = measure_many(
        [
            clock.run(*run)
            for run in (("a", lambda _: 1), ("b", noisy(2, 0.15)), ("c", lambda _: 3))
        ],
        clock.run("dense", lambda _: 4.0),
        device=CPU,
        clock=clock,
        progress=lambda done, total: reports.append((done, total)),
    )
    assert [m.converged for m in found] == [True] * 3
    assert [found[0].samples, found[2].samples] == [20, 20]
    assert found[1].samples > 20
    assert [found[0].ratio, found[2].ratio] == [0.25, 0.75]
    assert reports[-1] == (60, 60)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)
    assert all(done < total for done, total in reports[:-2])


def test_a_long_list_of_short_runs_keeps_the_reference_to_half_of_the_time():
    clock = FakeClock()
    runs = [clock.run(f"pair {i}", lambda _: 1.0) for i in range(50)]
    found = measure_many(runs, clock.run("dense", lambda _: 10.0), device=CPU, clock=clock)
    sampled = clock.calls[clock.calls.index("pair 49") :]
    assert sampled.count("dense") * 10 <= 0.6 * (sampled.count("dense") * 10 + 50 * 20)
    assert all(m.ratio == pytest.approx(0.1) for m in found)


def test_measurements_are_json():
    clock = FakeClock()
    run, dense = clock.run("run", lambda _: 4.0), clock.run("dense", lambda _: 10.0)
    document = json.loads(
        json.dumps(measure(run, reference=dense, device=CPU, clock=clock).to_dict())
    )
    assert document["interval"] == [4.0, 4.0]
    assert document["ratio"] == 0.4


def test_threads_hold_for_the_measurement_only():
    before = torch.get_num_threads()
    clock = FakeClock()
    seen: list[int] = []

    def run() -> None:
        seen.append(torch.get_num_threads())
        clock.ns += 1000

    found = measure(run, device=CPU, threads=before + 1, clock=clock)
    assert set(seen) == {before + 1} == {found.threads}
    assert torch.get_num_threads() == before


def test_a_real_clock_gives_positive_milliseconds():
    x = torch.ones(64, 64)
    found = measure(lambda: x @ x, device=CPU, threads=1, max_seconds=0.2)
    assert 0 < found.interval[0] <= found.p50 <= found.interval[1]


def test_devices_that_are_not_here_are_refused():
    for name in ("meta", "cuda:99"):
        with pytest.raises(DeviceError):
            measure(lambda: None, device=torch.device(name))


def test_out_of_memory_is_an_error_of_the_library():
    def run() -> None:
        raise torch.OutOfMemoryError("no more")

    with pytest.raises(DeviceOutOfMemory, match="smaller"):
        measure(run, device=CPU)


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="at least one run"):
        measure_many([], device=CPU)
    with pytest.raises(ValueError, match="clock"):
        measure(lambda: None, device=CPU, clock=lambda: 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_events_time_the_device():
    device = torch.device("cuda")
    x = torch.ones(2048, 2048, device=device)
    found = measure(lambda: x @ x @ x, reference=lambda: x @ x, device=device, max_seconds=5)
    assert 1.2 < found.ratio < 3
