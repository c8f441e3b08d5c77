"""A clock that runs as a test says, and noise for it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


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
