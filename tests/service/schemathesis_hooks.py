"""What the description of the API cannot say, told to schemathesis, which loads this file.

There are values that only this service knows (paths, devices, ids), given in SCHEMATHESIS_FACTS, and
rules between fields that JSON Schema has no words for: requests that break one are valid by the
description, so they are put right here, and tests of their own show that they are refused.
"""

from __future__ import annotations

import json
import os
import re
import uuid
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext

from service.api.search import KEY_PATTERN
from service.domain.errors import ValidationFailed
from service.domain.request import parse_search_request

FACTS: dict[str, Any] = json.loads(os.environ["SCHEMATHESIS_FACTS"])
LARGEST = 10_000
MOST_CANDIDATES = 1_000_000
MAX_NAME, MAX_PATH = 128, 4096
TEXT = re.compile(r"[^\x00-\x1f\x7f-\x9f]+\Z")
KEY = re.compile(KEY_PATTERN)
INPUTS = ("several inputs differ",)
RULES = (*INPUTS, "give exactly one of", "give one of")
"""How the service begins what it says of rules between fields."""

for name, values in FACTS["formats"].items():
    schemathesis.openapi.format(name, st.sampled_from(values))


@schemathesis.hook
def map_case(context: HookContext, case: Case) -> Case:
    """Every generated request."""
    return put_right(case)


@schemathesis.hook
def before_add_examples(context: HookContext, examples: list[Case]) -> None:
    """Requests made of the examples of all fields, which need not fit together."""
    examples[:] = [case for case in map(put_right, examples) if not breaks(case.body, RULES)]


def put_right(case: Case) -> Case:
    """The request with paths and ids of this service, and settings that fit together."""
    if isinstance(case.body, dict):
        case.body = _known(_real(case.body))
        if isinstance(case.body.get("search"), dict):
            case.body["search"] = _fitting_together(case.body["search"])
        if breaks(case.body, INPUTS):
            case.body["input"] = case.body["input"][:1]
    case.query, case.path_parameters = _real(case.query), _real(case.path_parameters)
    query, path = case.query or {}, case.path_parameters or {}
    if "candidates" in case.path and "after" in query and path.get("job_id") != FACTS["job"]:
        # A cursor is its own list's alone.
        case.query = {name: value for name, value in query.items() if name != "after"}
    headers = case.headers or {}
    if KEY.fullmatch(str(headers.get("Idempotency-Key", ""))):
        # One that was used for another body would be refused.
        headers["Idempotency-Key"] = str(uuid.uuid4())
    return case


def _real(value: Any) -> Any:
    """A value in which those of the description's examples are this service's own, and whole numbers
    are written without a fraction: to JSON Schema 5.0 is an integer."""
    if isinstance(value, dict):
        return {name: _real(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_real(one) for one in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return FACTS["examples"].get(value, value) if isinstance(value, str) else value


def _known(body: dict[str, Any]) -> dict[str, Any]:
    """A body whose paths and device are there: where they are made for their length alone, they are
    no real ones."""
    body = dict(body)
    formats = {"checkpoint": "data-path", "dataset": "data-path", "device": "device-model"}
    for name, its_format in formats.items():
        body |= _one_there(body, name, its_format)
    if isinstance(body.get("dataset"), dict):
        body["dataset"] |= _one_there(body["dataset"], "path", "data-path")
    return body


def _one_there(fields: dict[str, Any], name: str, its_format: str) -> dict[str, str]:
    """The field with a value that is there, where it has one that the description allows."""
    value, known = fields.get(name), FACTS["formats"][its_format]
    limit = MAX_NAME if its_format == "device-model" else MAX_PATH
    if not isinstance(value, str) or TEXT.match(value) is None or len(value) > limit:
        return {}
    return {name: value if value in known else known[-1]}


def _fitting_together(search: dict[str, Any]) -> dict[str, Any]:
    """No more parents than candidates, not too many of these, levels in rising order: where each
    setting by itself is one that may be."""
    sizes = {"population": 100, "parents": 25, "generations": 30} | search
    if not all(_is_size(sizes[name]) for name in ("population", "parents", "generations")):
        return search
    fitting = dict(search)
    population = sizes["population"]
    if sizes["parents"] > population:
        fitting["parents"] = population
    if population * sizes["generations"] > MOST_CANDIDATES:
        fitting["generations"] = MOST_CANDIDATES // population
    levels = fitting.get("levels")
    if isinstance(levels, list) and all(type(level) is int for level in levels):
        fitting["levels"] = sorted(levels)
    return fitting


def _is_size(value: object) -> bool:
    return type(value) is int and 1 <= value <= LARGEST


def breaks(body: object, rules: tuple[str, ...]) -> bool:
    """Whether such rules are all that is wrong with a body."""
    if not isinstance(body, dict):
        return False
    try:
        parse_search_request(body)
    except ValidationFailed as error:
        return all(one.message.startswith(rules) for one in error.errors)
    return False
