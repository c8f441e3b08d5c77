"""Gives every request an id, answers with it, and writes one line of log per request."""

from __future__ import annotations

import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.domain.logs import about

log = logging.getLogger("service.requests")

HEADER = "X-Request-ID"

_ALLOWED = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class RequestIdMiddleware:
    """Takes the caller's X-Request-ID where it is harmless, else makes one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One ASGI call."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _ALLOWED.fullmatch(given) else uuid.uuid4().hex
        # Handlers and error answers read it from here.
        scope.setdefault("state", {})["request_id"] = request_id
        started = time.perf_counter()
        status = 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        with about(request_id=request_id):
            try:
                await self._app(scope, receive, answer)
            finally:
                milliseconds = 1000 * (time.perf_counter() - started)
                # The route's pattern, not the path: a log must not repeat what callers send.
                route = getattr(scope.get("route"), "path", "-")
                log.info("%s %s %d %.1f ms", scope["method"], route, status, milliseconds)
