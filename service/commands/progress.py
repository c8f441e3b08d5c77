"""Follows a job to its end: a progress bar on a terminal, lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from service.client import TERMINAL, Client, RemoteError

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
STAGES = {
    None: "waiting for a worker",
    "inspect": "reading checkpoint and data",
    "calibrate": "timing the blocks",
    "adapt": "adapting the network",
    "search": "searching",
    "verify": "measuring the finalists",
    "finetune": "fine-tuning",
}

Job = dict[str, Any]


def follow(
    client: Client, job_id: str, console: Console, check: Callable[[], None] | None = None
) -> Job:
    """Show the job's progress until it ends; returns the job as it ended.

    check: called at every poll; whatever it raises ends the watch.
    """
    if not console.is_terminal:
        return _follow_in_lines(client, job_id, console, check)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TextColumn("{task.fields[counts]}"),
        TextColumn("{task.fields[best]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=False) as progress:
        bar = progress.add_task(STAGES[None], total=None, counts="", best="", left="")
        job: Job = {}
        for job in changes(client, job_id, check):
            done, total = counts(job)
            # One step more than there are: the measurement at the end. A full bar stops its clock.
            progress.update(
                bar,
                description=stage_text(job),
                total=total + 1 if total else None,
                completed=done,
                counts=f"{done}/{total}" if total else "",
                best=best_text(job),
                left=left_text(job, datetime.now(UTC)),
            )
        progress.update(bar, total=1, completed=1, left="")
    return job


def changes(client: Client, job_id: str, check: Callable[[], None] | None = None) -> Iterator[Job]:
    """The job whenever it has changed, until it has ended; with `check`, as `polls`."""
    if check is None:
        try:
            yield from client.watch(job_id, POLL_SECONDS)
            return
        except RemoteError as error:
            if not error.passing:
                raise
    yield from polls(client, job_id, check)


def polls(client: Client, job_id: str, check: Callable[[], None] | None = None) -> Iterator[Job]:
    """The job, once a second, until it has ended; a service that is away is given a minute."""
    answered = time.monotonic()
    while True:
        if check is not None:
            check()
        try:
            job = client.job(job_id)
        except RemoteError as error:
            if not error.passing or time.monotonic() - answered > PATIENCE_SECONDS:
                raise
        else:
            answered = time.monotonic()
            yield job
            if job["status"] in TERMINAL:
                return
        time.sleep(POLL_SECONDS)


def ended(job: Job) -> int:
    """Evaluations that need no more work."""
    return int(job["progress"]["done"]) + int(job["progress"]["failed"])


def counts(job: Job) -> tuple[int, int | None]:
    """(done, total) of what the job is busy with: steps of a training, else evaluations."""
    training = job["progress"].get("training")
    if training:
        return int(training["step"]), int(training["steps"])
    return ended(job), job["progress"]["total"]


def stage_text(job: Job) -> str:
    """What the job is busy with, in words."""
    if job["status"] != "running":
        return STAGES[None] if job["status"] == "queued" else str(job["status"])
    text = STAGES.get(job["stage"], str(job["stage"]))
    generation = job["progress"]["generation"]
    training = job["progress"].get("training")
    if training and training["loss"] is not None:
        return f"{text}, loss {training['loss']:.3f}"
    postponed = job["progress"].get("postponed")
    if postponed and job["stage"] == "verify":
        return f"{text}, put off {postponed['times']} times as the device was busy"
    shown = job["stage"] == "search" and generation is not None
    return f"{text}, generation {generation + 1}" if shown else text


def best_text(job: Job) -> str:
    """The best candidate so far."""
    best = job["progress"]["best"]
    return f"best {best['metric']:.3f} at {best['latency_ms']:.1f} ms" if best else ""


def left_text(job: Job, now: datetime) -> str:
    """The time left, where the service knows it."""
    if job["status"] in TERMINAL or not job.get("estimated_finish_at"):
        return ""
    seconds = (datetime.fromisoformat(job["estimated_finish_at"]) - now).total_seconds()
    if seconds < 1:
        return "nearly done"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d} left"


def line(job: Job) -> str:
    """The job's progress in one line."""
    done, total = counts(job)
    what = "steps" if job["progress"].get("training") else "evaluations"
    counted = f"{done}/{total} {what}" if total else ""
    return ", ".join(text for text in (stage_text(job), counted, best_text(job)) if text)


def _follow_in_lines(
    client: Client, job_id: str, console: Console, check: Callable[[], None] | None
) -> Job:
    shown, job = "", {}
    for job in changes(client, job_id, check):
        text = line(job)
        if text != shown:
            console.print(text, markup=False, soft_wrap=True)
            shown = text
    return job
