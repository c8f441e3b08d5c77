"""The meter on a fake clock: what it reports follows from durations chosen here."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sparsevit.errors import DeviceError, DeviceOutOfMemory
from sparsevit.latency.meter import measure, measure_many
from sparsevit.latency.sampling import MOST_ROUNDS
from tests.sparsevit.fake_clock import FakeClock, noisy

CPU = torch.device("cpu")


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
