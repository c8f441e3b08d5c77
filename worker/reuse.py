"""Evaluations are never paid twice: what an evaluate unit need not compute again.

The states of one config on one shard depend on what `unit_context` names and on nothing else, so
they are kept under a key of it for every later job of the same owner. A unit whose candidates are
partly known sends the others alone to the device; states do not depend on which candidates a device
computes together. Proposals never look here: the cache changes what a search costs, never what it
finds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from service.domain.records import Job, Unit
from sparsevit.search import choices
from sparsevit.search.resolutions import at_resolution
from worker.supervisor import Finished, Outcome

EVALUATION_VERSION = 2
"""Raise it where the same evaluation gives other states than before, or states of another form:
those of before are then never found."""

DATA_FIELDS = ("format", "search_split", "report_split", "limit", "holdout")
"""What of a request's data set says which images are the search split, in which order."""

INPUT_FIELDS = ("height", "width", "precision", "mode")
"""What of an input evaluations depend on: their batch and threads are their own."""


def unit_context(
    unit: Unit, job: Job, session: Mapping[str, Any], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """All that the states of a config depend on, but the config. JSON.

    session: the unit's, of `requests.unit_request`. facts: hello of the device process.
    """
    found = _inspection(unit, job)
    hashes, checkpoint = session["inspected"], session["files"]["checkpoint"]
    return {
        "version": EVALUATION_VERSION,
        "owner": job.owner,
        "device": facts["device"]["model"],
        "versions": {name: facts["versions"].get(name) for name in ("torch", "sparsevit")},
        "weights": hashes["checkpoint"],
        # The hash is of the weights; what a model folder says of its classes is in other files.
        "model_folder": None if checkpoint is None else checkpoint.get("files"),
        "data": hashes["dataset"],
        "images": {name: session["dataset"].get(name) for name in DATA_FIELDS},
        "input": {name: session["input"].get(name) for name in INPUT_FIELDS},
        **{name: session[name] for name in ("preprocess", "score", "task", "evaluation_threads")},
        **{name: found[name] for name in ("architecture", "windows", "metric")},
        "shard": [unit.payload["shard"], unit.payload["shards"]],
    }


def unit_keys(
    unit: Unit, job: Job, session: Mapping[str, Any], facts: Mapping[str, Any]
) -> tuple[bytes, ...]:
    """The key of every candidate of an evaluate unit: SHA-256 of its context and kept counts."""
    context = _digest(unit_context(unit, job, session, facts)).hex()
    space = choices.search_space(_inspection(unit, job), None)
    return tuple(_digest([context, space.key(genes)]) for genes in unit.payload["candidates"])


def _inspection(unit: Unit, job: Job) -> Mapping[str, Any]:
    """As it is for the unit's input."""
    assert job.inspection is not None, "a job that evaluates was inspected"
    return at_resolution(job.inspection, unit.resolution)


def _digest(document: Any) -> bytes:
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).digest()


@dataclass(frozen=True)
class Known:
    """The keys of a unit's candidates, and the states that stand under some of them."""

    keys: tuple[bytes, ...]
    states: Mapping[bytes, Any]

    def run(self, request: Mapping[str, Any], run: Callable[[Any], Outcome]) -> Outcome:
        """`run` the request for the candidates that are not known, if there are any."""
        missing = [i for i, key in enumerate(self.keys) if key not in self.states]
        if not missing:
            return Finished(self._complete({"states": [], "seconds": 0.0}, {}))
        payload = request["payload"]
        rest = {**payload, "candidates": [payload["candidates"][i] for i in missing]}
        outcome = run({**request, "payload": rest})
        if not isinstance(outcome, Finished):
            return outcome
        made = zip(missing, outcome.result["states"], strict=True)
        new = {self.keys[i]: states for i, states in made}
        return Finished(self._complete(outcome.result, new), new)

    def _complete(self, answer: Mapping[str, Any], new: Mapping[bytes, Any]) -> dict[str, Any]:
        """The answer for all candidates, in their order."""
        states = {**self.states, **new}
        return {**answer, "states": [states[key] for key in self.keys]}
