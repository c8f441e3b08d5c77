"""What those who watch a job are told."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from service.domain.records import Json
from service.domain.status import TERMINAL


class EventKind(StrEnum):
    """What an event is about."""

    STATUS = "status"
    STAGE = "stage"
    PROGRESS = "progress"
    TRAINING = "training"
    VERDICTS = "verdicts"


FIELDS = ("status", "stage", "progress", "estimated_finish_at", "verdicts", "error")
"""The fields of a job whose changes are told."""


@dataclass(frozen=True, slots=True)
class JobEvent:
    """One change of a job. `id` rises within the job, in the order of its changes.

    `data`: the fields of FIELDS that changed, and the job's version after it.
    """

    id: int
    job_id: str
    kind: EventKind
    data: Json
    created_at: datetime

    @property
    def last(self) -> bool:
        """Whether it tells of the job's end: nothing follows it."""
        return self.kind is EventKind.STATUS and self.data["status"] in TERMINAL


def kind_of(changes: Json) -> EventKind | None:
    """What an event that tells of these changes is about; None: nobody is told of them."""
    if "status" in changes:
        return EventKind.STATUS
    if "stage" in changes:
        return EventKind.STAGE
    if "progress" in changes:
        training = changes["progress"].get("training") is not None
        return EventKind.TRAINING if training else EventKind.PROGRESS
    return EventKind.VERDICTS if "verdicts" in changes else None


def read_stream(lines: Iterable[str]) -> Iterator[Json]:
    """The events in the lines of a stream of this service, whose data stand in one line each."""
    fields: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if line:
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            told = {"id": int(fields["id"]), "event": fields["event"]}
            yield told | json.loads(fields["data"])
            fields = {}
