"""Shards that fail: whether a candidate or an image is to blame is found by trying parts of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.records import Unit
from service.domain.status import UnitKind, UnitState
from sparsevit.data.base import shard_indices
from sparsevit.data.image_folder import ImageFolder
from sparsevit.data.make import imagenet
from sparsevit.search.steps import Session
from tests.worker import rows
from tests.worker.rows import DIED
from worker.decisions import NewUnit
from worker.runners import probe
from worker.splitting import FIRST_CANDIDATES, Answered, Hopeless, gather, shard_of

SMALL = {"height": 112, "width": 112, "threads": 1}


def whole(candidates: int, state: UnitState = UnitState.BROKEN, shard: int = 0) -> Unit:
    payload = {
        "candidates": [[i] for i in range(candidates)],
        "shard": shard,
        "shards": 3,
        "generation": 4,
    }
    broken = rows.unit(UnitKind.EVALUATE, state, payload=payload, shard=shard, generation=4)
    return replace(broken, error=DIED if state == UnitState.BROKEN else None)


class Shard:
    """A shard on which some candidates and some images fail, whenever they are tried."""

    def __init__(
        self, candidates: int, images: int, bad: Collection[int], broken: Collection[int]
    ) -> None:
        self.images, self.bad, self.broken = images, set(bad), set(broken)
        self.units = [whole(candidates)]

    def run(self) -> Answered | Hopeless:
        """To its end."""
        while isinstance(stand := shard_of(self.units, self.images), tuple):
            assert stand, "it would wait for ever"
            for new in stand:
                self.add(new)
        return stand

    def add(self, new: NewUnit) -> None:
        assert (new.generation, new.shard, new.payload["shards"]) == (4, 0, 3)
        assert new.part not in {unit.part for unit in self.units}
        result = self.answer(new)
        state = UnitState.BROKEN if result is None else UnitState.DONE
        self.units.append(
            rows.unit(
                new.kind,
                state,
                payload=dict(new.payload),
                shard=new.shard,
                generation=new.generation,
                part=new.part,
                result=result,
                error=DIED if result is None else None,
            )
        )

    def answer(self, new: NewUnit) -> dict[str, Any] | None:
        if new.kind == UnitKind.PROBE and new.payload["images"] is None:
            return {"names": [f"image-{i}.png" for i in range(self.images)]}
        first, end = new.payload.get("images", (0, self.images))
        ((candidate,),) = new.payload["candidates"]
        if candidate in self.bad or self.broken & set(range(first, end)):
            return None
        return {} if new.kind == UnitKind.PROBE else {"states": [[candidate]], "seconds": 0.1}


def test_a_shard_that_is_done_or_still_tried_is_left_alone() -> None:
    done = replace(whole(2, UnitState.DONE), result={"states": [[1], [2]]})
    assert shard_of([done], 16) == Answered({})
    for state in (UnitState.PENDING, UnitState.LEASED):
        assert shard_of([whole(2, state)], 16) == ()


def test_its_first_candidates_come_first_and_the_others_once_one_got_through() -> None:
    shard = Shard(7, 16, bad=(0, 5), broken=())
    stand = shard_of(shard.units, 16)
    assert [new.payload["candidates"] for new in stand] == [[[0]], [[1]], [[2]]]
    assert {new.kind for new in stand} == {UnitKind.EVALUATE}
    for new in stand:
        shard.add(new)
    stand = shard_of(shard.units, 16)
    assert [new.payload["candidates"] for new in stand] == [[[3]], [[4]], [[5]], [[6]]]
    for new in stand:
        shard.add(new)
    assert shard_of(shard.units, 16) == Answered({(0,): DIED, (5,): DIED})


def test_while_one_is_tried_nothing_is_decided() -> None:
    shard = Shard(3, 16, bad=(0,), broken=())
    for new in shard_of(shard.units, 16):
        shard.add(new)
    done = shard.units[-1]
    shard.units[-1] = replace(done, state=UnitState.LEASED, result=None, error=None)
    assert shard_of(shard.units, 16) == ()


def test_an_image_that_always_fails_is_named() -> None:
    shard = Shard(50, 16, bad=(), broken=(11,))
    stand = shard.run()
    assert isinstance(stand, Hopeless)
    assert stand.error["code"] == "DATASET_INVALID"
    assert "image-11.png" in stand.error["message"]
    assert DIED["message"] in stand.error["message"]
    # No more than three of the fifty candidates, the names, and a probe for each halving.
    assert len(shard.units) <= 1 + FIRST_CANDIDATES + 1 + math.ceil(math.log2(16)) + 1


def test_an_image_without_a_name_is_counted() -> None:
    shard = Shard(1, 16, bad=(), broken=(3,))
    answer = shard.answer
    shard.answer = lambda new: None if new.payload.get("images", 0) is None else answer(new)
    assert "The image number 3 of shard 0" in shard.run().error["message"]


def test_configs_that_fail_on_every_image_blame_none() -> None:
    shard = Shard(5, 16, bad=(0, 1, 2), broken=())
    assert shard.run() == Answered({(0,): DIED, (1,): DIED, (2,): DIED})
    assert Shard(5, 16, bad=range(5), broken=()).run() == Hopeless(DIED)


@settings(deadline=None)
@given(st.data())
def test_only_those_to_blame_are_blamed(data: st.DataObject) -> None:
    candidates = data.draw(st.integers(1, 8))
    images = data.draw(st.integers(1, 40))
    bad = data.draw(st.sets(st.sampled_from(range(candidates))))
    broken = data.draw(st.sets(st.sampled_from(range(images)), max_size=3))
    shard = Shard(candidates, images, bad, broken)
    stand = shard.run()
    assert len(shard.units) <= candidates + math.ceil(math.log2(images)) + 4
    if not broken:
        failed = {(i,): DIED for i in bad}
        assert stand == (Answered(failed) if len(bad) < candidates else Hopeless(DIED))
        return
    assert isinstance(stand, Hopeless)
    named = {i for i in range(images) if f"image-{i}.png " in stand.error["message"]}
    assert named <= broken
    if len(broken) == 1 < images and 0 not in bad:
        assert named == broken


def test_shards_are_gathered_in_order() -> None:
    done = replace(whole(4, UnitState.DONE, shard=2), result={"states": [[i] for i in range(4)]})
    broken = Shard(4, 13, bad=(1,), broken=())
    waiting = gather([done, whole(4, UnitState.PENDING, shard=1), *broken.units], 40, 3)
    assert (waiting.done, waiting.failed, waiting.error) == (False, {}, None)
    assert [new.shard for new in waiting.units] == [0, 0, 0]
    broken.run()
    assert gather([*broken.units, done], 40, 3).done
    assert gather([*broken.units, done], 40, 3).failed == {(1,): DIED}
    hopeless = Shard(4, 13, bad=range(4), broken=())
    hopeless.run()
    assert gather([*hopeless.units, done], 40, 3).error == DIED


class TestProbe:
    """What a device process does for one, with the library."""

    def test_names_the_images_of_a_shard_without_reading_any(self, tmp_path: Path) -> None:
        for path in imagenet.make(tmp_path, {"val": 8}, (32, 32), seed=0, classes=2):
            path.with_suffix(".png").write_bytes(b"cut")
            path.unlink()
        folder = ImageFolder(tmp_path, "val", ["0", "1"])
        session = SimpleNamespace(splits=SimpleNamespace(search=folder))
        names = [
            name
            for shard in range(3)
            for name in probe.run(session, self.payload(shard, None), pytest.fail)["names"]
        ]
        assert sorted(names) == sorted(str(path) for path in (tmp_path / "val").rglob("*.png"))
        assert names[:2] == [str(folder.files(i)[0]) for i in shard_indices(8, 0, 3)]

    def test_evaluates_these_images_alone(self) -> None:
        session = Session("builtin:digits", {"path": "builtin:digits", "limit": 12}, input=SMALL)
        seen: list[tuple[int, int]] = []
        payload = self.payload(1, [1, 4], candidates=[[0] * sum(session.pairs)])
        assert probe.run(session, payload, lambda *done: seen.append(done)) == {}
        assert seen == [(3, 3)]
        names = probe.run(session, self.payload(1, None), pytest.fail)["names"]
        assert names == [f"{i} of the search split" for i in shard_indices(12, 1, 3)]

    def payload(
        self, shard: int, images: list[int] | None, candidates: Sequence[list[int]] = ()
    ) -> dict[str, Any]:
        return {"candidates": candidates, "shard": shard, "shards": 3, "images": images}
