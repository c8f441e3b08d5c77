"""What a device process does: one runner per kind of unit, all on warm sessions of the library.

A runner is a thin wrapper, JSON in and JSON out, round one method of
`sparsevit.search.steps.Session`; the in-process search calls the same methods.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from service.domain.status import TRAINING_KINDS
from worker.files import (
    check_checkpoint,
    check_dataset,
    check_files,
    check_training,
    confine_to,
)
from worker.requests import session_arguments
from worker.runners import calibrate, evaluate, inspect, measure, probe, train
from worker.warm import WarmSessions

if TYPE_CHECKING:
    from sparsevit.search.steps import Session
    from worker.device import Progress

Runner = Callable[["Session", Mapping[str, Any], "Progress"], dict[str, Any]]

RUNNERS: dict[str, Runner] = {
    "inspect": inspect.run,
    "calibrate": calibrate.run,
    "adapt": train.adapt,
    "evaluate": evaluate.run,
    "probe": probe.run,
    "measure": measure.run,
    "finetune": train.finetune,
}

CHECKS = ("files", "inspected")
"""Arguments that say what a session must be opened on, not how."""


class SessionWork:
    """Runs units on `device` ("cpu", "cuda:0") with the library; see worker.device.Work."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._sessions: WarmSessions[Session] = WarmSessions(self._open)

    def hello(self) -> dict[str, Any]:
        """Open the device and say what it is. Raises DeviceError."""
        import torch

        import sparsevit
        from sparsevit.latency.memory import limit_memory
        from sparsevit.latency.receipt import device_facts

        if self._device == "cpu":  # a GPU says by itself when it has no more
            limit_memory()
        versions = {
            "sparsevit": sparsevit.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        return {"device": device_facts(self._device), "versions": versions}

    def run(self, request: Mapping[str, Any], report: Progress) -> dict[str, Any]:
        """Run one unit in the session it names. Raises SparseViTError."""
        arguments = request["session"]
        confine_to(arguments["files"])
        check_files(arguments["files"])
        session = self._sessions.get(arguments)
        if request["kind"] == "measure":
            # Its document names the data set's hash: the images must still be those.
            check_dataset(session.dataset_sha256(), arguments["inspected"])
        if request["kind"] in TRAINING_KINDS:
            check_training(session.training_sha256(), arguments["inspected"])
        result = RUNNERS[request["kind"]](session, request["payload"], report)
        if request["kind"] == "inspect":
            resolved = session_arguments(arguments, arguments["files"], result)
            self._sessions.rename(arguments, resolved)
        return result

    def forget(self) -> None:
        """Close every session and give the device's cached memory back."""
        import torch

        from sparsevit.latency.allocator import release_memory
        from sparsevit.latency.memory import renew_limit

        self._sessions.clear()
        release_memory()
        renew_limit()
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _open(self, arguments: Mapping[str, Any]) -> Session:
        from sparsevit.search.steps import Session

        named = {name: value for name, value in arguments.items() if name not in CHECKS}
        session = Session(device=self._device, **named)
        check_files(arguments["files"])  # nor did they change while they were read
        check_checkpoint(session.model.weights_sha256, arguments["inspected"])
        return session
