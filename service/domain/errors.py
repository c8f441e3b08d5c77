"""The service's errors. Every one has a `code` (the API's) and a message that says what to do.

    ServiceError
    ├── SettingsError              SETTINGS_INVALID
    ├── RequestError               what a caller sent cannot be used
    │   ├── MalformedJson          MALFORMED_JSON
    │   ├── BodyTooLarge           BODY_TOO_LARGE
    │   ├── UnsupportedMediaType   UNSUPPORTED_MEDIA_TYPE
    │   ├── ValidationFailed       VALIDATION_FAILED (carries one FieldError per finding)
    │   ├── PathNotAllowed         PATH_NOT_ALLOWED
    │   ├── UrlNotAllowed          URL_NOT_ALLOWED
    │   ├── ArtifactNotFound       ARTIFACT_NOT_FOUND
    │   ├── BudgetUnreachable      BUDGET_UNREACHABLE
    │   ├── IdempotencyKeyInvalid  IDEMPOTENCY_KEY_INVALID
    │   └── IdempotencyKeyReused   IDEMPOTENCY_KEY_REUSED
    ├── Unauthenticated            UNAUTHENTICATED
    ├── Forbidden                  FORBIDDEN
    ├── LimitReached               the owner has as much of something as one may have
    │   ├── TooManyJobs            TOO_MANY_JOBS
    │   └── TooManyStreams         TOO_MANY_STREAMS
    ├── DatabaseUnavailable        DATABASE_UNAVAILABLE
    ├── NotFound                   what was asked for is not there, or not the caller's
    │   ├── JobNotFound            JOB_NOT_FOUND
    │   ├── ReceiptNotFound        RECEIPT_NOT_FOUND
    │   ├── PlotNotFound           PLOT_NOT_FOUND
    │   └── WeightsNotFound        WEIGHTS_NOT_FOUND
    └── Conflict                   the job is not in a state that allows it
        ├── JobAlreadyTerminal     JOB_ALREADY_TERMINAL
        ├── ResultNotReady         RESULT_NOT_READY
        ├── NoFeasibleConfig       NO_FEASIBLE_CONFIG
        ├── NoWeights              NO_WEIGHTS
        └── IdempotencyKeyInFlight IDEMPOTENCY_KEY_IN_FLIGHT

HTTP status codes belong to `service.api.problems`. No message repeats what the caller sent.
"""
# ruff: noqa: N818  (an error is named after the code it answers with)

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class FieldError:
    """One finding about one field: `pointer` is a JSON pointer into the request ("": all of it)."""

    pointer: str
    code: str
    message: str


class ServiceError(Exception):
    """Root of the service's errors; by itself, a fault of the service's own."""

    code: str = "INTERNAL"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class SettingsError(ServiceError):
    """The environment does not describe a service that could run."""

    code = "SETTINGS_INVALID"


class RequestError(ServiceError):
    """What a caller sent cannot be used; `errors` names the fields."""

    def __init__(self, message: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(message)
        self.errors = tuple(errors)

    @classmethod
    def at(cls, pointer: str, message: str) -> RequestError:
        """The error with one finding, at `pointer`."""
        return cls(message, (FieldError(pointer, cls.code, message),))


class MalformedJson(RequestError):
    """The body is not one JSON value in UTF-8."""

    code = "MALFORMED_JSON"


class BodyTooLarge(RequestError):
    """The body is longer than the limit."""

    code = "BODY_TOO_LARGE"


class UnsupportedMediaType(RequestError):
    """The body is not application/json, or it is compressed."""

    code = "UNSUPPORTED_MEDIA_TYPE"


class ValidationFailed(RequestError):
    """Fields, query parameters or headers have values that are refused."""

    code = "VALIDATION_FAILED"


class PathNotAllowed(RequestError):
    """A path leads outside the allow-listed roots, or to something that is no plain file."""

    code = "PATH_NOT_ALLOWED"


class UrlNotAllowed(RequestError):
    """A URL where a path belongs: the service fetches nothing."""

    code = "URL_NOT_ALLOWED"


class ArtifactNotFound(RequestError):
    """A path under an allowed root at which nothing is."""

    code = "ARTIFACT_NOT_FOUND"


class BudgetUnreachable(RequestError):
    """No config is predicted to meet the budget; the message names the nearest possible one."""

    code = "BUDGET_UNREACHABLE"


class IdempotencyKeyInvalid(RequestError):
    """The Idempotency-Key is too long, or no plain text."""

    code = "IDEMPOTENCY_KEY_INVALID"


class IdempotencyKeyReused(RequestError):
    """The Idempotency-Key stands for another request."""

    code = "IDEMPOTENCY_KEY_REUSED"


class Unauthenticated(ServiceError):
    """No key, or none that is known."""

    code = "UNAUTHENTICATED"


class Forbidden(ServiceError):
    """The key is known, but does not open this."""

    code = "FORBIDDEN"


class LimitReached(ServiceError):
    """The owner has as much of something as one may have."""

    code = "LIMIT_REACHED"


class TooManyJobs(LimitReached):
    """The owner has as many jobs under way as one may have."""

    code = "TOO_MANY_JOBS"


class TooManyStreams(LimitReached):
    """The owner has as many event streams open as one may have."""

    code = "TOO_MANY_STREAMS"


class DatabaseUnavailable(ServiceError):
    """The database does not answer; try again."""

    code = "DATABASE_UNAVAILABLE"


class NotFound(ServiceError):
    """What was asked for is not there, or is not the caller's."""

    code = "NOT_FOUND"


class JobNotFound(NotFound):
    """No job of this owner has that id."""

    code = "JOB_NOT_FOUND"


class ReceiptNotFound(NotFound):
    """The job has no receipt of that id."""

    code = "RECEIPT_NOT_FOUND"


class PlotNotFound(NotFound):
    """The job ended without that plot, or its file left the artefact folder."""

    code = "PLOT_NOT_FOUND"


class WeightsNotFound(NotFound):
    """The job made weights, but their file left the artefact folder."""

    code = "WEIGHTS_NOT_FOUND"


class Conflict(ServiceError):
    """The job is not in a state that allows it."""

    code = "CONFLICT"


class JobAlreadyTerminal(Conflict):
    """The job has ended; it can no longer be cancelled."""

    code = "JOB_ALREADY_TERMINAL"


class ResultNotReady(Conflict):
    """The job has no result (yet)."""

    code = "RESULT_NOT_READY"


class NoFeasibleConfig(Conflict):
    """The search ended and no measured configuration is within the budget."""

    code = "NO_FEASIBLE_CONFIG"


class NoWeights(Conflict):
    """The job trained nothing: its config belongs to the checkpoint it was given."""

    code = "NO_WEIGHTS"


class IdempotencyKeyInFlight(Conflict):
    """A request with this Idempotency-Key is being answered at this moment."""

    code = "IDEMPOTENCY_KEY_IN_FLIGHT"
