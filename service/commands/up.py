"""sparsevit up: everything on one machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from service.commands.common import hint
from service.home import default_home, key_file

if TYPE_CHECKING:
    from service.embedded.stack import Stack

CHECK_SECONDS = 0.5


def up(
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, help="The API's port; 0: a free one.")
    ] = 8000,
    home: Annotated[
        Path | None,
        typer.Option(
            "--home",
            envvar="SPARSEVIT_HOME",
            help="Where everything is kept; default: ~/.sparsevit, for root /var/lib/sparsevit.",
        ),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option("--device", help="Start a worker on it: cpu, cuda:0, ... May be repeated."),
    ] = None,
    data_root: Annotated[
        list[Path] | None,
        typer.Option(
            "--data-root",
            exists=True,
            file_okay=False,
            resolve_path=True,
            help="Searches may read checkpoints and data below it. May be repeated.",
        ),
    ] = None,
) -> None:
    """Start Postgres, Redis, the API and a worker here; Ctrl-C stops them all."""
    from service.embedded.signals import Stopped, stoppable
    from service.embedded.stack import Stack, StackOptions

    options = StackOptions(
        home=(home or default_home()).expanduser().absolute(),
        port=port,
        devices=tuple(device or ["cpu"]),
        data_roots=tuple(data_root or []),
    )
    try:
        with stoppable(), Stack(options, lambda text: hint(f"{text} ...")) as stack:
            _introduce(stack, options.home)
            while True:
                stack.mend()
                time.sleep(CHECK_SECONDS)
    except Stopped:
        hint("stopped")


COMMANDS = [(up, "sparsevit up --port 8000 --device cpu --data-root /srv/data")]


def _finding(home: Path) -> str:
    if home == default_home():
        return "commands on this machine find it by themselves"
    return f"commands find it with SPARSEVIT_HOME={home}"


def _introduce(stack: Stack, home: Path) -> None:
    """Where the service is reached, and a first request."""
    url = stack.addresses.url
    body = '{"checkpoint": "builtin:digits", "dataset": "builtin:digits", "latency_budget": "60%"}'
    lines = [
        "",
        "sparsevit is up.",
        "",
        f"  URL   {url}",
        f"  key   {stack.key}",
        f"        kept in {key_file(home)}; {_finding(home)}",
        f"  logs  {home / 'logs'}",
        "",
        "In another terminal:",
        "",
        "  sparsevit search builtin:digits builtin:digits --latency 60% --watch",
        "",
        "or from any program on this machine:",
        "",
        f"  curl -X POST {url}/search -H 'Authorization: Bearer {stack.key}' \\",
        f"    -H 'Content-Type: application/json' -d '{body}'",
        "",
        "Ctrl-C stops everything.",
    ]
    typer.echo("\n".join(lines))
