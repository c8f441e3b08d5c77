"""Speed and memory of the backbone: ours dense and sparse beside the dense Swin of other libraries.

One process, one thread, thread time on a CPU and events on CUDA; all cases take turns, and a ratio
is the median of the ratios of each round. Other libraries take part where they are installed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bench.backbone_parts import peak_memory, where_time_goes
from bench.common import Check, arguments, finish, table
from bench.peers import installed_peers
from sparsevit.latency.timers import device_timer
from sparsevit.sparsity.config import DEFAULT_SCORE, SparsityConfig
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.model import SparseSwin

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
SCORES = ("l2", DEFAULT_SCORE)
TINY = SwinConfig()
LARGE = SwinConfig(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48))
# (precision, ratio) -> least speed-up over our own dense network and over the fastest dense peer.
TARGETS = {
    ("fp32", 0.6): (2.2, 2.3),
    ("fp32", 0.8): (3.8, 4.0),
    ("bf16", 0.6): (2.2, 2.4),
    ("fp32", 0.0): (None, 0.95),
    ("bf16", 0.0): (None, 1.0),
}


@dataclass(frozen=True)
class Case:
    """One contestant: who, at which ratio and score, in which mode (eager, compiled, cuda_graph)."""

    who: str
    mode: str = "eager"
    ratio: float = 0.0
    score: str = "l2"

    @property
    def name(self) -> str:
        score = f", {self.score}" if self.ratio else ""
        ours = f" {self.ratio:g}{score}" if self.who == "ours" else ""
        return f"{self.who}{ours} ({self.mode})"


@dataclass(frozen=True)
class Setting:
    """One table: network, input and number of rounds."""

    title: str
    config: SwinConfig
    batch: int
    size: tuple[int, int]
    precision: str
    compiled: bool = False

    def images(self, device: torch.device) -> Tensor:
        generator = torch.Generator().manual_seed(0)
        images = torch.randn(self.batch, self.config.in_channels, *self.size, generator=generator)
        return images.to(device, TYPES[self.precision])


def settings(quick: bool) -> list[Setting]:
    if quick:
        return [Setting("Swin-T 1 x 224 x 224", TINY, 1, (224, 224), "fp32")]
    main = [Setting("Swin-T 1 x 672 x 672", TINY, 1, (672, 672), p, compiled=True) for p in TYPES]
    return [
        *main,
        Setting("Swin-T 4 x 672 x 672", TINY, 4, (672, 672), "fp32"),
        Setting("Swin-T 1 x 1024 x 2048", TINY, 1, (1024, 2048), "fp32"),
        Setting("Swin-L 1 x 672 x 672", LARGE, 1, (672, 672), "fp32"),
    ]


def run_setting(
    setting: Setting, device: torch.device, rounds: int
) -> tuple[dict[Case, np.ndarray], dict[str, int]]:
    """ms of every case in every round, and the windows' MACs by ratio."""
    torch.compiler.reset()  # past a number of graphs the compiler would give up without a word
    images = setting.images(device)
    torch.manual_seed(0)
    ours = SparseSwin(setting.config).eval().to(device, TYPES[setting.precision])
    peers = installed_peers(setting.config, setting.size)
    runs = _peer_runs(peers, setting, device, images) | _our_runs(ours, setting, device, images)
    timer = device_timer(device, time.thread_time_ns)
    with torch.inference_mode():
        for run in runs.values():
            for _ in range(2):
                run()
        samples = [[timer(run) for run in runs.values()] for _ in range(rounds)]
        macs = {f"{r:g}": _macs(ours, r, images) for r in (0.0, 0.6, 0.8)}
    columns = np.array(samples).T
    return dict(zip(runs, columns, strict=True)), macs


def _peer_runs(
    peers: dict[str, nn.Module], setting: Setting, device: torch.device, images: Tensor
) -> dict[Case, Callable[[], Any]]:
    runs: dict[Case, Callable[[], Any]] = {}
    for name, peer in peers.items():
        peer.to(device, images.dtype)
        for mode in modes(setting, device):
            runs[Case(name, mode)] = _in_mode(peer, mode, images)
    return runs


def _our_runs(
    model: SparseSwin, setting: Setting, device: torch.device, images: Tensor
) -> dict[Case, Callable[[], Any]]:
    runs: dict[Case, Callable[[], Any]] = {}
    for mode in modes(setting, device):
        for ratio in (0.0, 0.6, 0.8):
            for score in SCORES if ratio else SCORES[:1]:
                model.set_sparsity(SparsityConfig.uniform(model.config.pairs, ratio, score))
                forward = _in_mode(model, mode, images)
                runs[Case("ours", mode, ratio, score)] = _sparse(model, model.sparsity, forward)
    return runs


def _sparse(
    model: SparseSwin, sparsity: SparsityConfig, forward: Callable[[], Any]
) -> Callable[[], Any]:
    def run() -> None:
        model.set_sparsity(sparsity)
        forward()

    return run


def modes(setting: Setting, device: torch.device) -> tuple[str, ...]:
    compiled = ("compiled",) if setting.compiled else ()
    return ("eager", *compiled, *(("cuda_graph",) if device.type == "cuda" else ()))


def _in_mode(model: nn.Module, mode: str, images: Tensor) -> Callable[[], Any]:
    if mode == "eager":
        return lambda: model(images)
    if mode == "compiled":
        compiled = torch.compile(model)
        with torch.inference_mode():
            compiled(images)  # compiled for the model's sparsity as it is now
        return lambda: compiled(images)
    with torch.inference_mode():
        for _ in range(3):
            model(images)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            model(images)
    return graph.replay


def _macs(model: SparseSwin, ratio: float, images: Tensor) -> int:
    model.set_sparsity(SparsityConfig.uniform(model.config.pairs, ratio, "l2"))
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(images[:1])
    return counter.get_total_flops() // 2


def speedup(samples: dict[Case, np.ndarray], slow: Case, fast: Case) -> float:
    return float(np.median(samples[slow] / samples[fast]))


def fastest_peer(samples: dict[Case, np.ndarray]) -> Case | None:
    peers = [case for case in samples if case.who != "ours"]
    return min(peers, key=lambda case: float(np.median(samples[case])), default=None)


def rows_of(samples: dict[Case, np.ndarray], macs: dict[str, int]) -> list[dict[str, Any]]:
    """One row a case: median ms, speed-up over our dense network in the same mode and over the
    fastest dense peer in any mode, and what the MACs alone would allow."""
    peer, rows = fastest_peer(samples), []
    for case, ms in samples.items():
        ours = case.who == "ours"
        allowed = macs["0"] / macs[f"{case.ratio:g}"] if ours else None
        own = speedup(samples, Case("ours", case.mode), case) if ours else None
        rows.append(
            {
                "case": case.name,
                **vars(case),
                "ms": float(np.median(ms)),
                "over_own_dense": own,
                "over_fastest_peer": speedup(samples, peer, case) if peer else None,
                "by_macs": allowed,
            }
        )
    return rows


def checks_of(setting: Setting, samples: dict[Case, np.ndarray]) -> list[Check]:
    peer, checks = fastest_peer(samples), []
    for (precision, ratio), (own, over_peer) in TARGETS.items():
        if precision != setting.precision:
            continue
        for score in SCORES if ratio else SCORES[:1]:
            ours = [c for c in samples if (c.who, c.ratio, c.score) == ("ours", ratio, score)]
            label = f"{precision} {ratio:g}" + (f" {score}" if ratio else "")
            if own is not None:
                best = max(speedup(samples, Case("ours", c.mode), c) for c in ours)
                checks.append(Check(f"{label}: over own dense", best, own))
            if peer is not None:
                best = max(speedup(samples, peer, c) for c in ours)
                checks.append(Check(f"{label}: over {peer.name}", best, over_peer))
    return checks


def print_rows(rows: Sequence[dict[str, Any]]) -> None:
    def number(value: float | None) -> str:
        return "" if value is None else f"{value:.2f}"

    columns = ["", "ms", "over own dense", "over fastest dense peer", "by MACs alone"]
    keys = ("over_own_dense", "over_fastest_peer", "by_macs")
    print(
        table(columns, [[r["case"], f"{r['ms']:.1f}", *(number(r[k]) for k in keys)] for r in rows])
    )


def parse() -> argparse.Namespace:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cpu", help="cpu or cuda:0")
    parser.add_argument("--rounds", type=int, default=11, help="how often each case is timed")
    return parser.parse_args()


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    device, results, checks = torch.device(options.device), [], []
    for setting in settings(options.quick):
        rounds = 3 if options.quick else options.rounds if setting.compiled else 7
        print(f"\n{setting.title}, {setting.precision}, {options.device}\n")
        samples, macs = run_setting(setting, device, rounds)
        rows = rows_of(samples, macs)
        print_rows(rows)
        results.append({"title": setting.title, "precision": setting.precision, "rows": rows})
        if setting.compiled and device.type == "cpu":
            checks += checks_of(setting, samples)
    memory = peak_memory(options.device, (224, 224) if options.quick else (672, 672))
    profile = where_time_goes(options.device, (224, 224) if options.quick else (672, 672))
    peers = [mb for name, mb in memory.items() if not name.startswith("ours")]
    if peers:
        ours = max(mb for name, mb in memory.items() if name.startswith("ours"))
        checks.append(Check("peak memory over the leanest peer's", ours / min(peers), 1.0, True))
    document = {"settings": results, "peak_memory_mb": memory, "profile": profile}
    finish("backbone", document, checks, options.check)


if __name__ == "__main__":
    main()
