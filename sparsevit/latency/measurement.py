"""Measurement: one latency, with everything needed to believe it. Importable without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from sparsevit.latency.intervals import Interval


@dataclass(frozen=True)
class Measurement:
    """One latency. Milliseconds, except for the shares and ratios.

    p50, p90, p99: of the samples. interval: 99% confidence interval of the median, longer by the
    noise floor at both ends, and reaching down to what the run may take at the device's known speed
    where it is `slower`. converged: whether the median's own interval became as narrow as was asked
    for in the time given.
    noise_floor: how far apart two measurements of one thing come out, as a share of its median.
    drift: how far the reference moved meanwhile, beyond chance, as a share. set_aside: share of the
    samples that other work made useless. slower: by what share the reference was above what it
    takes on this device left alone, where that was known, beside the samples that count.
    disturbed: the reference moved by more than 2%, or so many samples were set aside that the others
    may be chance, in every attempt: such a number must not win anything.
    load: what else ran meanwhile (sparsevit.latency.load), and of it `waited`, how long this
    process stood in line for a core as a share of the time it ran.
    reference_p50, reference_interval, ratio (run / reference, drift-corrected), ratio_interval:
    None without a reference. threads: torch's threads during the measurement.
    """

    p50: float
    p90: float
    p99: float
    interval: Interval
    samples: int
    converged: bool
    noise_floor: float
    drift: float
    disturbed: bool
    attempts: int
    threads: int
    set_aside: float = 0.0
    slower: float = 0.0
    load: dict[str, Any] = field(default_factory=dict)
    reference_p50: float | None = None
    reference_interval: Interval | None = None
    ratio: float | None = None
    ratio_interval: Interval | None = None

    @property
    def corrected_ms(self) -> float:
        """The latency at the reference's median speed: comparable between runs timed together."""
        if self.ratio is None or self.reference_p50 is None:
            return self.p50
        return self.ratio * self.reference_p50

    def relative_to(self, other: Measurement) -> Measurement:
        """The same with `other`, timed in the same rounds, for its reference."""
        if self.ratio is None or other.ratio is None:
            raise ValueError("both need the reference they were timed beside.")
        (low, high), (other_low, other_high) = self.ratio_interval, other.ratio_interval
        return replace(
            self,
            reference_p50=other.p50,
            reference_interval=other.interval,
            ratio=self.ratio / other.ratio,
            ratio_interval=(low / other_high, high / other_low),
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON, intervals as [low, high]."""
        document = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in document.items()}
