"""Who is calling: `Authorization: Bearer KEY`, looked up by the key's SHA-256."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.requests import Request

from service.api.context import Context, context
from service.db.keys import KeyRepository
from service.db.session import session_scope
from service.domain.errors import Unauthenticated

MAX_KEY_CHARACTERS = 256

bearer = HTTPBearer(auto_error=False, description="An API key of `sparsevit keys create`.")
"""For the API's description only; `caller` reads the header itself."""


def caller(
    request: Request,
    parts: Annotated[Context, Depends(context)],
    _described: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> str:
    """Dependency: the owner the request's key belongs to.

    Raises:
        Unauthenticated: no key, or none that is known.
    """
    header = request.headers.get("authorization", "")
    scheme, _, key = header.partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(key) <= MAX_KEY_CHARACTERS:
        raise Unauthenticated("send the header `Authorization: Bearer KEY`")
    with session_scope(parts.engine) as session:
        owner = KeyRepository(session).owner_of(key)
    if owner is None:
        raise Unauthenticated("this key is unknown or was revoked")
    return owner


Caller = Annotated[str, Depends(caller)]
