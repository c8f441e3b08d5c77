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
    "classification": "sparsevit.tasks.classification:ClassificationModel",
    "semantic_segmentation": "sparsevit.tasks.semantic:SegmentationModel",
    "instance_segmentation": "sparsevit.tasks.maskrcnn.model:MaskRCNN",
    "detection_3d": "sparsevit.tasks.bev_detection:BEVDet",
    "upernet": "sparsevit.tasks.upernet:UperNet",
    "mask2former": "sparsevit.tasks.mask2former:Mask2Former",
    "mask2former_instance": "sparsevit.tasks.mask2former_instance:Mask2FormerInstance",
}


def task_names() -> list[str]:
    """Every name that `task_class` knows."""
    return [*TASKS, *sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))]


@cache
def task_class(name: str) -> type[TaskModel]:
    """The model of a task: by the task's name, or its own where a task has several.

    ConfigError where there is none of this name.
    """
    if name in TASKS:
        module, _, attribute = TASKS[name].partition(":")
        return getattr(importlib.import_module(module), attribute)
    for entry in entry_points(group=ENTRY_POINTS, name=name):
        return entry.load()
    raise ConfigError(
        f"there is no task {name!r} here; it is one of {', '.join(TASKS)}, or comes with a package "
        f"that has an entry point in {ENTRY_POINTS!r}."
    )
