"""Log lines: one form for the API, the workers and their device processes.

A line says what it is about. Inside of `about(job=..., unit=...)` every line of that thread or request
carries these fields, whoever writes it. Control characters are escaped, so that nothing a line quotes
can begin another one, and keys and passwords never get into it.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

LogFormat = Literal["json", "text"]
FIELDS = ("request_id", "job", "unit", "attempt", "device", "worker")
OWN_LOGGERS = ("service", "worker", "sparsevit")

_ABOUT: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))
_SECRETS = (
    (re.compile(r"svit_[A-Za-z0-9_-]+"), "svit_***"),
    (re.compile(r"(?i)(\bbearer\s+)[^\s\"'\\]+"), r"\1***"),
    (re.compile(r"(://[^\s:/@]*:)[^\s/@]+@"), r"\1***@"),
)
# Of a traceback the line feeds stay: its lines are indented, which no line of a log is.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_INNER_CONTROLS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@contextmanager
def about(**fields: Any) -> Iterator[None]:
    """Lines written inside carry `fields`, whose names are those of FIELDS."""
    token = _ABOUT.set({**_ABOUT.get(), **fields})
    try:
        yield
    finally:
        _ABOUT.reset(token)


def written_about(field: str) -> Any:
    """What lines that are written here carry as that field; None where they carry none."""
    return _ABOUT.get().get(field)


def configure(level: str, log_format: LogFormat, **always: Any) -> None:
    """A process writes its log to standard error: its own lines from `level` up, other packages'
    warnings. `always`: fields of every line."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines(always) if log_format == "json" else TextLines(always))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    for name in OWN_LOGGERS:
        logging.getLogger(name).setLevel(level)


class _Lines(logging.Formatter):
    """What both forms share: which fields a line has."""

    def __init__(self, always: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._always = dict(always or {})

    def _fields(self, record: logging.LogRecord) -> dict[str, Any]:
        known = {**self._always, **_ABOUT.get(), **record.__dict__}
        return {name: known[name] for name in FIELDS if known.get(name) is not None}


class JsonLines(_Lines):
    """One JSON object a line: time, level, logger, message, what it is about, and a traceback as
    `error`."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, in ASCII."""
        line = {
            "time": _time(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return _without_secrets(json.dumps(line, default=str))


class TextLines(_Lines):
    """A line for people; a traceback follows it, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = " ".join(f"{name}={value}" for name, value in self._fields(record).items())
        line = f"{_time(record)} {record.levelname} {record.name}: {record.getMessage()}"
        line = _CONTROLS.sub(_escaped, f"{line} [{fields}]" if fields else line)
        if record.exc_info:
            text = _INNER_CONTROLS.sub(_escaped, self.formatException(record.exc_info))
            line += "".join(f"\n    {part}" for part in text.split("\n"))
        return _without_secrets(line)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _escaped(found: re.Match[str]) -> str:
    return ascii(found[0])[1:-1]


def _without_secrets(text: str) -> str:
    for secret, instead in _SECRETS:
        text = secret.sub(instead, text)
    return text
