"""The API's description: it is the one checked in, says all, and its examples are right."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from service.api.problems import Problem, status_of
from service.domain import errors
from service.domain.errors import (
    Conflict,
    LimitReached,
    NotFound,
    RequestError,
    ServiceError,
    SettingsError,
)
from tests.service.api_server import Api

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs" / "openapi.json"
HOW = "run: python -m service.api > docs/openapi.json"
DOCUMENT: dict[str, Any] = json.loads(FILE.read_text())
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
FIELDS = [(model, field) for model, one in SCHEMAS.items() for field in one.get("properties", ())]
OPERATIONS = {
    operation["operationId"]: operation
    for operations in DOCUMENT["paths"].values()
    for operation in operations.values()
}
GROUPS = (ServiceError, RequestError, NotFound, Conflict, LimitReached)
"""Errors that only stand above others; SettingsError answers no request."""


def all_errors(kind: type[ServiceError] = ServiceError) -> Iterator[type[ServiceError]]:
    yield kind
    for one in kind.__subclasses__():
        yield from all_errors(one)


def valid(value: Any, schema: dict[str, Any]) -> bool:
    """Whether a value fits a schema of the document."""
    whole = {"components": DOCUMENT["components"], "allOf": [schema]}
    return jsonschema_rs.Draft202012Validator(whole).is_valid(value)


def resolved(value: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    while "$ref" in value:
        at: Any = DOCUMENT
        for part in value["$ref"].removeprefix("#/").split("/"):
            at = at[part]
        value = at
    return value


def test_what_is_served_is_what_is_checked_in(api: Api) -> None:
    assert api.nobody.get("/openapi.json").json() == DOCUMENT, HOW


def test_the_command_prints_the_file() -> None:
    command = [sys.executable, "-m", "service.api"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120, check=True)
    assert done.stdout == FILE.read_bytes(), HOW


@pytest.mark.parametrize(("model", "field"), FIELDS)
def test_every_field_has_a_text_and_an_example(model: str, field: str) -> None:
    told = SCHEMAS[model]["properties"][field]
    assert told.get("description", "").strip(), "it has no text"
    for example in told.get("examples", ()):
        assert valid(example, told), f"{example} does not fit"
    assert told.get("examples") or shows_itself(told), "it has no example"


def shows_itself(schema: dict[str, Any]) -> bool:
    """Whether a schema lists its values, or has objects alone whose own fields have examples."""
    if {"enum", "const"} & set(resolved(schema)):
        return True
    if "$ref" in schema:
        return "properties" in resolved(schema)
    if "items" in schema:
        return shows_itself(schema["items"])
    some = [one for one in schema.get("anyOf", ()) if one.get("type") != "null"]
    return bool(some) and all(map(shows_itself, some))


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_says_all_of_itself(name: str) -> None:
    operation = OPERATIONS[name]
    assert operation["summary"]
    assert operation["description"]
    for parameter in operation.get("parameters", ()):
        assert parameter["description"], parameter["name"]
        assert parameter["schema"]["examples"], parameter["name"]
        for example in parameter["schema"]["examples"]:
            assert valid(example, parameter["schema"]), parameter["name"]
    for status, response in operation["responses"].items():
        assert response["description"] not in ("", "Successful Response"), status
        for header in response["headers"].values():
            assert resolved(header)["description"]
            assert resolved(header)["example"]
        for media, content in response.get("content", {}).items():
            assert shown(media, content), f"{status} {media} has no example"


def shown(media: str, content: dict[str, Any]) -> bool:
    """Whether content has an example of its own, or is of fields that have."""
    if "example" in content or content["schema"].get("format") == "binary":
        return True
    if media == "application/problem+json":
        return bool(content["examples"])
    return "properties" in resolved(content["schema"])


def test_a_route_with_a_key_says_what_without_one() -> None:
    for name, operation in OPERATIONS.items():
        open_to_all = name in ("healthz", "readyz")
        assert ("security" in operation) is not open_to_all
        assert ("401" in operation["responses"]) is not open_to_all
        if not open_to_all:
            assert {"422", "500", "503"} <= set(operation["responses"])


def test_every_error_has_an_example_where_it_belongs() -> None:
    told: dict[str, set[str]] = {}
    for operation in OPERATIONS.values():
        for status, response in operation["responses"].items():
            content = response.get("content", {}).get("application/problem+json", {})
            for code, example in content.get("examples", {}).items():
                value = resolved(example)["value"]
                Problem.model_validate(value)
                assert (value["code"], value["status"]) == (code, int(status))
                assert f"`{code}`: " in response["description"]
                told.setdefault(code, set()).add(status)
    expected = {
        kind.code: {str(int(status_of(kind)))}
        for kind in all_errors()
        if kind.__module__ == errors.__name__
        and (kind is ServiceError or kind not in (*GROUPS, SettingsError))
    }
    assert told == expected


def test_the_example_of_a_search_fits_its_description() -> None:
    content = OPERATIONS["post_search"]["requestBody"]["content"]["application/json"]
    assert valid(content["example"], content["schema"])
