"""sparsevit demo: a search from nothing to files, on a stack that is gone afterwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.common import hint, messages, output, require_success, write_file

if TYPE_CHECKING:
    from service.client import Client

FOLDER = Path(".demo")
RESULTS = Path("runs/demo")
# Small enough for two cores and five minutes, large enough to beat the uniform configs.
REQUEST: dict[str, Any] = {
    "checkpoint": "builtin:digits",
    "dataset": {"path": "builtin:digits", "limit": 64},
    "latency_budget": "60%",
    # One thread: with all cores in use every other process of the stack would be in the numbers.
    "input": {"threads": 1},
    "search": {"population": 16, "parents": 6, "generations": 5, "seed": 0},
}


def demo(
    results: Annotated[
        Path, typer.Option("--results", help="Folder for the four result files.")
    ] = RESULTS,
) -> None:
    """Start everything, search the shipped network, leave four files, stop everything."""
    from service.client import Client
    from service.commands.progress import follow
    from service.commands.summary import summary_table
    from service.embedded.accounts import temporary_home
    from service.embedded.signals import Stopped, stoppable
    from service.embedded.stack import Stack, StackOptions

    try:
        with stoppable(), temporary_home(FOLDER.absolute()) as home:
            options = StackOptions(home=home, durable=False)
            with (
                Stack(options, lambda text: hint(f"{text} ...")) as stack,
                Client(stack.addresses.url, stack.key) as client,
            ):
                job = client.submit(REQUEST)
                require_success(follow(client, job["id"], messages(), stack.mend))
                document = save_results(client, job["id"], results)
        output().print(summary_table(document))
        typer.echo(
            f"best.json, pareto.csv and the plots (pareto, windows, latency) are in {results}/"
        )
    except Stopped as stop:
        hint("stopped; everything that was started is stopped too")
        raise typer.Exit(stop.exit_code) from None


COMMANDS = [(demo, "sparsevit demo --results runs/demo")]


def save_results(client: Client, job_id: str, folder: Path) -> dict[str, Any]:
    """Write the four files of a job; returns the best config."""
    best = client.config(job_id)
    write_file(folder / "best.json", best)
    write_file(folder / "pareto.csv", client.pareto(job_id, "csv"))
    write_file(folder / "pareto.png", client.pareto(job_id, "png"))
    write_file(folder / "windows.png", client.windows_png(job_id))
    write_file(folder / "latency.png", client.latency_png(job_id))
    document: dict[str, Any] = json.loads(best)
    return document
