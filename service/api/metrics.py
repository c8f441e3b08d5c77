"""GET /metrics: the service as Prometheus sees it.

Every number is read from Postgres at the scrape, so each API process gives the same one, and none is
lost with a process. That leaves no work for a metrics library but to write this text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

from fastapi import APIRouter, Depends
from sqlalchemy.orm import Session
from starlette.responses import Response

from service.api.auth import operator
from service.api.context import Context, context, only_query
from service.api.described import problems
from service.api.health import redis_state
from service.db.metrics import MetricsRepository
from service.db.session import session_scope
from service.db.tallies import Tally, TallyRepository
from service.domain.errors import Forbidden
from service.domain.status import JobStatus

MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
EXAMPLE = """\
# HELP sparsevit_broker_up Whether Redis answers.
# TYPE sparsevit_broker_up gauge
sparsevit_broker_up 1.0
"""

router = APIRouter(tags=["health"])

Samples = Iterable[tuple[Mapping[str, str], float]]


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "content": {"text/plain": {"schema": {"type": "string"}, "example": EXAMPLE}},
            "description": "Prometheus' text format, 0.0.4.",
        },
        **problems(Forbidden),
    },
    dependencies=[Depends(operator), Depends(only_query())],
    summary="Get metrics",
)
def get_metrics(parts: Annotated[Context, Depends(context)]) -> Response:
    """Counts and ages for Prometheus, of every owner's jobs together.

    It takes an admin key (`sparsevit keys create NAME --admin`); from the service's own machine any
    key will do.
    """
    with session_scope(parts.engine) as session:
        text = _of_database(session)
    broker = float(redis_state(parts.settings.redis_url) == "ok")
    text += metric("broker_up", "gauge", "Whether Redis answers.", [({}, broker)])
    return Response(text, media_type=MEDIA_TYPE)


def _of_database(session: Session) -> str:
    found = MetricsRepository(session)
    open_jobs, units, workers = found.open_jobs(), found.live_units(), found.workers()
    live = [status for status in JobStatus if not status.terminal]
    return "".join(
        [
            metric(
                "jobs",
                "gauge",
                "Jobs that have not ended.",
                [({"status": status}, open_jobs.get(status, 0)) for status in live],
            ),
            metric(
                "units",
                "gauge",
                "Units that wait or run; device: any, or the device model they need.",
                [
                    ({"kind": one.kind, "state": one.state, "device": one.device or "any"}, one.count)
                    for one in units
                ],
            ),
            metric(
                "oldest_pending_unit_seconds",
                "gauge",
                "Age of the unit that has waited longest; 0: none waits.",
                [({}, max((one.oldest for one in units), default=0.0))],
            ),
            metric(
                "worker_seen_seconds_ago",
                "gauge",
                "Since a worker was last heard of; without those that said goodbye.",
                [
                    ({"worker": one.id, "device": one.device, "state": one.state},
                     one.seen_seconds_ago)
                    for one in workers
                ],
            ),
            *_of_tallies(TallyRepository(session).all()),
        ]
    )  # fmt: skip


def _of_tallies(tallies: Iterable[Tally]) -> Iterable[str]:
    of = {name: [one for one in tallies if one.name == name] for name in _ENDED}
    for name, (metrics, label, about) in _ENDED.items():
        labels = [{"kind": one.kind, label: one.outcome} for one in of[name]]
        counts = [one.count for one in of[name]]
        yield metric(f"{metrics}_total", "counter", about, zip(labels, counts, strict=True))
        if name != "measurement":
            took = f"Seconds of these, added up: {about}"
            seconds = [one.seconds for one in of[name]]
            labelled = zip(labels, seconds, strict=True)
            yield metric(f"{metrics}_seconds_total", "counter", took, labelled)


_ENDED = {
    "job": ("jobs_ended", "status", "Jobs that have ended."),
    "unit": ("unit_attempts", "outcome", "Attempts at units that have ended."),
    "measurement": ("measurements", "outcome", "Latencies measured: quiet or disturbed."),
}
"""Of each name of a tally: the metric, what it calls the outcome, and what it is about."""


def metric(name: str, kind: Literal["counter", "gauge"], about: str, samples: Samples) -> str:
    """A metric in Prometheus' text format."""
    name = f"sparsevit_{name}"
    lines = [f"# HELP {name} {about}", f"# TYPE {name} {kind}"]
    lines += [f"{name}{_labels(labels)} {float(value)!r}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
