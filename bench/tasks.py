"""The task layer: what trainings give on the digits set, and what evaluation costs.

    python -m bench.tasks                    both parts; training takes about 45 minutes on 2 cores
    python -m bench.tasks --parts overhead   evaluation beside a plain loop around the same model

What is trained stays in runs/tasks, network by network and result by result: a run that was stopped
goes on from there, and a run from the start needs that folder gone.
"""

from __future__ import annotations

from typing import Any

from bench.common import Check, arguments, finish
from bench.tasks_overhead import overhead
from bench.tasks_training import training

PARTS = ("overhead", "training")


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--parts", default=",".join(PARTS), help="parts to run, with commas")
    parser.add_argument("--seeds", type=int, default=3, help="networks trained from scratch")
    options = parser.parse_args()
    parts = options.parts.split(",")
    results: dict[str, Any] = {}
    checks: list[Check] = []
    if "overhead" in parts:
        results["overhead"], found = overhead(16 if options.quick else 64)
        checks += found
    if "training" in parts:
        results["training"], found = training(1 if options.quick else options.seeds, options.quick)
        checks += found
    finish("tasks", results, checks, options.check)


if __name__ == "__main__":
    main()
