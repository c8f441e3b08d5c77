"""What every benchmark does alike: arguments, tables, results as JSON, checks."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Check:
    """A claim: `value` must reach `target`, upwards or downwards."""

    name: str
    value: float
    target: float
    at_most: bool = False

    @property
    def holds(self) -> bool:
        return self.value <= self.target if self.at_most else self.value >= self.target

    def __str__(self) -> str:
        sign = "<=" if self.at_most else ">="
        verdict = "ok" if self.holds else "MISSED"
        return f"{verdict:6} {self.name}: {self.value:.3f} {sign} {self.target:.3f}"


def arguments(description: str) -> argparse.ArgumentParser:
    """The two arguments that every benchmark takes."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="a small run that only shows it works")
    parser.add_argument("--check", action="store_true", help="exit 1 where a target is missed")
    return parser


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """The facts of the machine that the numbers were made on."""
    from sparsevit.latency.receipt import device_facts, host_facts, library_versions

    return {
        "device": device_facts("cpu"),
        "host": host_facts(),
        "versions": library_versions(),
    }


def finish(name: str, results: dict[str, Any], checks: Sequence[Check], enforce: bool) -> None:
    """Writes results/NAME.json, prints the checks, exits 1 if one is missed and `enforce` is set."""
    RESULTS.mkdir(exist_ok=True)
    document = {
        "machine": machine(),
        **results,
        "checks": [{**vars(c), "holds": c.holds} for c in checks],
    }
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    print()
    for check in checks:
        print(check)
    print(f"wrote {path}")
    missed = [check for check in checks if not check.holds]
    if enforce and missed:
        sys.exit(f"{len(missed)} of {len(checks)} targets missed: {missed[0].name}")
