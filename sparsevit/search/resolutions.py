"""A search at several sizes of its input: one search each, whose fronts are merged.

Each size has its own windows, latency map and candidates; weights, data and settings are shared. What
an inspection settles of each stands in its "resolutions", in the order of the request; a search with
one input has none. Importable without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from sparsevit.errors import DeviceDisturbed, NoFeasibleConfig
from sparsevit.search.pareto import pareto_front

Found = Mapping[str, Any]
"""What was measured: {"document", "front", "receipts", "artefacts", "error", "drawing"}."""


def count(inspection: Mapping[str, Any]) -> int:
    """The number of inputs of a search."""
    return len(inspection.get("resolutions") or (None,))


def at_resolution(inspection: Mapping[str, Any], resolution: int) -> Mapping[str, Any]:
    """The inspection as it would be for one of the inputs alone. resolution: its place, from 0."""
    sizes = inspection.get("resolutions")
    return inspection if sizes is None else {**inspection, **sizes[resolution]}


def resolution_of(inspection: Mapping[str, Any], input: Mapping[str, Any]) -> int:
    """The place of a settled input among those of the search."""
    inputs = [at_resolution(inspection, i)["input"] for i in range(count(inspection))]
    return inputs.index(dict(input))


def size_text(input: Mapping[str, Any]) -> str:
    """'448 x 672', height first."""
    return f"{input['height']} x {input['width']}"


def merged(
    before: Found | None,
    found: Found,
    input: Mapping[str, Any],
    artefacts: Callable[[str, bytes], str],
) -> dict[str, Any]:
    """What was measured at all inputs so far. found: at `input`; before: at those before it, merged.

    The winner is the better of the two winners on the search split, the faster one of equals.
    """
    own = _at(found, input)
    if before is None:
        return own
    best = max((before, own), key=_rank)
    drawing = _merged_drawing(before["drawing"], own["drawing"], best["drawing"])
    picture = artefacts("pareto.png", draw(drawing))
    return {
        "document": best["document"],
        "front": _merged_front([*before["front"], *own["front"]], best["front"]),
        "receipts": {**before["receipts"], **own["receipts"]},
        "artefacts": {**best["artefacts"], "pareto.png": picture},
        "error": None if best["document"] else _merged_error(before["error"], own["error"]),
        "drawing": drawing,
    }


def draw(drawing: Mapping[str, Any]) -> bytes:
    """The PNG of a Pareto picture."""
    from sparsevit.plots import pareto_png

    return pareto_png(**drawing)


def _at(found: Found, input: Mapping[str, Any]) -> dict[str, Any]:
    """With the input in every point of the front, and in the error."""
    error = found["error"]
    return {
        **found,
        "front": [{**point, "input": dict(input)} for point in found["front"]],
        "error": error and {**error, "message": f"At {size_text(input)}: {error['message']}"},
    }


def _rank(found: Found) -> tuple[float, float]:
    document = found["document"]
    if document is None:
        return (-1.0, 0.0)
    return (document["metric"]["search"]["value"], -document["latency_ms"]["p50"])


def _merged_front(
    points: Sequence[Mapping[str, Any]], best: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """All points, fastest first; one that another input's beats is on the front no more."""
    on_front = [point for point in points if point["on_front"]]
    costs = [[point["latency_predicted"], -point["metric"]] for point in on_front]
    left = pareto_front(np.array(costs).reshape(-1, 2))
    kept = {id(on_front[i]) for i in left}
    winners = {id(point) for point in best if point["winner"]}
    merged = [
        {**point, "on_front": id(point) in kept, "winner": id(point) in winners} for point in points
    ]
    return sorted(merged, key=lambda point: point["latency_predicted"])


def _merged_error(*errors: Mapping[str, str]) -> dict[str, str]:
    """A latency that cannot be believed is no proof that nothing is fast enough."""
    disturbed = any(error["code"] == DeviceDisturbed.code for error in errors)
    return {
        "code": DeviceDisturbed.code if disturbed else NoFeasibleConfig.code,
        "message": " ".join(error["message"] for error in errors),
    }


def _merged_drawing(
    before: Mapping[str, Any], own: Mapping[str, Any], best: Mapping[str, Any]
) -> dict[str, Any]:
    """Dense is the first input's, of which a budget may be a share; budget and winner the best's."""
    front = np.array([*before["front"], *own["front"]]).reshape(-1, 2)
    left = pareto_front(front * (1, -1))
    return {
        **best,
        "dense": before["dense"],
        "points": [*before["points"], *own["points"]],
        "uniform": [*before["uniform"], *own["uniform"]],
        "front": [front[i].tolist() for i in left],
    }
