"""Alembic migrations of the service's database; `service.db.migrate` applies them."""
