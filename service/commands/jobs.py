"""sparsevit jobs, job, cancel, config, weights, pareto."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from service.commands.answers import range_text
from service.commands.common import (
    CommandError,
    JobArgument,
    JsonOption,
    KeyOption,
    UrlOption,
    connect,
    hint,
    output,
    print_json,
    write_file,
)

FRONT_FORMATS = ("csv", "png", "json")


def jobs(
    status: Annotated[
        str | None, typer.Option("--status", help="Only jobs in this state, such as running.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100, help="At most so many.")] = 20,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """List your jobs, the newest first."""
    with connect(url, key) as client:
        page = client.jobs(limit=limit, status=status)
    if as_json:
        print_json(page)
        return
    table = Table("job", "status", "stage", "evaluations", "created", box=None, pad_edge=False)
    for job in page["data"]:
        progress = job["progress"]
        counts = f"{progress['done'] + progress['failed']}/{progress['total'] or '-'}"
        created = str(job["created_at"])[:19].replace("T", " ")
        table.add_row(job["id"], job["status"], job["stage"] or "", counts, created)
    output().print(table)


def job(
    job_id: JobArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one job: its state, progress and verdicts."""
    from service.commands.progress import line

    with connect(url, key) as client:
        found = client.job(job_id)
    if as_json:
        print_json(found)
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_row("job", found["id"])
    table.add_row("status", found["status"])
    table.add_row("progress", line(found))
    for name in ("checkpoint", "dataset", "latency_budget", "latency_budget_ms"):
        value = found["request"].get(name)
        if value is not None:
            table.add_row(name, value["path"] if isinstance(value, dict) else str(value))
    if found["latency"]:
        scope = found["request"]["latency_scope"]
        table.add_row(f"{scope} latency", range_text(found["latency"]["scopes"][scope]))
    for verdict in found["verdicts"]:
        table.add_row("verdict", str(verdict))
    if found["error"]:
        table.add_row("error", f"{found['error']['code']}: {found['error']['message']}")
    output().print(table)


def cancel(
    job_id: JobArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Cancel a job; what runs of it stops within seconds."""
    with connect(url, key) as client:
        found = client.cancel(job_id)
    if as_json:
        print_json(found)
    else:
        typer.echo(found["status"])


def config(
    job_id: JobArgument,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write it there instead of to stdout.")
    ] = None,
    partial: Annotated[
        bool, typer.Option("--partial", help="Of a job that runs: the best so far, not measured.")
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Get a job's best config, the file that `sparsevit.load_config` reads."""
    with connect(url, key) as client:
        content = client.config(job_id, partial)
    if file is None:
        typer.echo(content.decode().rstrip("\n"))
    else:
        write_file(file, content)
        hint(f"wrote {file}")


def weights(
    job_id: JobArgument,
    file: Annotated[Path, typer.Option("--output", "-o", help="Where the weights are written.")],
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Get the weights a job made, the file that `sparsevit.load_model` reads."""
    with connect(url, key) as client:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            client.weights(job_id, file)
        except OSError as error:
            raise CommandError(f"cannot write {file}: {error.strerror}") from None
    hint(f"wrote {file}")


def pareto(
    job_id: JobArgument,
    file: Annotated[Path, typer.Option("--output", "-o", help="FILE.csv, FILE.png or FILE.json.")],
    url: UrlOption = None,
    key: KeyOption = None,
) -> None:
    """Get a job's Pareto front of metric and latency, as a table or a picture."""
    kind = file.suffix.lower().removeprefix(".")
    if kind not in FRONT_FORMATS:
        raise typer.BadParameter("end the name in .csv, .png or .json", param_hint="--output")
    with connect(url, key) as client:
        write_file(file, client.pareto(job_id, kind))
    hint(f"wrote {file}")


_ID = "job_0198c5d2a7f07cc1a6a1f1d0c2b3e4f5"
COMMANDS = [
    (jobs, "sparsevit jobs --status running"),
    (job, f"sparsevit job {_ID} --json"),
    (cancel, f"sparsevit cancel {_ID}"),
    (config, f"sparsevit config {_ID} -o best.json"),
    (weights, f"sparsevit weights {_ID} -o weights.safetensors"),
    (pareto, f"sparsevit pareto {_ID} -o front.png"),
]
