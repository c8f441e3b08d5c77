"""Which tasks there are: ours, and those of other packages by entry point."""

from __future__ import annotations

import importlib
from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from sparsevit.errors import ConfigError

if TYPE_CHECKING:
    from sparsevit.tasks.base import TaskModel

ENTRY_POINTS = "sparsevit.tasks"
# Loaded on first use: a task may need libraries that others do not.
TASKS = {
    "semantic_segmentation": "sparsevit.tasks.semantic:SegmentationModel",
}


@cache
def task_class(name: str) -> type[TaskModel]:
    """The class of a task. ConfigError where there is none of this name."""
    if name in TASKS:
        module, _, attribute = TASKS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        return entry.load()
    raise ConfigError(
        f"there is no task {name!r} here; it is one of {', '.join(TASKS)}, or comes with a package "
        f"that has an entry point in {ENTRY_POINTS!r}."
    )
