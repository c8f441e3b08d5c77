"""sparsevit search, sparsevit watch."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.common import (
    CommandError,
    JobArgument,
    JsonOption,
    KeyOption,
    UrlOption,
    connect,
    hint,
    messages,
    print_json,
)

BUILTIN = "builtin:"


class Scope(StrEnum):
    """What the latency budget covers."""

    model = "model"
    backbone = "backbone"


def search(
    checkpoint: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT", help="Checkpoint on the service's machine, or builtin:digits."
        ),
    ],
    dataset: Annotated[
        str,
        typer.Argument(
            metavar="DATASET", help="Data set on the service's machine, or builtin:digits."
        ),
    ],
    latency: Annotated[
        str,
        typer.Option("--latency", help="Budget: milliseconds (10ms) or a share of dense (60%)."),
    ],
    scope: Annotated[
        Scope | None, typer.Option("--scope", help="What the budget covers (default: model).")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", help="Target device: a model name, cpu or cuda.")
    ] = None,
    score: Annotated[
        str | None, typer.Option("--score", help="Window score, such as l2 or late.")
    ] = None,
    search_split: Annotated[
        str | None, typer.Option("--search-split", help="Split to score candidates on.")
    ] = None,
    report_split: Annotated[
        str | None, typer.Option("--report-split", help="Split for the final score.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="Use at most this many images.")
    ] = None,
    population: Annotated[
        int | None, typer.Option("--population", help="Candidates per generation.")
    ] = None,
    parents: Annotated[
        int | None, typer.Option("--parents", help="Candidates the next ones come from.")
    ] = None,
    generations: Annotated[int | None, typer.Option("--generations", help="Generations.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed, the same search.")] = (
        None
    ),
    follow: Annotated[
        bool, typer.Option("--watch", help="Show progress until the search has ended.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the best sparsity of a network within a latency budget."""
    request = {
        "checkpoint": service_path(checkpoint),
        "dataset": given(
            path=service_path(dataset),
            search_split=search_split,
            report_split=report_split,
            limit=limit,
        ),
        **parse_latency(latency),
        **given(latency_scope=scope and scope.value, device=device, score=score),
        "search": given(population=population, parents=parents, generations=generations, seed=seed),
    }
    with connect(url, key) as client:
        job = client.submit(request)
        if follow:
            _follow(client, job["id"], as_json)
        elif as_json:
            print_json(job)
        else:
            typer.echo(job["id"])
            hint(f"watch it with: sparsevit watch {job['id']}")


def watch(
    job_id: JobArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job's progress until it ends; fails where the job fails."""
    with connect(url, key) as client:
        _follow(client, job_id, as_json)


COMMANDS = [
    (search, "sparsevit search builtin:digits builtin:digits --latency 60% --watch"),
    (watch, "sparsevit watch job_0198c5d2a7f07cc1a6a1f1d0c2b3e4f5"),
]


def parse_latency(text: str) -> dict[str, Any]:
    """The budget's field of a request: "10ms" -> milliseconds, "60%" -> share of dense."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|%)\s*", text)
    if found is None:
        raise typer.BadParameter(
            "give milliseconds, such as 10ms, or a share of the dense latency, such as 60%",
            param_hint="--latency",
        )
    number, unit = found.groups()
    return {"latency_budget": f"{number}%"} if unit == "%" else {"latency_budget_ms": float(number)}


def service_path(text: str) -> str:
    """A path as the service takes it: absolute, or the name of something built in."""
    return text if text.startswith(BUILTIN) else str(Path(text).expanduser().absolute())


def given(**fields: Any) -> dict[str, Any]:
    """The fields that were given; the service fills in the others and shows what it filled in."""
    return {name: value for name, value in fields.items() if value is not None}


def require_success(job: dict[str, Any]) -> None:
    """Raise, with code and message, where a job that ended did not succeed."""
    if job["status"] == "failed":
        error = job["error"] or {}
        raise CommandError(
            f"{job['id']} failed: {error.get('code', 'UNKNOWN')}: {error.get('message', '')}"
        )
    if job["status"] != "succeeded":
        raise CommandError(f"{job['id']} was {job['status']}")


def _follow(client: Any, job_id: str, as_json: bool) -> None:
    from service.commands.progress import follow, polls

    if as_json:
        job, version = {}, None
        for job in polls(client, job_id):
            if job["version"] != version:
                typer.echo(json.dumps(job))
                version = job["version"]
    else:
        job = follow(client, job_id, messages())
    require_success(job)
    if not as_json:
        hint(f"the best config: sparsevit config {job_id} -o best.json")
