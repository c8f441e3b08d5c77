"""sparsevit calibrate, devices: what latencies a network can have, and where that is known."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from service.commands.answers import (
    accuracy_text,
    figures_text,
    input_text,
    job_id,
    notes_table,
    settled,
    share_text,
)
from service.commands.common import JsonOption, KeyOption, UrlOption, connect, output, print_json
from service.commands.request import (
    BatchOption,
    CheckpointArgument,
    DatasetArgument,
    DeviceOption,
    HeightOption,
    LimitOption,
    ModeOption,
    PrecisionOption,
    ScoreOption,
    SearchSplitOption,
    ThreadsOption,
    WidthOption,
    network_fields,
)
from service.domain.latency import feasible_share


def calibrate(
    checkpoint: CheckpointArgument,
    dataset: DatasetArgument,
    device: DeviceOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    batch: BatchOption = None,
    precision: PrecisionOption = None,
    mode: ModeOption = None,
    threads: ThreadsOption = None,
    score: ScoreOption = None,
    search_split: SearchSplitOption = None,
    limit: LimitOption = None,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a network's latencies on a device, and show which budgets leave how much."""
    fields = network_fields(
        checkpoint,
        dataset,
        device=device,
        score=score,
        split={"search_split": search_split, "limit": limit},
        input={
            "height": height,
            "width": width,
            "batch": batch,
            "precision": precision,
            "mode": mode,
            "threads": threads,
        },
    )
    with connect(url, key) as client:
        # A request has a budget; what is shown here is the same for all of them.
        answer = settled(client, {**fields, "latency_budget": "100%"})
        latency = client.job(job_id(answer))["latency"]
    if as_json:
        print_json(latency)
        return
    console = output()
    console.print(figures_text(latency))
    console.print(notes_table(latency, answer["verdicts"]))


def devices(url: UrlOption = None, key: KeyOption = None, as_json: JsonOption = False) -> None:
    """List devices, and the latency maps that stand for them."""
    with connect(url, key) as client:
        found = client.devices()
    if as_json:
        print_json(found)
        return
    console = output()
    if not found:
        console.print("no device is known: no worker was started yet")
    for device in found:
        online = device["workers_online"]
        console.print(f"{device['name']} ({device['kind']}), workers online: {online}")
        if device["latency_maps"]:
            console.print(maps_table(device["latency_maps"]))


def maps_table(latency_maps: list[dict[str, Any]]) -> Table:
    """A device's maps: latencies of the model, and what 60% of dense leaves."""
    columns = ("input", "score", "dense ms", "configs ms", "within 60%", "accuracy", "made", "")
    table = Table(*(f"  {columns[0]}", *columns[1:]), box=None, pad_edge=False)
    for one in latency_maps:
        model = one["scopes"]["model"]
        marks = [mark for mark in ("stale", "disturbed") if one[mark]]
        table.add_row(
            f"  {input_text(one['input'])}",
            one["score"],
            f"{model['dense_ms']:.2f}",
            f"{model['min_ms']:.2f} - {model['max_ms']:.2f}",
            share_text(feasible_share(model["feasible"], 0.6 * model["dense_ms"])),
            accuracy_text(one["accuracy"], short=True),
            str(one["created_at"])[:16].replace("T", " "),
            ", ".join(marks),
        )
    return table


COMMANDS = [
    (calibrate, "sparsevit calibrate builtin:digits builtin:digits --threads 1"),
    (devices, "sparsevit devices"),
]
