"""Bodies and fields of POST /search: each row of the contract's table of bad input."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import pytest

from service.api.body import MAX_BYTES, MAX_DEPTH
from tests.service.api_server import SMALL, Api

JSON = {"Content-Type": "application/json"}
CANARY = "canary-7319"


def post(api: Api, body: bytes, **headers: str) -> httpx.Response:
    return api.ann.post("/search", content=body, headers={**JSON, **headers})


def check_problem(answer: httpx.Response, status: int, code: str) -> Any:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert set(problem) == {
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "errors",
        "request_id",
    }
    assert (problem["status"], problem["code"]) == (status, code)
    assert problem["request_id"] == answer.headers["x-request-id"]
    assert CANARY not in answer.text
    return problem


def with_(**changes: Any) -> bytes:
    return json.dumps({**SMALL, **changes}).encode()


MALFORMED = {
    "empty": b"",
    "cut short": b'{"a":',
    "trailing text": b"{} {}",
    "bytes FF FE": b"\xff\xfe",
    "NaN": b'{"latency_budget_ms": NaN}',
    "Infinity": b'{"latency_budget_ms": -Infinity}',
    "duplicate key": b'{"seed": 1, "seed": 2}',
    "duplicate key inside": b'{"search": {"seed": 1, "\\u0073eed": 2}}',
    "nested brackets": b"[" * 100_000,
    "nested brackets within the limit": b'{"a":' * 1000,
    "5,000 digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without mark": '{"a": 1}'.encode("utf-16-le"),
    "UTF-8 with mark": b"\xef\xbb\xbf{}",
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "single quotes": b"{'a': 1}",
    "line feed in a string": b'{"a": "\n"}',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_json(api: Api, name: str) -> None:
    check_problem(post(api, MALFORMED[name]), 400, "MALFORMED_JSON")


def test_depth_counts_brackets_outside_of_strings_only(api: Api) -> None:
    deep = {"metadata": {"note": "[{" * 100 + '"\\'}}
    assert post(api, with_(**deep)).status_code == 202
    nested = json.loads("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1))
    check_problem(post(api, with_(nested=nested)), 422, "VALIDATION_FAILED")


def test_a_body_of_the_limit_is_read_and_one_byte_more_is_not(api: Api) -> None:
    body = with_()
    assert post(api, body + b" " * (MAX_BYTES - len(body))).status_code == 202
    answer = post(api, body + b" " * (MAX_BYTES + 1 - len(body)))
    check_problem(answer, 413, "BODY_TOO_LARGE")


MEDIA_TYPES = {
    "text/plain": {"Content-Type": "text/plain"},
    "a form": {"Content-Type": "application/x-www-form-urlencoded"},
    "none": {"Content-Type": ""},
    "another charset": {"Content-Type": "application/json; charset=utf-16"},
    "gzip": {"Content-Encoding": "gzip"},
}


@pytest.mark.parametrize("name", MEDIA_TYPES)
def test_unsupported_media_type(api: Api, name: str) -> None:
    body = gzip.compress(b" " * 30_000_000)[:60_000] if name == "gzip" else with_()
    answer = post(api, body, **MEDIA_TYPES[name])
    check_problem(answer, 415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_charset_of_utf_8_is_fine(api: Api) -> None:
    answer = post(api, with_(), **{"Content-Type": 'application/json; charset="UTF-8"'})
    assert answer.status_code == 202


def budget_ms(literal: str) -> bytes:
    """A request whose latency_budget_ms is written literally."""
    return with_(latency_budget=None)[:-1] + f', "latency_budget_ms": {literal}}}'.encode()


INVALID = {
    "budget 1e999": (budget_ms("1e999"), "/latency_budget_ms"),
    'budget "NaN"': (budget_ms('"NaN"'), "/latency_budget_ms"),
    "budget -5": (budget_ms("-5"), "/latency_budget_ms"),
    "budget 0": (budget_ms("0"), "/latency_budget_ms"),
    "budget true": (budget_ms("true"), "/latency_budget_ms"),
    'budget "5"': (budget_ms('"5"'), "/latency_budget_ms"),
    "budget of 400 digits": (budget_ms("9" * 400), "/latency_budget_ms"),
    "no budget": (budget_ms("null"), ""),
    "both budgets": (with_(latency_budget_ms=5), ""),
    "budget 0%": (with_(latency_budget="0%"), "/latency_budget"),
    "budget 101%": (with_(latency_budget="101%"), "/latency_budget"),
    "budget without %": (with_(latency_budget="60"), "/latency_budget"),
    "unknown field": (with_(latncy_ms=5), ""),
    "unknown field named canary": (with_(**{CANARY: CANARY}), ""),
    "NUL": (with_(checkpoint=f"/data/{CANARY}\0"), "/checkpoint"),
    "lone surrogate": (with_(checkpoint="\ud800"), "/checkpoint"),
    "lone surrogate as a field": (with_(**{"\ud800": 1}), ""),
    "CR LF in metadata": (with_(metadata={"a": "x\r\ny"}), "/metadata"),
    "1,000 metadata keys": (with_(metadata={str(n): "" for n in range(1000)}), "/metadata"),
    "metadata that is no text": (with_(metadata={"a": 1}), "/metadata"),
    "long metadata": (with_(metadata={"a": CANARY * 100}), "/metadata"),
    "1e12 evaluations": (with_(search={"max_evaluations": 10**12}), "/search/max_evaluations"),
    "1e12 candidates": (with_(search={"population": 10**6, "generations": 10**6}), "/search/"),
    "seed 2^64": (with_(search={"seed": 2**64}), "/search/seed"),
    "seed 1.0": (with_(search={"seed": 1.0}), "/search/seed"),
    "levels twice": (with_(search={"levels": [0, 1, 1]}), "/search/levels"),
    "level 9": (with_(search={"levels": [0, 9]}), "/search/levels/1"),
    "more parents than population": (with_(search={"population": 4, "parents": 5}), "/search"),
    "cuda:999": (with_(device="cuda:999"), "/device"),
    "height 8": (with_(input={"height": 8}), "/input/height"),
    "height 100000": (with_(input={"height": 100000}), "/input/height"),
    "mode": (with_(input={"mode": "jit"}), "/input/mode"),
    "no input": (with_(input=[]), "/input"),
    "five inputs": (with_(input=[{"height": 32 * n} for n in range(1, 6)]), "/input"),
    "inputs of one size": (with_(input=[{"height": 64}, {"height": 64}]), "/input"),
    "inputs that differ in batch": (with_(input=[{"height": 64, "batch": 2}, {}]), "/input"),
    "a small one of two inputs": (with_(input=[{}, {"width": 8}]), "/input/1/width"),
    "an input that is none": (with_(input="448x448"), "/input"),
    "epochs and steps": (with_(adapt={"epochs": 1, "steps": 10}), "/adapt"),
    "0 epochs": (with_(adapt={"epochs": 0}), "/adapt/epochs"),
    "1e9 steps": (with_(adapt={"steps": 10**9}), "/adapt/steps"),
    "1e300 epochs": (with_(adapt={"epochs": 1e300}), "/adapt/epochs"),
    "1e6 images a forward": (with_(finetune={"batch": 10**6}), "/finetune/batch"),
    "a rate of 1e30": (with_(finetune={"learning_rate": 1e30}), "/finetune/learning_rate"),
    "a rate as text": (with_(finetune={"learning_rate": "1e-5"}), "/finetune/learning_rate"),
    "a rate of 11": (with_(adapt={"learning_rate": 11}), "/adapt/learning_rate"),
    "int8 training": (with_(adapt={"precision": "int8"}), "/adapt/precision"),
    "an unknown setting": (with_(adapt={"epoch": 1}), "/adapt"),
    "adapt true": (with_(adapt=True), "/adapt"),
    "half a step": (with_(finetune={"steps": 0.5}), "/finetune/steps"),
    "augment 1": (with_(finetune={"augment": 1}), "/finetune/augment"),
    "a format of the shell": (with_(dataset={"path": "x", "format": "a;b"}), "/dataset/format"),
    "a format above": (with_(dataset={"path": "x", "format": "../x"}), "/dataset/format"),
    "detection": (with_(task="detection"), "/task"),
    "lanczos": (with_(preprocess={"interpolation": "lanczos"}), "/preprocess/interpolation"),
    "a crop of 0": (with_(preprocess={"crop_pct": 0}), "/preprocess/crop_pct"),
    "a crop that slides": (with_(preprocess={"crop_pct": 0.9, "slide": 0.5}), "/preprocess"),
    "81.2% expected": (
        with_(preprocess={"expected_dense_metric": 81.2}),
        "/preprocess/expected_dense_metric",
    ),
    "true expected": (
        with_(preprocess={"expected_dense_metric": True}),
        "/preprocess/expected_dense_metric",
    ),
    "a mean of 11": (with_(preprocess={"mean": [0, 0, 11.0]}), "/preprocess/mean/2"),
    "a mean of -11": (with_(preprocess={"mean": [-11.0, 0, 0]}), "/preprocess/mean/0"),
    "a std of 0": (with_(preprocess={"std": [0, 1.0, 1.0]}), "/preprocess/std/0"),
    "a std of 1e-4": (with_(preprocess={"std": [1.0, 1e-4, 1.0]}), "/preprocess/std/1"),
    "a std of 101": (with_(preprocess={"std": [1.0, 1.0, 101.0]}), "/preprocess/std/2"),
    "a number as checkpoint": (with_(checkpoint=5), "/checkpoint"),
    "no checkpoint": (b'{"dataset": "builtin:digits", "latency_budget": "5%"}', "/checkpoint"),
    "a list": (b"[]", ""),
    "a string": (b'"canary-7319"', ""),
    "null": (b"null", ""),
}


@pytest.mark.parametrize("name", INVALID)
def test_fields_that_are_refused(api: Api, name: str) -> None:
    body, pointer = INVALID[name]
    problem = check_problem(post(api, body), 422, "VALIDATION_FAILED")
    assert problem["errors"]
    for error in problem["errors"]:
        assert error["pointer"].startswith(pointer)
        assert error["message"]


@pytest.mark.parametrize("field", ["train_split", "search_split", "report_split"])
@pytest.mark.parametrize(
    "split",
    ["", ".", "..", "../other", "a/b", "a\\b", "/etc", ".hidden", "-x", "ä", "v\n", "a" * 129],
)
def test_a_split_is_a_plain_name(api: Api, field: str, split: str) -> None:
    body = with_(dataset={"path": str(api.data), field: split})
    problem = check_problem(post(api, body), 422, "VALIDATION_FAILED")
    assert [error["pointer"] for error in problem["errors"]] == [f"/dataset/{field}"]


def test_splits_of_usual_names_are_taken(api: Api) -> None:
    splits = {"train_split": "train2017", "search_split": "val-a_1.0", "report_split": "9"}
    answer = post(api, with_(dataset={"path": str(api.data), **splits}))
    assert answer.status_code == 202, answer.text
    assert answer.json()["request"]["dataset"].items() >= splits.items()


@pytest.mark.parametrize("field", ["train_split", "search_split", "report_split"])
def test_the_built_in_set_has_splits_of_its_own(api: Api, field: str) -> None:
    body = with_(dataset={"path": "builtin:digits", field: "other"})
    problem = check_problem(post(api, body), 422, "VALIDATION_FAILED")
    (error,) = problem["errors"]
    assert error["pointer"] == "/dataset"
    assert "splits of its own" in error["message"]


def test_several_inputs_are_shown_filled_in(api: Api) -> None:
    sizes = [{"height": 448, "width": 448}, {"height": 288, "width": 792}]
    answer = post(api, with_(input=sizes))
    assert answer.status_code == 202, answer.text
    shown = answer.json()["request"]["input"]
    filled = {"batch": 1, "precision": "fp32", "mode": "eager", "threads": None}
    assert shown == [size | filled for size in sizes]
    assert answer.json()["resolutions"] is None  # before the inspection


def test_trainings_and_preprocessing_are_shown_filled_in(api: Api) -> None:
    asked = {
        "task": "classification",
        "dataset": {"path": str(api.data), "format": "imagefolder"},
        "preprocess": {"interpolation": "bicubic", "crop_pct": 0.9, "expected_dense_metric": 0.812},
        "adapt": {},
        "finetune": {"epochs": 0.5, "learning_rate": 1e-5, "warmup": 0, "augment": False},
    }
    answer = post(api, with_(**asked))
    assert answer.status_code == 202, answer.text
    request = answer.json()["request"]
    assert set(request["adapt"].values()) == {None}
    for name in ("dataset", "preprocess", "finetune"):
        assert request[name].items() >= asked[name].items()


def test_every_finding_is_reported_at_once(api: Api) -> None:
    body = with_(latency_scope="x", score="y", search={"seed": -1})
    problem = check_problem(post(api, body), 422, "VALIDATION_FAILED")
    pointers = {error["pointer"] for error in problem["errors"]}
    assert pointers == {"/latency_scope", "/score", "/search/seed"}


def test_an_unknown_field_is_told_its_neighbours(api: Api) -> None:
    problem = check_problem(post(api, with_(latncy_budget_ms=5)), 422, "VALIDATION_FAILED")
    assert "did you mean latency_budget_ms" in problem["errors"][0]["message"]


@pytest.mark.parametrize("query", ["dry_run=canary-7319", "dry_run=1", "dry_run=", "canary-7319=1"])
def test_query_parameters_that_are_refused(api: Api, query: str) -> None:
    answer = api.ann.post(f"/search?{query}", json=SMALL)
    check_problem(answer, 422, "VALIDATION_FAILED")


def test_refused_requests_leave_no_job(api: Api) -> None:
    post(api, with_(score="y"))
    assert api.ann.get("/jobs").json()["data"] == []
