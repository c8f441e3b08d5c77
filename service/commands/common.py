"""What the commands share: which service and key they talk to, and how they tell of errors."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from service.domain.errors import FieldError, ServiceError
from service.home import Addresses, default_home, read_key

if TYPE_CHECKING:
    from service.client import Client

UrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar="SPARSEVIT_URL",
        help="The service's address; default: the one `sparsevit up` runs on this machine.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="SPARSEVIT_KEY",
        show_envvar=True,
        help="The API key; default: the one `sparsevit up` made. Prefer the variable: other users "
        "of a machine can see options.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
JobArgument = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


class CommandError(ServiceError):
    """A command cannot do what it was asked to; the message says what to do."""

    code = "COMMAND_FAILED"


def told(command: Callable[..., None]) -> Callable[..., None]:
    """`command`, whose errors are one sentence on stderr and exit code 1 instead of a traceback."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except ServiceError as error:
            tell_error("\n  ".join([str(error), *_findings(error)]))
            raise typer.Exit(1) from None

    return run


def _findings(error: ServiceError) -> list[str]:
    """The fields of a request that were refused, where the error names any."""
    found: tuple[FieldError, ...] = getattr(error, "errors", ())
    return [f"{one.pointer or '/'}: {one.message}" for one in found]


def tell_error(text: str) -> None:
    """One error on stderr."""
    typer.echo(f"error: {text}", err=True)


def hint(text: str) -> None:
    """A line for people on stderr, so that what is on stdout can be piped."""
    typer.echo(text, err=True)


def output() -> Console:
    """Standard output, for tables; brackets in names and messages are no markup."""
    return _console(Console(highlight=False, markup=False))


def messages() -> Console:
    """Standard error, for progress."""
    return _console(Console(stderr=True, highlight=False))


def _console(console: Console) -> Console:
    # Into a pipe rich would fold lines at 80 columns, ids among them.
    if not console.is_terminal:
        console.width = 200
    return console


def print_json(value: Any) -> None:
    """One JSON value on stdout."""
    typer.echo(json.dumps(value, indent=2))


def connect(url: str | None, key: str | None) -> Client:
    """A client of the service that was named, or of the one `sparsevit up` runs here."""
    from service.client import Client

    return Client(*target(url, key))


def target(url: str | None, key: str | None) -> tuple[str, str]:
    """The service's URL and a key for it; the local service's key is for that service alone."""
    home = default_home()
    local = Addresses.read(home)
    if url is None and local is None:
        raise CommandError(
            "no service is known: start one with `sparsevit up`, or name it with --url "
            "or SPARSEVIT_URL"
        )
    found = (url or (local.url if local else "")).rstrip("/")
    if key is None and local is not None and found == local.url:
        key = read_key(home)
    if key is None:
        raise CommandError(
            f"no key for {found}: set SPARSEVIT_KEY (`sparsevit keys create NAME` makes one on "
            "the service's machine)"
        )
    return found, key


def require_success(job: dict[str, Any]) -> None:
    """Raise, with code and message, where a job that ended did not succeed."""
    if job["status"] == "failed":
        error = job["error"] or {}
        raise CommandError(
            f"{job['id']} failed: {error.get('code', 'UNKNOWN')}: {error.get('message', '')}"
        )
    if job["status"] != "succeeded":
        raise CommandError(f"{job['id']} was {job['status']}")


def write_file(path: Path, content: bytes) -> None:
    """Write a result; its folder is made where it is missing."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None
