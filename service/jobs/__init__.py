"""What callers may do: submit a search, ask what one could reach, and handle the jobs they have.

submission  SubmissionService: submit, submit_once, dry_run
service     JobService: get, candidates, receipt, page, cancel; owned
"""

from service.jobs.service import JobService, owned
from service.jobs.submission import Once, SubmissionService

__all__ = ["JobService", "Once", "SubmissionService", "owned"]
