"""HTTP as the API reads it: uvicorn on httptools, with the bound on heads that it lacks.

`uvicorn --http service.api.protocol:BoundedProtocol`
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers, as h11 has it; and of what follows the last piece of a body."""


class BoundedProtocol(HttpToolsProtocol):
    """One connection.

    httptools keeps a line until it ends, and uvicorn each line, however many they are: so much is
    taken in without a head that is complete, or a piece of a body, and no more. Who sends more is
    answered 400, and the connection is closed.
    """

    _in_body = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._pending = 0

    def data_received(self, data: bytes) -> None:
        """A piece of what it sends."""
        self._pending += len(data)
        super().data_received(data)
        if self._pending > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_body = False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. What stands after the last piece of a body is none: uvicorn would hand it to the
        application among the headers that a proxy vouches for."""
        if not self._in_body:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is complete. What is raised here is answered 400."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            raise ValueError("the head is too long")
        self._pending, self._in_body = 0, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of the body."""
        self._pending = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The body is complete, and what follows it."""
        self._pending = 0
        super().on_message_complete()
