"""Who is calling: `Authorization: Bearer KEY`, looked up by the key's SHA-256."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, TypeVar

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from service.api.context import Context, context
from service.db.keys import KeyRepository
from service.db.session import read
from service.domain.errors import Forbidden, Unauthenticated
from service.domain.records import ApiKey

Found = TypeVar("Found")

MAX_KEY_CHARACTERS = 256

bearer = HTTPBearer(auto_error=False, description="An API key of `sparsevit keys create`.")
"""For the API's description only; `caller` reads the header itself."""


async def key_sent(
    request: Request,
    _described: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> str:
    """Dependency: the request's key, which nobody has looked up yet.

    Raises:
        Unauthenticated: there is none.
    """
    header = request.headers.get("authorization", "")
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise Unauthenticated("send the header `Authorization: Bearer KEY`")
    return key


SentKey = Annotated[str, Depends(key_sent)]


def key_in_force(key: SentKey, parts: Annotated[Context, Depends(context)]) -> ApiKey:
    """Dependency: the record of the request's key.

    Raises:
        Unauthenticated: it is not known.
    """
    return known(read(parts.reader, lambda connection: KeyRepository(connection).find(key)))


def known(found: Found | None) -> Found:
    """What was found of the request's key.

    Raises:
        Unauthenticated: nothing.
    """
    if found is None:
        raise Unauthenticated("this key is unknown or was revoked")
    return found


async def caller(key: Annotated[ApiKey, Depends(key_in_force)]) -> str:
    """Dependency: the owner the request's key belongs to."""
    return key.owner


async def operator(request: Request, key: Annotated[ApiKey, Depends(key_in_force)]) -> None:
    """Dependency: the caller may see what is about every owner's jobs together: with an admin key,
    or, with any key in force, from this very machine.

    Raises:
        Forbidden: neither.
    """
    if not (key.admin or _is_loopback(request)):
        raise Forbidden(
            "use an admin key (`sparsevit keys create NAME --admin`), or ask from the "
            "service's own machine"
        )


def _is_loopback(request: Request) -> bool:
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False


Caller = Annotated[str, Depends(caller)]
