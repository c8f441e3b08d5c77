"""A small client of the REST API, for the command line and for programs.

    with Client("http://127.0.0.1:8000", key) as client:
        job = client.submit({"checkpoint": ..., "dataset": ..., "latency_budget": "60%"})

Reads and submissions are retried while the service is away; a search is started once nonetheless.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import quote

import httpx

from service.domain.errors import ServiceError
from service.domain.events import read_stream
from service.domain.records import Json
from service.remote_errors import RemoteError, remote_error

__all__ = ["Client", "RemoteError", "ServiceError"]

ATTEMPTS = 5
FIRST_WAIT_SECONDS = 0.25
LONGEST_WAIT_SECONDS = 5.0
STREAM_SECONDS = 60.0
"""A stream of events that was silent for so long is lost: the service sends something every 15."""

TERMINAL = ("succeeded", "failed", "cancelled")


class Client:
    """One connection to a service, with one key."""

    def __init__(
        self,
        url: str,
        key: str,
        *,
        timeout: float = 30.0,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            headers={"Authorization": f"Bearer {key}"},
            timeout=timeout,
            transport=transport,
            # A proxy of the environment must not stand between a machine and itself.
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._http.close()

    def submit(self, request: Json, idempotency_key: str | None = None) -> Json:
        """POST /search: the new job. idempotency_key: of a submission that was sent before and may
        have arrived; by default it is a new one."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        answer = self._send_patiently("POST", "/search", headers=headers, body=request)
        return self._object(answer)

    def dry_run(self, request: Json) -> Json:
        """POST /search?dry_run=true: what is known of the request's latencies; starts no search."""
        return self._object(self._send("POST", "/search", {"dry_run": "true"}, body=request))

    def job(self, job_id: str) -> Json:
        """GET /jobs/{id}: the job as it stands."""
        return self._object(self._read(f"/jobs/{_part(job_id)}"))

    def jobs(self, limit: int = 20, after: str | None = None, status: str | None = None) -> Json:
        """GET /jobs: a page of jobs, newest first."""
        given = {"limit": str(limit), "after": after, "status": status}
        return self._object(self._read("/jobs", given))

    def cancel(self, job_id: str) -> Json:
        """POST /jobs/{id}/cancel: the job, cancelled or being cancelled."""
        return self._object(self._send("POST", f"/jobs/{_part(job_id)}/cancel"))

    def config(self, job_id: str, partial: bool = False) -> bytes:
        """GET /jobs/{id}/config: the best config as a file's bytes; with `partial` the best so far."""
        query = {"partial": "true"} if partial else None
        return self._read(f"/jobs/{_part(job_id)}/config", query).content

    def weights(self, job_id: str, file: Path) -> None:
        """GET /jobs/{id}/weights into a file, which is there only once it is whole."""
        path = f"/jobs/{_part(job_id)}/weights"
        part = file.with_name(f"{file.name}.part")
        try:
            with self._http.stream("GET", path) as answer:
                if not answer.is_success:
                    answer.read()
                    raise remote_error(answer)
                with part.open("wb") as written:
                    for piece in answer.iter_bytes():
                        written.write(piece)
            part.replace(file)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        finally:
            part.unlink(missing_ok=True)

    def pareto(self, job_id: str, format: Literal["json", "csv", "png"] = "json") -> bytes:
        """GET /jobs/{id}/pareto: the front as a file's bytes."""
        return self._read(f"/jobs/{_part(job_id)}/pareto", {"format": format}).content

    def latency_png(self, job_id: str) -> bytes:
        """GET /jobs/{id}/latency.png: the latency map's residuals as a file's bytes."""
        return self._read(f"/jobs/{_part(job_id)}/latency.png").content

    def windows_png(self, job_id: str) -> bytes:
        """GET /jobs/{id}/windows.png: the window map as a file's bytes."""
        return self._read(f"/jobs/{_part(job_id)}/windows.png").content

    def receipt(self, job_id: str, receipt_id: str) -> Json:
        """GET /jobs/{id}/receipts/{rid}: a latency receipt."""
        return self._object(self._read(f"/jobs/{_part(job_id)}/receipts/{_part(receipt_id)}"))

    def workers(self) -> list[Json]:
        """GET /workers."""
        return list(self._object(self._read("/workers"))["data"])

    def devices(self) -> list[Json]:
        """GET /devices."""
        return list(self._object(self._read("/devices"))["data"])

    def events(self, job_id: str, after: int | None = None) -> Iterator[Json]:
        """GET /jobs/{id}/events: each change of the job, with the fields that changed, until it has
        ended: {"id", "event", "created_at", "version", ...}. A connection that is lost is made anew.

        after: `id` of the last one that was seen.

        Raises:
            RemoteError: the service refuses, or does not come back.
        """
        failures = 0
        while True:
            try:
                for event in self._one_stream(job_id, after):
                    after, failures = event["id"], 0
                    yield event
                    if event.get("status") in TERMINAL:
                        return
            except RemoteError as error:
                failures += 1
                if error.code == "NO_MORE_EVENTS":
                    return
                if not error.passing or failures == ATTEMPTS:
                    raise
            time.sleep(min(FIRST_WAIT_SECONDS * 2**failures, LONGEST_WAIT_SECONDS))

    def watch(self, job_id: str, interval: float = 0.5) -> Iterator[Json]:
        """The job each time it has changed, until it is terminal.

        interval: seconds between two looks at it, where its events do not come through.
        """
        tag = ""
        for _ in self._changes(job_id, interval):
            answer = self._read(f"/jobs/{_part(job_id)}", headers={"If-None-Match": tag})
            if answer.status_code != httpx.codes.NOT_MODIFIED:
                tag = answer.headers.get("etag", "")
                job = self._object(answer)
                yield job
                if job["status"] in TERMINAL:
                    return

    def _changes(self, job_id: str, interval: float) -> Iterator[None]:
        """Each time that the job should be looked at."""
        try:
            for _ in self.events(job_id):
                yield
        except RemoteError as error:
            # NOT_FOUND: a service of before there were events.
            if error.code not in ("NOT_FOUND", "TOO_MANY_STREAMS") and not error.passing:
                raise
        while True:
            yield
            time.sleep(interval)

    def _one_stream(self, job_id: str, after: int | None) -> Iterator[Json]:
        """The events of one connection."""
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        path, limits = f"/jobs/{_part(job_id)}/events", httpx.Timeout(10, read=STREAM_SECONDS)
        try:
            with self._http.stream("GET", path, headers=headers, timeout=limits) as answer:
                if answer.status_code == httpx.codes.NO_CONTENT:
                    raise RemoteError("NO_MORE_EVENTS", "the job has ended")
                if not answer.is_success:
                    answer.read()
                    raise remote_error(answer)
                yield from read_stream(answer.iter_lines())
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _read(
        self,
        path: str,
        query: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        return self._send_patiently("GET", path, query, headers)

    def _send_patiently(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Json | None = None,
    ) -> httpx.Response:
        """One request, again and again while the service is away or says 503."""
        wait = FIRST_WAIT_SECONDS
        for _ in range(ATTEMPTS - 1):
            try:
                return self._send(method, path, query, headers, body)
            except RemoteError as error:
                if not error.passing:
                    raise
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)
        return self._send(method, path, query, headers, body)

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str | None] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Json | None = None,
    ) -> httpx.Response:
        """One request.

        Raises:
            RemoteError: the answer is a problem, or there is none.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        try:
            answer = self._http.request(method, path, params=given, headers=headers, json=body)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if answer.is_success or answer.status_code == httpx.codes.NOT_MODIFIED:
            return answer
        raise remote_error(answer)

    def _unreachable(self, error: httpx.HTTPError) -> RemoteError:
        return RemoteError(
            "UNREACHABLE",
            f"{self._http.base_url} does not answer ({type(error).__name__}): "
            "is the service running? `sparsevit up` starts one",
        )

    def _object(self, answer: httpx.Response) -> Json:
        try:
            value = answer.json()
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise RemoteError("NOT_THIS_SERVICE", f"{self._http.base_url} is another service")
        return value


def _part(text: str) -> str:
    """A string as one part of a path, whatever is in it."""
    return quote(text, safe="")
