"""The one error of this folder: a server of the embedded stack could not be started or kept."""

from service.domain.errors import ServiceError


class EmbeddedError(ServiceError):
    """Says in one text what failed, shows the end of the log where there is one, and what to do."""

    code = "STACK_FAILED"
