"""`python -m worker --device cpu`: the same as `sparsevit worker --device cpu`."""

from __future__ import annotations

import typer

from worker.commands import EPILOG, run_worker


def main() -> None:
    """Run the worker's command by itself."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(epilog=EPILOG)(run_worker)
    app()


if __name__ == "__main__":
    main()
