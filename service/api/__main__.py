"""Prints the API's description as docs/openapi.json holds it: `python -m service.api`."""

from __future__ import annotations

import sys

from service.api.openapi import as_file
from service.main import create_app
from service.settings import Settings

# Nothing is connected to before the first request.
NOWHERE = Settings(database_url="postgresql://nowhere", redis_url="redis://nowhere")

if __name__ == "__main__":
    sys.stdout.write(as_file(create_app(NOWHERE).openapi()))
