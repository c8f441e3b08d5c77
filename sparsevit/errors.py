"""Every error the library raises on purpose: one tree, a caller catches as widely as it likes.

    SparseViTError
    ├── ConfigError             CONFIG_INVALID        a setting, config or table that makes no sense
    ├── CheckpointError         CHECKPOINT_INVALID    any of these four:
    │   ├── CheckpointUnsafe    CHECKPOINT_UNSAFE     would run code, or read elsewhere
    │   ├── CheckpointCorrupt   CHECKPOINT_CORRUPT    not a whole, well-formed file
    │   ├── CheckpointTooLarge  CHECKPOINT_TOO_LARGE  claims more memory than it may have
    │   └── CheckpointMismatch  CHECKPOINT_MISMATCH   well-formed, but not the network asked for
    ├── DatasetError            DATASET_INVALID       images or labels that cannot be used
    ├── DenseMetricMismatch     DENSE_METRIC_MISMATCH the dense model scores other than expected
    ├── DeviceError             DEVICE_UNAVAILABLE    no such device, or it does not answer
    │   ├── DeviceBusy          DEVICE_UNAVAILABLE    its lock stayed taken until the time was up
    │   ├── DeviceUnsuited      DEVICE_UNAVAILABLE    it lacks a precision or a mode
    │   ├── DeviceDisturbed     DEVICE_DISTURBED      too much else ran on it to believe a latency
    │   └── DeviceOutOfMemory   DEVICE_OUT_OF_MEMORY  the work does not fit the device
    │       └── InputTooLarge   DEVICE_OUT_OF_MEMORY  and the largest size that does is known
    ├── BudgetUnreachable       BUDGET_UNREACHABLE    no config is predicted to be that fast
    └── NoFeasibleConfig        NO_FEASIBLE_CONFIG    predicted fast enough, but none measured so

`code` is the stable name that jobs and clients see; the message says what to do. Plain ValueErrors
stay for wrong calls of pure functions (a wrong array shape), which only a programmer can mend.
"""

from __future__ import annotations

from typing import ClassVar

# ruff: noqa: N818 - an error is named for what happened, as its code is.


class SparseViTError(Exception):
    """Base of all errors of the library. `code` is stable; the message is for people.

    passing: whether the same could succeed a moment later; else it is up to whoever asked for it.
    """

    code: ClassVar[str] = "SPARSEVIT_ERROR"
    passing: ClassVar[bool] = False


class ConfigError(SparseViTError):
    """A setting, a sparsity config or a stored table is invalid."""

    code = "CONFIG_INVALID"


class CheckpointError(SparseViTError):
    """Base of what can be wrong with a checkpoint; raised through its subclasses."""

    code = "CHECKPOINT_INVALID"


class CheckpointUnsafe(CheckpointError):
    """The file would run code when loaded, or have files outside its folder read."""

    code = "CHECKPOINT_UNSAFE"


class CheckpointCorrupt(CheckpointError):
    """The file is truncated or malformed."""

    code = "CHECKPOINT_CORRUPT"


class CheckpointTooLarge(CheckpointError):
    """The file claims more memory, or more tensors, than it may have."""

    code = "CHECKPOINT_TOO_LARGE"


class CheckpointMismatch(CheckpointError):
    """The file is well-formed, but its tensors are not those of the network asked for."""

    code = "CHECKPOINT_MISMATCH"


class DatasetError(SparseViTError):
    """Images, labels or their layout cannot be used."""

    code = "DATASET_INVALID"


class DenseMetricMismatch(SparseViTError):
    """The dense model does not reach the metric it is known for: its set-up is wrong."""

    code = "DENSE_METRIC_MISMATCH"


class DeviceError(SparseViTError):
    """The device does not exist here or does not answer."""

    code = "DEVICE_UNAVAILABLE"
    passing = True


class DeviceBusy(DeviceError):
    """The device's lock stayed taken until the time was up."""


class DeviceUnsuited(DeviceError):
    """The device lacks what was asked of it: a precision, a mode."""

    passing = False


class DeviceDisturbed(DeviceError):
    """Other work ran on the device in every attempt to measure: no number of it can be believed."""

    code = "DEVICE_DISTURBED"


class DeviceOutOfMemory(DeviceError):
    """The work does not fit into the device's memory."""

    code = "DEVICE_OUT_OF_MEMORY"


class InputTooLarge(DeviceOutOfMemory):
    """Memory ran out, and a smaller input was tried and fits: the message names it."""

    passing = False


class BudgetUnreachable(SparseViTError):
    """No config of the space is predicted to meet the latency budget.

    `nearest_ms` is the smallest budget that can be met, in milliseconds, where it is known.
    """

    code = "BUDGET_UNREACHABLE"

    def __init__(self, message: str, *, nearest_ms: float | None = None) -> None:
        super().__init__(message)
        self.nearest_ms = nearest_ms


class NoFeasibleConfig(SparseViTError):
    """Configs were predicted to meet the budget, but none was measured to do so."""

    code = "NO_FEASIBLE_CONFIG"
