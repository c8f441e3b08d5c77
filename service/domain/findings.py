"""Turns what validation finds into FieldErrors that never repeat the input.

A pointer names fields of ours only: for an unknown field it points at the object that holds it, and
the message lists what may stand there.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from service.domain.errors import FieldError
from service.domain.specs import ONE_INPUT, SEVERAL_INPUTS

LIMIT = 20
"""Findings reported at most: a request of rubbish does not earn an answer of its own size."""

Loc = tuple[int | str, ...]

_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def check_strings(data: object, model: type[BaseModel]) -> list[FieldError]:
    """Finds control characters (NUL, CR, LF) and lone surrogates in any string of a JSON value.

    Neither can be stored or printed safely, and no field of ours needs them.
    """
    message = "text must not hold control characters or lone surrogates"
    return [
        FieldError(_pointer(loc, model)[0], "string_characters", message)
        for loc in islice(_bad_strings(data, ()), LIMIT)
    ]


def _bad_strings(value: object, loc: Loc) -> Iterator[Loc]:
    """Where strings, keys among them, hold forbidden characters."""
    if isinstance(value, str):
        if _FORBIDDEN.search(value):
            yield loc
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _bad_strings(item, (*loc, position))
    elif isinstance(value, dict):
        for key, item in value.items():
            if _FORBIDDEN.search(key):
                yield loc
            yield from _bad_strings(item, (*loc, key))


def findings(error: ValidationError, model: type[BaseModel]) -> list[FieldError]:
    """The findings of a pydantic error on `model`, as FieldErrors."""
    details = error.errors(include_url=False, include_input=False)[:LIMIT]
    return [_finding(detail, model) for detail in details]


def _finding(detail: ErrorDetails, model: type[BaseModel]) -> FieldError:
    pointer, owner = _pointer(detail["loc"], model)
    message = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = _unknown_field(str(detail["loc"][-1]), owner)
    elif detail["type"] == "missing":
        message = "this field is required"
    elif detail["type"] == "model_type":
        message = "give an object with named fields"
    return FieldError(pointer, detail["type"], message)


def _pointer(loc: Loc, model: type[BaseModel]) -> tuple[str, type[BaseModel]]:
    """The JSON pointer of the part of `loc` that consists of known fields and list positions."""
    parts: list[str] = []
    owner: type[BaseModel] | None = model
    last = model
    for item in loc:
        if isinstance(item, int):
            parts.append(str(item))
        elif item in (ONE_INPUT, SEVERAL_INPUTS):
            continue
        elif owner is not None and item in owner.model_fields:
            parts.append(item)
            owner = _nested(owner.model_fields[item].annotation)
            last = owner or last
        else:
            break
    return "".join(f"/{part}" for part in parts), last


def _nested(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `PreprocessSpec | None`, however deep."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_nested(part) for part in get_args(annotation))
    return next((model for model in found if model is not None), None)


def _unknown_field(name: str, owner: type[BaseModel]) -> str:
    """What to say of an unknown field: the nearest field of ours, and all of them."""
    known = list(owner.model_fields)
    near = difflib.get_close_matches(name[:64], known, n=2)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return f"unknown field; {hint}known fields: {', '.join(known)}"
