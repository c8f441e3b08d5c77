"""Who is calling: `Authorization: Bearer KEY`, looked up by the key's SHA-256."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from service.api.context import Context, context
from service.db.keys import KeyRepository
from service.db.session import session_scope
from service.domain.errors import Forbidden, Unauthenticated
from service.domain.records import ApiKey

MAX_KEY_CHARACTERS = 256

bearer = HTTPBearer(auto_error=False, description="An API key of `sparsevit keys create`.")
"""For the API's description only; `caller` reads the header itself."""


def key_in_force(
    request: Request,
    parts: Annotated[Context, Depends(context)],
    _described: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> ApiKey:
    """Dependency: the record of the request's key.

    Raises:
        Unauthenticated: no key, or none that is known.
    """
    header = request.headers.get("authorization", "")
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise Unauthenticated("send the header `Authorization: Bearer KEY`")
    with session_scope(parts.engine) as session:
        found = KeyRepository(session).find(key)
    if found is None:
        raise Unauthenticated("this key is unknown or was revoked")
    return found


def caller(key: Annotated[ApiKey, Depends(key_in_force)]) -> str:
    """Dependency: the owner the request's key belongs to."""
    return key.owner


def operator(request: Request, key: Annotated[ApiKey, Depends(key_in_force)]) -> None:
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
