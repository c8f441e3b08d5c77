"""The library's commands: inspect, adapt, finetune, evaluate, bench, compare. They need no server."""

from __future__ import annotations

import typer

from sparsevit.commands.bench import bench
from sparsevit.commands.compare import compare
from sparsevit.commands.evaluate import evaluate
from sparsevit.commands.inspect import inspect
from sparsevit.commands.training import adapt, finetune

EXAMPLES = {
    inspect: "inspect swin_tiny_patch4_window7_224.pth --json",
    adapt: "adapt model.safetensors /data/city -o supernet.safetensors --epochs 12",
    finetune: "finetune supernet.safetensors /data/city --config best.json -o tuned.safetensors",
    evaluate: "evaluate supernet.safetensors /data/city --config best.json",
    bench: "bench model.safetensors --config best.json --threads 1",
    compare: "compare dense.safetensors /data/city -o runs/compare --resolution 448x896 --narrow .75",
}


def register(app: typer.Typer) -> None:
    """Adds the library's commands to the command line."""
    for command, example in EXAMPLES.items():
        app.command(epilog=f"Example: sparsevit {example}")(command)
