"""sparsevit keys create, list, revoke: run on the service's machine, beside its database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from service.commands.common import CommandError, JsonOption, hint, output, print_json, told
from service.home import known_database_url

if TYPE_CHECKING:
    from service.db.keys import KeyRepository


def create(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What the key is for; shown by `keys list`.")
    ],
    owner: Annotated[
        str, typer.Option("--owner", help="Whose jobs it sees: keys of one owner share them.")
    ] = "local",
    admin: Annotated[
        bool, typer.Option("--admin", help="It opens /metrics from other machines, too.")
    ] = False,
) -> None:
    """Make a key and print it; it is not stored and cannot be shown again."""
    with _repository() as keys:
        key = keys.create(owner, name, admin)
    typer.echo(key)
    hint("keep it: it cannot be shown again; use it as SPARSEVIT_KEY")


def list_(as_json: JsonOption = False) -> None:
    """List keys, without the keys themselves."""
    with _repository() as keys:
        found = keys.all()
    rows = [
        {
            "id": key.id,
            "owner": key.owner,
            "name": key.name,
            "admin": key.admin,
            "created_at": key.created_at.isoformat(timespec="seconds"),
            "revoked_at": key.revoked_at and key.revoked_at.isoformat(timespec="seconds"),
        }
        for key in found
    ]
    if as_json:
        print_json(rows)
        return
    table = Table("id", "owner", "name", "admin", "created", "revoked", box=None, pad_edge=False)
    for row in rows:
        shown = {**row, "admin": "yes" if row["admin"] else ""}
        table.add_row(*(value or "" for value in shown.values()))
    output().print(table)


def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="From `keys list`.")]) -> None:
    """End a key at once."""
    with _repository() as keys:
        revoked = keys.revoke(key_id)
    if not revoked:
        raise CommandError(f"no key {key_id} is in force: see `sparsevit keys list`")
    hint(f"revoked {key_id}")


def register(app: typer.Typer) -> None:
    """Add `keys` and its three commands."""
    group = typer.Typer(no_args_is_help=True, help="Make, list and revoke API keys.")
    commands = [
        (
            create,
            "sparsevit keys create notebook\n\nExample: sparsevit keys create prometheus --admin",
        ),
        (list_, "sparsevit keys list"),
        (revoke, "sparsevit keys revoke key_0123456789abcdef"),
    ]
    for command, epilog in commands:
        group.command(command.__name__.rstrip("_"), epilog=f"Example: {epilog}")(told(command))
    app.add_typer(group, name="keys")


@contextmanager
def _repository() -> Iterator[KeyRepository]:
    from sqlalchemy.exc import OperationalError

    from service.db.keys import KeyRepository
    from service.db.session import make_engine, session_scope

    engine = make_engine(known_database_url(), pool_size=1)
    try:
        with session_scope(engine) as session:
            yield KeyRepository(session)
    except OperationalError as error:
        raise CommandError(f"the database does not answer: {error.orig}".strip()) from None
    finally:
        engine.dispose()
