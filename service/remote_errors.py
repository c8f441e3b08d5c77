"""What a service answered instead of a result, as the client's exception."""

from __future__ import annotations

from typing import Any

import httpx

from service.domain.errors import FieldError, ServiceError


class RemoteError(ServiceError):
    """What the service answered instead of a result, or that it did not answer.

    `code` is the API's, or UNREACHABLE; `errors` names the fields that were refused.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int | None = None,
        errors: tuple[FieldError, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.errors = errors

    @property
    def passing(self) -> bool:
        """Whether the service is away, or busy with this: the same request may get an answer later."""
        away = self.code == "UNREACHABLE" or self.status == httpx.codes.SERVICE_UNAVAILABLE
        return away or self.code == "IDEMPOTENCY_KEY_IN_FLIGHT"


def remote_error(answer: httpx.Response) -> RemoteError:
    """The error a problem+json answer describes; something plain where it is none."""
    status = answer.status_code
    try:
        problem: Any = answer.json()
        errors = tuple(
            FieldError(item["pointer"], item["code"], item["message"]) for item in problem["errors"]
        )
        return RemoteError(problem["code"], problem["detail"], status, errors)
    except (ValueError, KeyError, TypeError):
        return RemoteError(f"HTTP_{status}", f"the answer was HTTP {status}", status)
