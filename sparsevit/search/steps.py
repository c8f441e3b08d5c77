"""The computations of a search: inspect, calibrate, evaluate, measure. Training is in training.py.

The in-process search (`run_search`) and the service's workers call the same methods: what a job
finds is what the library finds.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import sparsevit
from sparsevit import metrics
from sparsevit.data.base import Dataset, Splits, shard_indices
from sparsevit.data.cache import cached
from sparsevit.data.preprocess import Preprocess
from sparsevit.data.sources import dataset_sha256, open_splits, training_sha256
from sparsevit.errors import CheckpointMismatch, DeviceOutOfMemory, InputTooLarge
from sparsevit.evaluate import evaluate
from sparsevit.latency.allocator import allocator, keep_memory
from sparsevit.latency.calibrate import calibrate
from sparsevit.latency.measurement import Measurement
from sparsevit.latency.memory import memory_errors
from sparsevit.latency.modes import apply_mode
from sparsevit.latency.receipt import device_facts, receipt
from sparsevit.latency.timers import thread_count
from sparsevit.search.fitting import too_large
from sparsevit.search.inputs import PRECISIONS, check_precision, fill_input, open_device
from sparsevit.search.inspection import inspect
from sparsevit.search.latency_map import LatencyMap, Scope, map_facts
from sparsevit.search.racing import folds_of_shard
from sparsevit.search.verify import Verification
from sparsevit.search.verify_again import verify_again
from sparsevit.sparsity.config import DEFAULT_SCORE, MAX_LEVEL, Genes, SparsityConfig
from sparsevit.sparsity.score import get_score
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.files import load_model

Progress = Callable[[int, int], None]
SHARD_IMAGES = 16
MAX_SHARDS = 256
MEASURE_SECONDS = 30.0


class Session:
    """A checkpoint and a data set, loaded on one device, for one search.

    checkpoint: a path, a built-in name, or a loaded TaskModel. dataset: see data.sources.
    input: height, width (None: the data set's own), batch, precision, mode, threads.
    preprocess, score, task: None takes what the checkpoint says, or the library's default.
    `expected_dense_metric` in preprocess is checked by `inspect`.
    evaluation_threads: CPU threads of evaluations; settled at inspection, since another count sums
    in another order, and workers with more cores must find the same. None: torch's own.
    weights_source: whether the weights are the user's "checkpoint", or "adapted" or "finetuned" ones
    that this search made of it.
    measure_seconds: the most that each of the three measurements (calibration, model, backbone)
    may take; quiet devices need far less.
    """

    def __init__(
        self,
        checkpoint: str | Path | TaskModel,
        dataset: str | Path | Mapping[str, Any],
        device: str = "cpu",
        input: Mapping[str, Any] | None = None,
        preprocess: Mapping[str, Any] | None = None,
        score: str | None = None,
        task: str | None = None,
        evaluation_threads: int | None = None,
        weights_source: str = "checkpoint",
        measure_seconds: float = MEASURE_SECONDS,
    ) -> None:
        self.measure_seconds = measure_seconds
        self.evaluation_threads = evaluation_threads or torch.get_num_threads()
        self.device = open_device(device)
        if self.device.type == "cpu":
            keep_memory()
        self.checkpoint, self.weights_source, self.task = checkpoint, weights_source, task
        model = self.load()
        if task not in (None, model.task):
            raise CheckpointMismatch(
                f"the checkpoint is for {model.task}, the job asks for {task}."
            )
        self.dataset = dataset
        self.score = get_score(score or model.adapted or DEFAULT_SCORE).name
        splits = open_splits(dataset, model)
        # The report split is read once: keeping it would only push out what is read again.
        self.splits: Splits = replace(splits, search=cached(splits.search))
        shown = self.splits.search.sample(0)[0].shape[-3:-1]
        self.input = fill_input(input or {}, shown, self.device)
        size = (self.input["height"], self.input["width"])
        wanted = dict(preprocess or {})
        self.expected_dense_metric: float | None = wanted.pop("expected_dense_metric", None)
        self.preprocess: Preprocess = model.preprocess.updated(wanted).updated({"resize": size})
        model.preprocess = self.preprocess
        self.model = model.to(self.device, PRECISIONS[self.input["precision"]]).eval()
        check_precision(self.model.backbone, self.input["precision"])
        apply_mode(self.model, self.input["mode"], self.device)

    def load(self) -> TaskModel:
        """The model as its checkpoint has it; a model that a caller gave stays as it is."""
        if isinstance(self.checkpoint, TaskModel):
            return copy.deepcopy(self.checkpoint)
        return load_model(self.checkpoint, task=self.task)

    @property
    def pairs(self) -> tuple[int, ...]:
        return self.model.backbone.config.pairs

    @property
    def windows(self) -> tuple[int, ...]:
        """Windows per image in each stage."""
        return self.model.backbone.config.stage_windows(self.input["height"], self.input["width"])

    @property
    def shards(self) -> int:
        """Fixed by the data, never by the number of workers."""
        return min(MAX_SHARDS, -(-len(self.splits.search) // SHARD_IMAGES))

    @cached_property
    def device_facts(self) -> dict[str, Any]:
        return device_facts(self.device)

    def dataset_sha256(self) -> str:
        """Hash of the data set as it is now."""
        return dataset_sha256(self.dataset, self.model)

    def training_sha256(self) -> str:
        """Hash of the training split's file list as it is now."""
        return training_sha256(self.dataset, self.model)

    def sparsity(self, genes: Genes) -> SparsityConfig:
        return SparsityConfig.from_genes(genes, self.pairs, self.score)

    def map_facts(self) -> dict[str, Any]:
        """Everything this search's latency map depends on."""
        return map_facts(
            architecture=self.model.backbone.config.to_dict() | {"head": self.model.describe()},
            input=self.input,
            score=self.score,
            device=self.device_facts,
            versions={
                "torch": str(torch.__version__),
                "sparsevit": sparsevit.__version__,
                "allocator": allocator() if self.device.type == "cpu" else None,
            },
        )

    def inspect(
        self,
        adapt: Mapping[str, Any] | None = None,
        finetune: Mapping[str, Any] | None = None,
        progress: Progress | None = None,
        more_inputs: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """What the request left open, settled; see sparsevit.search.inspection."""
        return inspect(self, adapt, finetune, progress, more_inputs)

    def resized(self, input: Mapping[str, Any]) -> Session:
        """A session of its own that differs in its input alone."""
        expected = self.expected_dense_metric
        return Session(
            self.checkpoint,
            self.dataset,
            str(self.device),
            input,
            {**self.preprocess.to_dict(), "expected_dense_metric": expected},
            self.score,
            self.model.task,
            self.evaluation_threads,
            self.weights_source,
            self.measure_seconds,
        )

    def latency_images(self, count: int) -> Tensor:
        """`count` real samples of the search split, preprocessed, on the device: [count * views, 3, H,
        W]. The model is told of the first one's cameras, which do for all: time is what counts."""
        total, model = len(self.splits.search), self.model
        images, targets = zip(
            *(self.splits.search.sample(i % total) for i in range(count)), strict=True
        )
        x = self.preprocess(images)[: count * model.views]
        x = x.to(self.device, PRECISIONS[self.input["precision"]])
        model.attend(x, targets[:1])
        return x

    def calibrate(self, progress: Progress | None = None) -> dict[str, Any]:
        """{"map": LatencyMap document, "receipt": ...}: the latency of every block pair here.

        Raises InputTooLarge, naming the largest size that fits, where this one does not.
        """
        made = None
        try:
            with memory_errors():
                made = self._calibrate(progress)
        except DeviceOutOfMemory:
            pass  # its traceback holds the tensors: only without it does anything else fit
        if made is None:
            raise InputTooLarge(too_large(self))
        latency_map, dense = made
        windows = self.model.executed_windows
        proof = receipt(self.device, self.input, dense, windows)
        # A map made on a busy device serves this search alone: no later one finds it.
        key = f"{latency_map.key}-{proof['id']}" if dense.disturbed else latency_map.key
        return {"map": replace(latency_map, key=key, receipt=proof).to_dict(), "receipt": proof}

    def _calibrate(self, progress: Progress | None) -> tuple[LatencyMap, Measurement]:
        return calibrate(
            self.model,
            self.latency_images(self.input["batch"]),
            self.score,
            range(MAX_LEVEL + 1),
            threads=self.input["threads"],
            mode=self.input["mode"],
            facts=self.map_facts(),
            max_seconds=self.measure_seconds,
            progress=progress,
        )

    def evaluate(
        self,
        candidates: Sequence[Genes],
        shard: int,
        shards: int,
        progress: Progress | None = None,
    ) -> dict[str, Any]:
        """{"states": metric states [candidate][fold], "seconds"} on one shard of the search split."""
        start = time.perf_counter()
        indices = shard_indices(len(self.splits.search), shard, shards)
        folds = folds_of_shard(shards)
        states = self.states(self.splits.search, candidates, indices, progress, folds)
        return {"states": states, "seconds": time.perf_counter() - start}

    def states(
        self,
        dataset: Dataset,
        candidates: Sequence[Genes],
        indices: Sequence[int],
        progress: Progress | None = None,
        folds: int | None = None,
    ) -> list[list[metrics.State]]:
        """Metric states [candidate][batch of images, or fold], at the job's evaluation threads."""
        with thread_count(self.evaluation_threads):
            return evaluate(
                self.model,
                candidates,
                self.score,
                dataset,
                indices,
                progress=progress,
                folds=folds,
            )

    def measure(
        self,
        finalists: Sequence[Genes],
        uniform: Sequence[Genes],
        latency_map: LatencyMap,
        budget: float | str,
        scope: Scope,
        search_facts: Mapping[str, Any],
        artefacts: Callable[[str, bytes], str],
        progress: Progress | None = None,
        dense_ratio: float = 1.0,
    ) -> dict[str, Any]:
        """Times and re-scores the finalists and names the winner; see sparsevit.search.verify."""
        verification = Verification(self, latency_map, budget, scope, search_facts, dense_ratio)
        return verification.run(finalists, uniform, artefacts, progress)

    def measure_again(
        self,
        found: Mapping[str, Any],
        latency_map: LatencyMap,
        budget: float | str,
        scope: Scope,
        artefacts: Callable[[str, bytes], str],
        progress: Progress | None = None,
        dense_ratio: float = 1.0,
    ) -> dict[str, Any]:
        """What `measure` found, with the winner measured on these weights, fine-tuned for it."""
        facts = found["document"]["search"]
        verification = Verification(self, latency_map, budget, scope, facts, dense_ratio)
        return verify_again(verification, found, artefacts, progress)
