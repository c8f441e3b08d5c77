"""Reads a JSON body strictly: what passes here is one JSON value in UTF-8, short and shallow.

The usual parsers take NaN, duplicate keys, UTF-16 and 30 MB; each is refused here, before anything
looks at fields.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from service.domain.errors import BodyTooLarge, MalformedJson, UnsupportedMediaType

MAX_BYTES = 64 * 1024
MAX_DEPTH = 32
MAX_DIGITS = 400
"""Characters of one number; a double needs at most some 310 to be written out."""


async def read_json(request: Request) -> Any:
    """The request's body as a JSON value.

    Raises:
        UnsupportedMediaType: not application/json in UTF-8, or compressed.
        BodyTooLarge: more than MAX_BYTES; the rest is not read.
        MalformedJson: anything that is not one strict JSON value.
    """
    check_media_type(request.headers.get("content-type"), request.headers.get("content-encoding"))
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BYTES:
            # A body of brackets is called what it is, even where it is also too long.
            check_depth(bytes(body[:MAX_BYTES]))
            raise BodyTooLarge(f"a body has at most {MAX_BYTES} bytes")
    return parse_json(bytes(body))


def check_media_type(content_type: str | None, content_encoding: str | None) -> None:
    """Raises UnsupportedMediaType unless the body is plain application/json in UTF-8."""
    media, _, parameters = (content_type or "").partition(";")
    charset = parameters.strip().lower().replace('"', "").replace(" ", "")
    if media.strip().lower() != "application/json" or charset not in ("", "charset=utf-8"):
        raise UnsupportedMediaType("send the body as Content-Type: application/json (UTF-8)")
    if (content_encoding or "identity").strip().lower() != "identity":
        raise UnsupportedMediaType("send the body uncompressed, without Content-Encoding")


def parse_json(body: bytes) -> Any:
    """One JSON value (RFC 8259): no NaN, no duplicate key, no number without end.

    Raises:
        MalformedJson: with the reason, never with a piece of the body.
    """
    check_depth(body)
    try:
        return json.loads(
            body.decode("utf-8"),
            object_pairs_hook=_object,
            parse_constant=_refuse_constant,
            parse_int=_integer,
            parse_float=_float,
        )
    except UnicodeDecodeError:
        raise MalformedJson("the body is not UTF-8") from None
    except json.JSONDecodeError as error:
        message = f"the body is not JSON: line {error.lineno}, column {error.colno}"
        raise MalformedJson(message if body else "the body is empty; send a JSON object") from None


def check_depth(body: bytes) -> None:
    """Raises MalformedJson where brackets outside of strings nest deeper than MAX_DEPTH."""
    depth = 0
    in_string = escaped = False
    for byte in body:
        if escaped:
            escaped = False
        elif in_string:
            escaped = byte == 0x5C
            in_string = byte != 0x22
        elif byte == 0x22:
            in_string = True
        elif byte in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise MalformedJson(f"the body nests deeper than {MAX_DEPTH} levels")
        elif byte in b"]}":
            depth -= 1


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise MalformedJson("an object names a field twice")
    return result


def _refuse_constant(_name: str) -> NoReturn:
    raise MalformedJson("NaN and Infinity are not JSON")


def _integer(digits: str) -> int:
    _check_digits(digits)
    return int(digits)


def _float(digits: str) -> float:
    _check_digits(digits)
    return float(digits)


def _check_digits(digits: str) -> None:
    if len(digits) > MAX_DIGITS:
        raise MalformedJson(f"a number has at most {MAX_DIGITS} characters")
