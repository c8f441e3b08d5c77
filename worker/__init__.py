"""Celery workers: lease a unit of a job from Postgres, run it with the library, keep the result."""
