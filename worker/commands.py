"""The console commands `sparsevit worker` and `sparsevit replay`."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from service.domain.errors import ServiceError, SettingsError
from service.domain.logs import configure
from service.home import known_database_url
from service.settings import load_settings
from worker.memory import device_memory_limit
from worker.supervisor import DeviceProcess, DeviceUnavailable, device_command

EPILOG = (
    "Example: DATABASE_URL=postgresql://... REDIS_URL=redis://... ARTIFACT_ROOT=/srv/sparsevit "
    "sparsevit worker --device cuda:0"
)


def register(app: typer.Typer) -> None:
    """Add the worker's commands to the console command."""
    app.command("worker", epilog=EPILOG)(run_worker)
    app.command("replay", epilog="Example: sparsevit replay job_0198c5d2a7f07cc1a6a1f1d0c2b3e4f5")(
        replay
    )


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
        memory = device_memory_limit(settings.device_memory_mb)
        Node(settings, DeviceProcess(device_command(device), memory_bytes=memory), name).run()
    except (SettingsError, DeviceUnavailable) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


def replay(
    job_id: Annotated[str, typer.Argument(metavar="JOB", help="The job's id.")],
) -> None:
    """Check that what a job proposed is what its seed gives.

    Run beside the database: where `sparsevit up` runs, or with DATABASE_URL.
    Every generation is proposed anew from the stored evaluations before it.
    Ends with 1 at the first difference.
    """
    from service.db.session import make_engine
    from worker.replay import lines, replay_job

    try:
        engine = make_engine(known_database_url(), pool_size=1)
        for line, same in lines(replay_job(engine, job_id)):
            typer.echo(line)
            if not same:
                raise typer.Exit(1)
    except ServiceError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None
