"""A shard whose evaluation keeps failing is taken apart: by candidate, and by image. Pure.

    the whole shard fails twice -> its first candidates, one unit each
        one gets through        -> the other candidates, too; who fails alone has failed
        all fail                -> halve the images until one is left that fails, while another
                                   does not: DATASET_INVALID
            no such image       -> the other candidates after all

A failure here is one that another attempt could have mended: the device process died, hung or ran out
of memory, or something unexpected was raised. What a reader says of a file ends the job at once.

Parts of a shard: part i is the candidate at position i, the one after the last candidate asks for the
names of the images, and those that follow are probes of some images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from service.domain.records import Unit
from service.domain.status import UnitKind, UnitState
from sparsevit.data.base import shard_indices
from sparsevit.sparsity.config import Genes
from worker.decisions import NewUnit

FIRST_CANDIDATES = 3
"""So many fail by themselves before the images are suspected."""

WHOLE = -1
Error = Mapping[str, Any]


@dataclass(frozen=True)
class Answered:
    """A shard that is done. failed: the candidates that could not be evaluated on it, and why."""

    failed: Mapping[Genes, Error]


@dataclass(frozen=True)
class Hopeless:
    """A shard on which no candidate can be evaluated: the job's error."""

    error: Error


Shard = Answered | Hopeless | tuple[NewUnit, ...]
"""Where a shard stands. Units: these come next; where there is none, one is waited for."""


@dataclass(frozen=True)
class Gathered:
    """Where some shards stand together. done: whether all are. failed: the candidates that failed on
    one of them. units: what comes next. error: ends the job."""

    done: bool
    failed: Mapping[Genes, Error]
    units: tuple[NewUnit, ...]
    error: Error | None


def gather(units: Sequence[Unit], images: int, shards: int) -> Gathered:
    """Where the shards of these units stand. images, shards: of the search split, in all."""
    of_shard: dict[int, list[Unit]] = {}
    for unit in units:
        of_shard.setdefault(unit.shard, []).append(unit)
    stands = [
        shard_of(some, len(shard_indices(images, shard, shards)))
        for shard, some in sorted(of_shard.items())
    ]
    failed: dict[Genes, Error] = {}
    for stand in stands:
        if isinstance(stand, Answered):
            failed = {**stand.failed, **failed}
    return Gathered(
        done=all(isinstance(stand, Answered) for stand in stands),
        failed=failed,
        units=tuple(unit for stand in stands if isinstance(stand, tuple) for unit in stand),
        error=next((stand.error for stand in stands if isinstance(stand, Hopeless)), None),
    )


def shard_of(units: Sequence[Unit], images: int) -> Shard:
    """Where a shard of so many images stands: the evaluation of the whole, and any part of it."""
    whole = next(unit for unit in units if unit.part == WHOLE)
    if whole.result is not None:
        return Answered({})
    if whole.state != UnitState.BROKEN:
        return ()
    return _Pieces(whole, {unit.part: unit for unit in units}, images).stand()


@dataclass(frozen=True)
class _Pieces:
    whole: Unit
    parts: Mapping[int, Unit]
    images: int

    @property
    def count(self) -> int:
        return len(self.whole.payload["candidates"])

    def stand(self) -> Shard:
        tried = [self.parts[i] for i in range(self.count) if i in self.parts]
        if any(_waits(unit) for unit in tried):
            return ()
        if 0 < len(tried) <= FIRST_CANDIDATES and all(unit.result is None for unit in tried):
            suspected = self._suspect()
            if suspected is not None:
                return suspected
        if len(tried) < self.count:
            end = self.count if tried else min(self.count, FIRST_CANDIDATES)
            return tuple(self._candidate(i) for i in range(len(tried), end))
        failed = {_genes(unit): _error(unit) for unit in tried if unit.result is None}
        return Answered(failed) if len(failed) < self.count else Hopeless(_error(self.whole))

    def _candidate(self, position: int) -> NewUnit:
        genes = self.whole.payload["candidates"][position]
        return self._part(UnitKind.EVALUATE, position, candidates=[genes])

    def _suspect(self) -> Shard | None:
        """What the search for a bad image needs or found; None: no image fails by itself."""
        names = self.parts.get(self.count)
        if names is None:
            return (self._part(UnitKind.PROBE, self.count, candidates=[], images=None),)
        if _waits(names):
            return ()
        first, last = 0, self.images  # these fail together
        while last - first > 1:
            middle = (first + last) // 2
            fails = self._fails(first, middle)
            if not isinstance(fails, bool):
                return fails
            first, last = (first, middle) if fails else (middle, last)
        fails = self._fails(first, last)
        if fails is not True:
            return None if fails is False else fails
        if not any(probe.result is not None for probe in self._probes):
            # It may be the config that fails, on any image.
            other = self._fails(self.images - 1, self.images)
            if other is not False:
                return None if other is True else other
        return Hopeless(self._at_fault(first, names))

    @property
    def _probes(self) -> list[Unit]:
        return [unit for part, unit in sorted(self.parts.items()) if part > self.count]

    def _fails(self, first: int, end: int) -> bool | tuple[NewUnit, ...]:
        """Whether these images cannot be evaluated with the first candidate; what is to be waited
        for where that is not known."""
        for probe in self._probes:
            if probe.payload["images"] == [first, end]:
                return () if _waits(probe) else probe.result is None
        genes = self.whole.payload["candidates"][0]
        part = self.count + 1 + len(self._probes)
        return (self._part(UnitKind.PROBE, part, candidates=[genes], images=[first, end]),)

    def _part(self, kind: UnitKind, part: int, **payload: Any) -> NewUnit:
        whole = self.whole
        place = (whole.generation, whole.shard, part, whole.resolution)
        return NewUnit(kind, {**whole.payload, **payload}, *place)

    def _at_fault(self, image: int, names: Unit) -> Error:
        name = f"number {image} of shard {self.whole.shard}"
        if names.result is not None:
            name = names.result["names"][image]
        alone = [image, image + 1]
        error = next(_error(unit) for unit in self._probes if unit.payload["images"] == alone)
        return {
            "code": "DATASET_INVALID",
            "message": f"The image {name} cannot be evaluated, whatever the config: on it alone each "
            "attempt failed. Replace or remove it, and submit the search again. The last attempt "
            f"ended with {error['code']}: {error['message']}",
        }


def _waits(unit: Unit) -> bool:
    return unit.result is None and unit.state != UnitState.BROKEN


def _genes(unit: Unit) -> Genes:
    return tuple(unit.payload["candidates"][0])


def _error(unit: Unit) -> Error:
    assert unit.error is not None, "a broken unit says why"
    return unit.error
