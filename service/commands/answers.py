"""What is known of latencies before a search: waits for a dry run's answer, and shows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.table import Table

from service.commands.common import CommandError, messages, require_success
from service.domain.latency import feasible_share

if TYPE_CHECKING:
    from service.client import Client

Figures = Mapping[str, Any]
SHARES = (80, 70, 60, 50, 40)
FIGURES = (
    ("dense, ms", "dense_ms"),
    ("fastest config, ms", "min_ms"),
    ("slowest config, ms", "max_ms"),
    ("nearest possible budget, ms", "nearest_ms"),
)


def settled(client: Client, request: dict[str, Any]) -> dict[str, Any]:
    """A dry run's answer; where it must be measured first, progress is shown until it is.

    Raises:
        CommandError: it could not be measured.
    """
    from service.commands.progress import follow

    answer = client.dry_run(request)
    while answer["inspection"] == "pending":
        require_success(follow(client, job_id(answer), messages()))
        answer = client.dry_run(request)
    if answer["inspection"] == "failed":
        raise CommandError(f"{answer['error']['code']}: {answer['error']['message']}")
    return answer


def job_id(answer: Figures) -> str:
    """The id of the job that has the answer's figures."""
    return str(answer["job"]).rpartition("/")[2]


def budget_text(found: Figures) -> Group:
    """What a dry run found at one input: the budget among the latencies that can be reached."""
    dense, budget, nearest = (found[name] for name in ("dense_ms", "budget_ms", "nearest_ms"))
    within = (
        f"{share_text(found['feasible_share'])} of the configs"
        if found["reachable"]
        else f"none: the nearest possible budget is {nearest:.3f} ms ({nearest / dense:.1%})"
    )
    rows = [
        ("dense", f"{dense:.2f} ms"),
        ("configs", f"{found['min_ms']:.2f} to {found['max_ms']:.2f} ms, as predicted"),
        ("budget", f"{budget:.2f} ms ({budget / dense:.1%} of dense)"),
        ("within it", within),
    ]
    at = f" at {input_text(found['input'])}" if "input" in found else ""  # of several
    return Group(f"latency of the {found['scope']} on {found['device']}{at}", _table(rows))


def figures_text(latency: Figures) -> Group:
    """What a calibration found, both scopes side by side."""
    scopes = [latency["scopes"][name] for name in ("model", "backbone")]
    rows = [("", "model", "backbone")]
    for what, name in FIGURES:
        rows.append((what, *(f"{scope[name]:.2f}" for scope in scopes)))
    for percent in SHARES:
        shares = [
            feasible_share(scope["feasible"], scope["dense_ms"] * percent / 100) for scope in scopes
        ]
        rows.append((f"configs within {percent}% of dense", *map(share_text, shares)))
    title = f"{latency['device']}, {input_text(latency['input'])}, score {latency['score']}"
    return Group(title, _table(rows))


def notes_table(latency: Figures, verdicts: Sequence[str]) -> Table:
    """How far to trust the figures, and what the input's size costs."""
    rows = [("map accuracy", accuracy_text(latency["accuracy"]))]
    if latency["disturbed"]:
        rows.append(("disturbed", "the device was busy with something else: a rough measurement"))
    rows.append(("padding", padding_text(latency["padding"])))
    rows += [
        (
            "without padding",
            f"{size['height']} x {size['width']}: {size['predicted_ms']:.2f} ms dense, predicted",
        )
        for size in latency["aligned"]
    ]
    rows += [("verdict", verdict) for verdict in verdicts]
    return _table(rows)


def range_text(figures: Figures) -> str:
    """'dense 43.00 ms, configs 11.20 to 43.00 ms'."""
    low, high = figures["min_ms"], figures["max_ms"]
    return f"dense {figures['dense_ms']:.2f} ms, configs {low:.2f} to {high:.2f} ms"


def share_text(share: float) -> str:
    """A share of the configs; what is nearly none is not shown as none."""
    return "under 0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def input_text(shape: Figures) -> str:
    """'448 x 448, batch 1, fp32, eager, 1 thread'."""
    text = (
        f"{shape['height']} x {shape['width']}, batch {shape['batch']}, {shape['precision']}, "
        f"{shape['mode']}"
    )
    threads = shape["threads"]
    return text if threads is None else f"{text}, {threads} thread{'s' * (threads > 1)}"


def accuracy_text(accuracy: Figures | None, short: bool = False) -> str:
    """How well the map predicts; short: the mean error alone."""
    if accuracy is None:
        return "not measured"
    if short:
        return f"{accuracy['mean_error']:.1%} off"
    return (
        f"mean error {accuracy['mean_error']:.1%}, largest {accuracy['max_error']:.1%}, rank "
        f"correlation {accuracy['rank_correlation']:.3f} over {accuracy['configs']} configs; the "
        f"noise alone makes {accuracy['noise_floor']:.1%}"
    )


def padding_text(padding: Sequence[Figures]) -> str:
    """Tokens computed beside the image's, by stage."""
    if all(one["padded"] == one["real"] for one in padding):
        return "none"
    return ", ".join(f"stage {one['stage'] + 1}: +{one['ratio'] - 1:.0%}" for one in padding)


def _table(rows: Sequence[tuple[str, ...]]) -> Table:
    """Rows whose first column says what is in the others; numbers, if several, to the right."""
    table = Table(show_header=False, box=None, pad_edge=False)
    numbers = len(rows[0]) > 2
    for column in range(len(rows[0])):
        table.add_column(justify="right" if numbers and column else "left")
    for row in rows:
        table.add_row(*row)
    return table
