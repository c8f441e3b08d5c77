"""The service's commands of the console command `sparsevit`.

common      which service and key a command talks to, how errors are told
search      search, watch
calibrate   calibrate, devices
jobs        jobs, job, cancel, config, pareto
keys        keys create, list, revoke
retention   retention: lets old jobs and their files go
up          up: everything on one machine
demo        demo: a search from nothing to files, and what it posts
request     the request that search and calibrate post
answers     a dry run's answer: waits for it, shows it
progress    the progress bar of a job
summary     the table dense against best
"""

from __future__ import annotations

import typer

from service.commands import calibrate, demo, jobs, keys, retention, search, up
from service.commands.common import told


def register(app: typer.Typer) -> None:
    """Add the commands to the application; called by the entry point group `sparsevit.commands`."""
    for module in (up, search, calibrate, jobs, demo, retention):
        for command, epilog in module.COMMANDS:
            name = command.__name__.rstrip("_")
            app.command(name, epilog=f"Example: {epilog}")(told(command))
    keys.register(app)
