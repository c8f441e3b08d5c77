"""Latencies of the rows of a comparison, all in turns on one device."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from sparsevit.latency.measurement import Measurement
from sparsevit.latency.meter import measure_many
from sparsevit.latency.modes import over_images
from sparsevit.search.latency_map import SCOPES
from sparsevit.search.steps import Session
from sparsevit.search.verify import LATENCY_IMAGES
from sparsevit.sparsity.config import Genes

RUNS_IN_TIME = 8
"""So many runs fit into a session's time for a measurement; more get more of it."""

Progress = Callable[[int, int], None]
Place = tuple[Session, Genes]


@torch.inference_mode()
def timed(
    places: Sequence[Place],
    seconds: float,
    quiet_ms: Mapping[str, float],
    progress: Progress | None = None,
) -> dict[str, list[Measurement]]:
    """Measurements of every place by scope, over real images at its size, one sample of each a round.

    The first place is the reference that the others are relative to. quiet_ms: by scope what it takes
    here when left alone. One session serves all its configs: what the weights are does not change how
    long a network takes (but for what a head finds: Mask R-CNN's regions).
    """
    tell = progress or (lambda done, total: None)
    images = {id(session): _images(session) for session, _ in places}
    first = places[0][0]
    # See Verification.time: a reference whose time varies with the image keeps to one of them.
    varies = not first.model.recordable
    found: dict[str, list[Measurement]] = {}
    for number, scope in enumerate(SCOPES):
        measured = measure_many(
            [_run(place, scope, images[id(place[0])]) for place in places],
            _run(places[0], scope, images[id(first)][: 1 if varies else None]),
            device=first.device,
            threads=first.input["threads"],
            max_seconds=seconds * math.ceil(len(places) / RUNS_IN_TIME),
            quiet_ms=None if varies else quiet_ms.get(scope),
            progress=lambda done, total, n=number: tell(n * total + done, len(SCOPES) * total),
        )
        found[scope] = [one.relative_to(measured[0]) for one in measured] if varies else measured
    return found


def _images(session: Session) -> list[torch.Tensor]:
    model, batch = session.model, session.input["batch"]
    samples = max(LATENCY_IMAGES // model.views, batch)
    return list(session.latency_images(samples - samples % batch).split(batch * model.views))


def _run(place: Place, scope: str, images: list[torch.Tensor]) -> Callable[[], Any]:
    session, genes = place
    sparsity = session.sparsity(genes)
    forward = session.model if scope == "model" else session.model.backbone
    return over_images(
        forward, images, session.input["mode"], lambda: session.model.set_sparsity(sparsity)
    )
