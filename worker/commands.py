"""The console command `sparsevit worker`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from service.domain.errors import SettingsError
from service.domain.logs import configure
from service.settings import load_settings
from worker.supervisor import DeviceProcess, DeviceUnavailable, device_command

EPILOG = (
    "Example: DATABASE_URL=postgresql://... REDIS_URL=redis://... ARTIFACT_ROOT=/srv/sparsevit "
    "sparsevit worker --device cuda:0"
)


def register(app: typer.Typer) -> None:
    """Add the worker's command to the console command."""
    app.command("worker", epilog=EPILOG)(run_worker)


def run_worker(
    device: Annotated[
        str,
        typer.Option(
            help="The device this worker owns: cpu, cuda, cuda:1, ... One worker per device."
        ),
    ] = "cpu",
    name: Annotated[
        str | None,
        typer.Option(help="Name in GET /workers; by default made of host, device and process."),
    ] = None,
) -> None:
    """Run a worker on a device: it takes units of searches and runs them.

    It needs DATABASE_URL, REDIS_URL and the ARTIFACT_ROOT of its API, and
    checkpoints and data sets under the same paths. On SIGTERM it ends its
    unit, or gives it back.
    """
    if re.fullmatch(r"cpu|cuda(:\d{1,3})?", device) is None:
        raise typer.BadParameter("give cpu, cuda, or cuda:N", param_hint="--device")
    if name is not None and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", name) is None:
        raise typer.BadParameter(
            "use 1 to 64 letters, digits, dots, dashes and underscores", param_hint="--name"
        )
    # Not at the top: the other commands of the console need neither Celery nor SQLAlchemy.
    from worker.node import Node, default_name

    try:
        settings = load_settings()
        name = name or default_name(device)
        configure(settings.log_level, settings.log_format, device=device, worker=name)
        Node(settings, DeviceProcess(device_command(device)), name).run()
    except (SettingsError, DeviceUnavailable) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
