"""How long configs take as they are deployed: whole forwards over real images, in turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from sparsevit.latency.measurement import Measurement
from sparsevit.latency.meter import measure_many
from sparsevit.latency.modes import over_images
from sparsevit.search.latency_map import SCOPES
from sparsevit.sparsity.config import Genes

if TYPE_CHECKING:
    from sparsevit.search.steps import Session

LATENCY_IMAGES = 32

Progress = Callable[[int, int], None]
Place = tuple["Session", Genes]
"""A config at its session's input, device and mode."""


@torch.inference_mode()
def deployed_latency(
    places: Sequence[Place],
    reference: Place,
    seconds: float,
    quiet_ms: Mapping[str, float],
    progress: Progress,
) -> dict[str, list[Measurement]]:
    """Measurements of every place by scope, one sample of each a round, beside the reference.

    seconds: the most for each scope. quiet_ms: by scope what the reference takes here when it is left
    alone, where that is known. One session serves all its configs: weights do not change how long a
    network takes, but for what a head finds.
    """
    session = reference[0]
    images = {id(one): _images(one) for one, _ in (reference, *places)}
    # What takes longer for one image, or with other weights, than for the next cannot tell how fast
    # the device is: the reference keeps to one image then, and is timed over all as a run like the
    # others.
    varies = not session.model.recordable
    timed = [reference, *places] if varies else places
    beside = images[id(session)][: 1 if varies else None]
    found = {}
    for number, scope in enumerate(SCOPES):
        measured = measure_many(
            [_run(place, scope, images[id(place[0])]) for place in timed],
            _run(reference, scope, beside),
            device=session.device,
            threads=session.input["threads"],
            max_seconds=seconds,
            quiet_ms=None if varies else quiet_ms.get(scope),
            progress=lambda done, total, n=number: progress(n * total + done, len(SCOPES) * total),
        )
        if varies:
            over_all, *measured = measured
            measured = [one.relative_to(over_all) for one in measured]
        found[scope] = measured
    return found


def _images(session: Session) -> list[torch.Tensor]:
    """Batches of real images, LATENCY_IMAGES in all or a whole batch."""
    model, batch = session.model, session.input["batch"]
    samples = max(LATENCY_IMAGES // model.views, batch)
    images = session.latency_images(samples - samples % batch)
    return list(images.split(batch * model.views))


def _run(place: Place, scope: str, images: list[torch.Tensor]) -> Callable[[], Any]:
    session, genes = place
    model, sparsity = session.model, session.sparsity(genes)
    forward = model if scope == "model" else model.backbone
    mode = session.input["mode"]
    return over_images(forward, images, mode, lambda: model.set_sparsity(sparsity))
