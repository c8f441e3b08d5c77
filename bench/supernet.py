"""Trains and adapts the digits supernet, and measures what its card says.

    python -m bench.supernet            train, adapt with the default score, compare with the shipped
    python -m bench.supernet --scores   also adapt with every other score, and write the card
    python -m bench.supernet --quick    only measure the shipped file, on a few images

Weights go to runs/supernet/; --reuse takes those that stand there instead of training them again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.common import Check, arguments, finish, table
from bench.supernet_card import write_card
from sparsevit import metrics
from sparsevit.data.digits import DigitCanvases
from sparsevit.evaluate import evaluate
from sparsevit.latency.meter import measure_many
from sparsevit.sparsity.config import DEFAULT_SCORE, SCORE_NAMES, SparsityConfig
from sparsevit.sparsity.recall import foreground_recall
from sparsevit.tasks.files import BUILTIN, load_model, save_model
from sparsevit.tasks.semantic import SegmentationModel
from sparsevit.training import digits_recipe as recipe

FOLDER = Path("runs/supernet")
RATIOS = (0.0, 0.3, 0.5, 0.6, 0.7, 0.8)
LEVELS = tuple(round(ratio * 10) for ratio in RATIOS)
BACKGROUNDS = {"smooth": 0, "photographs": 1}  # parity of the canvas index


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument(
        "--scores", action="store_true", help="adapt with every score; write the card"
    )
    parser.add_argument(
        "--reuse", action="store_true", help="take weights that stand in runs/supernet"
    )
    options = parser.parse_args()
    torch.set_num_threads(recipe.THREADS)
    images = 16 if options.quick else 128
    shipped = load_model("builtin:digits")
    results = {"shipped": measure(shipped, DEFAULT_SCORE, images)}
    show("shipped file", results["shipped"])
    checks = shipped_checks(results["shipped"])
    if not options.quick:
        start = time.perf_counter()
        dense = train_dense(options.reuse)
        results["retrained"] = adapted(dense, DEFAULT_SCORE, images, options.reuse)
        results["training_seconds"] = time.perf_counter() - start
        print(f"trained and adapted in {results['training_seconds']:.0f} s")
        show("retrained here", results["retrained"])
        checks += reproduction_checks(results)
    if options.scores:
        # `released` ranks as mean_abs does wherever a stage's first pair drops windows.
        others = [name for name in SCORE_NAMES if name not in (DEFAULT_SCORE, "released")]
        results["scores"] = {DEFAULT_SCORE: results["retrained"]}
        for name in others:
            results["scores"][name] = adapted(dense, name, images, options.reuse)
            show(f"adapted with {name}", results["scores"][name])
        checks += score_checks(results["scores"])
        write_card(results)
    finish("supernet", results, checks, options.check)


def train_dense(reuse: bool) -> dict[str, torch.Tensor]:
    """The dense weights; `make supernet` starts from scratch."""
    path = FOLDER / "dense.safetensors"
    if not (reuse and path.exists()):
        with bar("dense training") as progress:
            save_model(recipe.train_dense(progress), path)
    return load_model(path).state_dict()


def adapted(dense: dict[str, torch.Tensor], score: str, images: int, reuse: bool) -> dict[str, Any]:
    """Adapts the dense weights with `score`, stores them as shipped (fp16), measures the file."""
    path = FOLDER / f"digits-supernet-{score}.safetensors"
    if not (reuse and path.exists()):
        model = recipe.new_model()
        model.load_state_dict(dense)
        with bar(f"adaptation ({score})") as progress:
            recipe.adapt_digits(model, score, progress)
        save_model(model, path, torch.float16)
    return measure(load_model(path), score, images) | {"file": str(path)}


def measure(model: SegmentationModel, score: str, images: int) -> dict[str, Any]:
    """Metrics on the report split, foreground recall and latency of one adapted model."""
    data = DigitCanvases("report", images)
    return {
        "score": score,
        "images": images,
        "metric": metric_table(model, score, data),
        "random_windows": metric_table(model, "random", data),
        "recall": {
            name: foreground_recall(model, score, data, range(parity, images, 2))
            for name, parity in BACKGROUNDS.items()
        },
        "latency": latency_table(model, score),
    }


def metric_table(
    model: SegmentationModel, score: str, data: DigitCanvases
) -> dict[str, list[float]]:
    """Digit mIoU in percent at every ratio, on each kind of background and on all canvases."""
    genes = [(level,) * sum(model.backbone.config.pairs) for level in LEVELS]
    states = {
        name: [metrics.merge(s, model.metric) for s in evaluate(model, genes, score, data, indices)]
        for name, indices in (
            (name, range(parity, len(data), 2)) for name, parity in BACKGROUNDS.items()
        )
    }
    states["all"] = [
        metrics.merge(pair, model.metric) for pair in zip(*states.values(), strict=True)
    ]
    return {
        name: [100 * metrics.value(state, model.metric) for state in rows]
        for name, rows in states.items()
    }


@torch.inference_mode()
def latency_table(model: SegmentationModel, score: str) -> dict[str, Any]:
    """Single-thread latencies at every ratio, whole model and backbone, interleaved with dense."""
    image = torch.randn(1, 3, recipe.CANVAS, recipe.CANVAS)
    pairs = model.backbone.config.pairs

    def run(forward: torch.nn.Module, ratio: float) -> Any:
        model.set_sparsity(SparsityConfig.uniform(pairs, ratio, score))
        return forward(image)

    found = {}
    for scope, forward in (("model", model), ("backbone", model.backbone)):
        timings = measure_many(
            [lambda r=ratio, f=forward: run(f, r) for ratio in RATIOS],
            lambda f=forward: run(f, 0.0),
            device=torch.device("cpu"),
            threads=1,
        )
        found[scope] = {
            "ms": [timing.p50 for timing in timings],
            "of_dense": [timing.ratio for timing in timings],
            "disturbed": any(timing.disturbed for timing in timings),
        }
    return found


def shipped_checks(shipped: dict[str, Any]) -> list[Check]:
    at = RATIOS.index(0.6)
    fall = shipped["metric"]["all"][0] - shipped["metric"]["all"][at]
    return [
        Check(
            "backbone latency at .6, of dense",
            shipped["latency"]["backbone"]["of_dense"][at],
            0.5,
            True,
        ),
        Check("points of digit mIoU lost at .6", fall, 3.0, True),
        Check(
            "size of the shipped file in MB",
            BUILTIN["builtin:digits"].stat().st_size / 1e6,
            3.0,
            True,
        ),
    ]


def reproduction_checks(results: dict[str, Any]) -> list[Check]:
    pairs = zip(
        results["shipped"]["metric"]["all"], results["retrained"]["metric"]["all"], strict=True
    )
    worst = max(abs(a - b) for a, b in pairs)
    return [Check("points between the shipped and the retrained metrics", worst, 1.0, True)]


def score_checks(scores: dict[str, Any]) -> list[Check]:
    """The default score must be the best at equal measured latency, on all canvases."""
    checks = []
    for share in (0.6, 0.45):
        found = {name: metric_at(result, share) for name, result in scores.items()}
        best_other = max(v for k, v in found.items() if k != DEFAULT_SCORE)
        name = f"{DEFAULT_SCORE} over the best other score at {share:.0%} of dense latency, points"
        checks.append(Check(name, found[DEFAULT_SCORE] - best_other, 0.0))
    return checks


def metric_at(result: dict[str, Any], share: float) -> float:
    """Digit mIoU at a share of the dense latency, between the measured ratios linearly; where a
    score cannot get that fast, its fastest."""
    import numpy as np

    latency = result["latency"]["model"]["of_dense"][::-1]
    return float(np.interp(share, latency, result["metric"]["all"][::-1]))


def show(title: str, result: dict[str, Any]) -> None:
    print(f"\n{title}, score {result['score']}, {result['images']} report canvases")
    print(table(["", *(f"{r:g}" for r in RATIOS)], rows_of(result)))
    recall = {k: " ".join(f"{v:.2f}" for v in vs) for k, vs in result["recall"].items()}
    print(f"foreground recall by stage when half is kept: {recall}")


def rows_of(result: dict[str, Any]) -> list[list[str]]:
    rows = [[f"mIoU, {k}", *(f"{v:.1f}" for v in vs)] for k, vs in result["metric"].items()]
    random = result["random_windows"]["all"]
    rows.append(["mIoU, all, random windows", *(f"{v:.1f}" for v in random)])
    for scope in ("model", "backbone"):
        latency = result["latency"][scope]
        cells = zip(latency["ms"], latency["of_dense"], strict=True)
        rows.append([f"{scope} ms (of dense)", *(f"{ms:.1f} ({share:.0%})" for ms, share in cells)])
    return rows


@contextmanager
def bar(what: str) -> Iterator[recipe.StageProgress]:
    from sparsevit.commands.common import training_bar

    with training_bar(what) as update:
        yield lambda stage, done, total, loss: update(done, total, loss)


if __name__ == "__main__":
    main()
