"""What the embedded Postgres and Redis share: a folder held alone, one child process, a port."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from service.embedded.accounts import ServerAccount, folder_lock, make_folder
from service.embedded.errors import EmbeddedError
from service.embedded.processes import ChildProcess, start_on_free_port


class EmbeddedServer(ABC):
    """A server with everything it keeps in `folder`; use it as a context manager.

    One process at a time may hold the folder. log: its output; by default in the folder.
    """

    name: ClassVar[str]

    def __init__(self, folder: Path, *, log: Path | None = None) -> None:
        self._folder = folder
        self._log = log or folder / "log"
        self._account = ServerAccount.current()
        self._held = ExitStack()
        self._child: ChildProcess | None = None
        self._port = 0

    @property
    def process(self) -> ChildProcess:
        """The running server."""
        if self._child is None:
            raise EmbeddedError(f"{self.name} is not running")
        return self._child

    def start(self) -> Self:
        """Start, and return once the server answers. Call it from the main thread."""
        self._account.require_reach(self._folder)
        make_folder(self._folder)
        self._held.enter_context(folder_lock(self._folder))
        try:
            program = self._prepare()
            self._port = start_on_free_port(lambda port: self._start_on(program, port))
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop it; nothing that was written is lost; safe to call twice."""
        if self._child is not None:
            self._child.stop()
        self._child = None
        self._held.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @abstractmethod
    def _prepare(self) -> Path:
        """Put the data in order; returns the program to run."""

    @abstractmethod
    def _start_on(self, program: Path, port: int) -> None:
        """Start the program on that port, as `self._child`, and wait until it answers."""
