"""sparsevit retention: run on the service's machine, beside its database and its artefacts."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service.commands.common import CommandError, JsonOption, hint, print_json
from service.home import known_artifact_root, known_database_url

if TYPE_CHECKING:
    from service.db.retention import Leftovers


def retention(
    days: Annotated[
        int, typer.Option("--days", min=1, max=36500, help="Keep jobs for so long after their end.")
    ] = 90,
    yes: Annotated[
        bool, typer.Option("--yes", help="Delete, instead of telling what would be.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Delete jobs that ended long ago, and files that no job needs any more.

    Evaluations, receipts and events go with their job; so do pictures and
    weights, unless another job has the same. What trainings left behind goes
    whatever its age. Without --yes nothing is deleted.
    """
    from sqlalchemy.exc import OperationalError

    from service.db.artefacts import ArtefactStore
    from service.db.retention import find, remove
    from service.db.session import make_engine

    engine = make_engine(known_database_url(), pool_size=1)
    store, age = ArtefactStore(known_artifact_root()), timedelta(days=days)
    try:
        found = find(engine, store, age)
        if yes:
            remove(engine, store, found, age)
    except OperationalError as error:
        raise CommandError(f"the database does not answer: {error.orig}".strip()) from None
    finally:
        engine.dispose()
    _tell(found, deleted=yes, as_json=as_json)


def _tell(found: Leftovers, deleted: bool, as_json: bool) -> None:
    counts: dict[str, Any] = {
        "jobs": len(found.jobs),
        **found.rows,
        "files": len(found.files),
        "bytes": found.size,
        "training_folders": len(found.folders),
        "deleted": deleted,
    }
    if as_json:
        print_json(counts)
        return
    verb = "deleted" if deleted else "to delete"
    rows = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in found.rows.items())
    typer.echo(f"{verb}: {len(found.jobs)} jobs, with {rows}")
    megabytes = f"{found.size / 2**20:.1f} MB"
    typer.echo(f"{verb}: {len(found.files)} files ({megabytes}), {len(found.folders)} folders")
    if not deleted:
        hint("nothing was deleted: say --yes to do it")


COMMANDS = [(retention, "sparsevit retention --days 30 --yes")]
