"""What callers may do: submit a search, ask what one could reach, and handle the jobs they have.

submission  SubmissionService: submit, dry_run
service     JobService: get, candidates, receipt, page, cancel
"""

from service.jobs.service import JobService
from service.jobs.submission import SubmissionService

__all__ = ["JobService", "SubmissionService"]
