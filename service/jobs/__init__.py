"""What callers may do: submit a search, ask what one could reach, and handle the jobs they have.

submission  SubmissionService: submit, submit_once, dry_run
service     JobService: get, candidates, receipt, page, cancel; shown within a session
"""

from service.jobs.service import JobService, shown
from service.jobs.submission import Once, SubmissionService

__all__ = ["JobService", "Once", "SubmissionService", "shown"]
