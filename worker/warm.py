"""The sessions a device process keeps loaded between units."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

S = TypeVar("S")


class WarmSessions(Generic[S]):
    """At most `capacity` open sessions, by their arguments; the least recently used goes."""

    def __init__(self, open_session: Callable[[Mapping[str, Any]], S], capacity: int = 2) -> None:
        self._open = open_session
        self._capacity = capacity
        self._sessions: OrderedDict[str, S] = OrderedDict()

    def get(self, arguments: Mapping[str, Any]) -> S:
        """The session of these arguments, opened now if it is not at hand."""
        key = _key(arguments)
        if key not in self._sessions:
            # Make room first: two large models may not fit the device at once.
            while len(self._sessions) >= self._capacity:
                self._sessions.popitem(last=False)
            self._sessions[key] = self._open(arguments)
        self._sessions.move_to_end(key)
        return self._sessions[key]

    def rename(self, arguments: Mapping[str, Any], resolved: Mapping[str, Any]) -> None:
        """Find the session of `arguments` under `resolved` from now on: they mean the same."""
        session = self._sessions.pop(_key(arguments), None)
        if session is not None:
            self._sessions[_key(resolved)] = session

    def clear(self) -> None:
        """Close them all."""
        self._sessions.clear()


def _key(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, sort_keys=True)
