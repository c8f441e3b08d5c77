"""Predicted against measured latency of random configs, on the digits supernet and this device."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from bench.common import Check, arguments, finish, table
from sparsevit.latency.meter import measure_many
from sparsevit.search.choices import search_space
from sparsevit.search.latency_map import LatencyMap
from sparsevit.search.steps import Session

SCOPES = ("model", "backbone")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    session = Session(
        "builtin:digits",
        "builtin:digits",
        input={"threads": options.threads},
        measure_seconds=5.0 if options.quick else 40.0,
    )
    start = time.perf_counter()
    latency_map = LatencyMap.from_dict(session.calibrate()["map"])
    seconds = time.perf_counter() - start
    space = search_space(session.inspect(), None)
    configs = space.sample(np.random.default_rng(1), 4 if options.quick else 30)
    results: dict[str, Any] = {"calibration_seconds": seconds, "threads": options.threads}
    for scope in SCOPES:
        results[scope] = compare(session, latency_map, configs, scope)
    rows = [
        [scope, *(f"{results[scope][key]:.3f}" for key in ("mape", "worst", "rank", "noise_floor"))]
        for scope in SCOPES
    ]
    print(
        f"calibrated in {seconds:.0f} s; {len(configs)} random configs, {options.threads} threads"
    )
    print(table(["scope", "mean error", "worst error", "rank correlation", "noise floor"], rows))
    checks = [
        Check(f"{scope}: rank correlation", results[scope]["rank"], 0.98) for scope in SCOPES
    ] + [
        Check(
            f"{scope}: mean error",
            results[scope]["mape"],
            max(0.02, 2 * results[scope]["noise_floor"]),
            at_most=True,
        )
        for scope in SCOPES
    ]
    finish("latency_map", results, checks, options.check)


@torch.inference_mode()
def compare(
    session: Session, latency_map: LatencyMap, configs: np.ndarray, scope: str
) -> dict[str, Any]:
    """Errors of the map's predictions, as shares, against drift-corrected measurements."""
    from scipy.stats import spearmanr

    image = session.latency_images(session.input["batch"])
    forward = session.model if scope == "model" else session.model.backbone

    def run(genes: tuple[int, ...]) -> Any:
        session.model.set_sparsity(session.sparsity(genes))
        return forward(image)

    genes = [tuple(int(level) for level in row) for row in configs]
    timings = measure_many(
        [lambda g=one: run(g) for one in genes],
        lambda: run((0,) * len(genes[0])),
        device=session.device,
        threads=session.input["threads"],
        max_seconds=2 * session.measure_seconds,
    )
    measured = np.array([timing.corrected_ms for timing in timings])
    predicted = latency_map.predict(np.array(genes), scope)
    errors = np.abs(predicted / measured - 1)
    return {
        "mape": float(errors.mean()),
        "worst": float(errors.max()),
        "bias": float((predicted / measured - 1).mean()),
        "rank": float(spearmanr(predicted, measured).statistic),
        "noise_floor": float(np.median([timing.noise_floor for timing in timings])),
        "configs": [
            {"genes": list(g), "predicted": float(p), "measured": float(m)}
            for g, p, m in zip(genes, predicted, measured, strict=True)
        ],
    }


if __name__ == "__main__":
    main()
