"""The console command `sparsevit`: the library's commands, and those other packages add.

A package adds commands by an entry point of the group `sparsevit.commands` that names a function
`register(app: typer.Typer) -> None`. This is how the library gets `up`, `search` and `worker`
without knowing the service or the worker.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated

import typer

from sparsevit import __version__
from sparsevit.commands import register
from sparsevit.errors import SparseViTError

GROUP = "sparsevit.commands"
HELP = "Latency-aware search for sparse Swin Transformers: as a library and as a service."
SERVICE_HINT = (
    "The commands of the service (up, search, watch, worker, ...) need its packages: "
    r"pip install 'sparsevit\[service]'"  # escaped: help texts are rich markup
)


def build_app() -> typer.Typer:
    """The application with every command whose packages are installed."""
    missing: list[str] = []
    rooms = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        room = _load(entry)
        if room is None:
            missing.append(entry.name)
        else:
            rooms.append(room)
    app = typer.Typer(
        name="sparsevit",
        help=HELP,
        epilog=SERVICE_HINT if missing else "Example: sparsevit COMMAND --help",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
    )
    app.callback()(_options)
    register(app)
    for room in rooms:
        room(app)
    return app


def main() -> None:
    """Run the command line; an error of the library is one sentence on stderr and exit code 1."""
    try:
        build_app()()
    except SparseViTError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(1)


def _load(entry: EntryPoint) -> Callable[[typer.Typer], None] | None:
    """The entry's function, or None where packages of an extra that it needs are missing."""
    try:
        return entry.load()
    except ModuleNotFoundError as error:
        own = {"sparsevit", entry.module.partition(".")[0]}
        if (error.name or "").partition(".")[0] in own:
            raise  # a fault of ours, not an extra that was left out
        return None


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparsevit {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Options of the command itself; each is handled by its callback."""


if __name__ == "__main__":
    main()
