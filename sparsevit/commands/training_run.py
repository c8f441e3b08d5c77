"""One training of the command line: checked, resumed, shown, scored now and then, written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from sparsevit.commands.common import training_bar
from sparsevit.data.sources import open_splits, open_training
from sparsevit.deploy import DeployConfig, load_config
from sparsevit.errors import ConfigError
from sparsevit.scoring import spread_score
from sparsevit.sparsity.config import DEFAULT_SCORE, SparsityConfig
from sparsevit.sparsity.score import get_score
from sparsevit.tasks.base import TaskModel
from sparsevit.tasks.files import load_model, save_model
from sparsevit.training.distributed import process_group
from sparsevit.training.settings import Kind, recommended
from sparsevit.training.slices import SlicedTraining

SAVE_SECONDS = 120.0  # what a kill costs at most
SHOWN_RATIO = 0.5  # beside dense, of an adaptation


@dataclass(frozen=True)
class TrainingRun:
    """The arguments of `sparsevit adapt` or `finetune`; None in `settings`: as recommended.

    size: (height, width) that the model sees; None: what its config or file says. crop: of training
    images; None: that size.
    """

    kind: Kind
    checkpoint: str
    dataset: Mapping[str, Any]
    output: Path
    settings: Mapping[str, Any]
    score: str | None = None
    config: Path | None = None
    size: tuple[int, int] | None = None
    crop: tuple[int, int] | None = None
    device: str = "cpu"
    resume: Path | None = None
    restart: bool = False
    frugal: bool = False
    check: bool = True
    eval_every: int | None = None

    def train(self) -> None:
        self._check_output()
        with process_group(self.device) as device:
            model = load_model(self.checkpoint, device)
            model.backbone.set_activation_checkpointing(self.frugal)
            chosen = None if self.config is None else load_config(self.config)
            if chosen is not None:
                model.set_sparsity(chosen)  # its preprocessing applies, too
            model.preprocess = model.preprocess.updated({"resize": self.size})
            training = self._open(model, chosen)
            self._to_the_end(training, model, chosen)
            if training.trainer.processes.first:
                self._write(model, chosen)
                self.file.unlink()

    @property
    def file(self) -> Path:
        """The training checkpoint."""
        return self.resume or self.output.with_name(f"{self.output.name}.training")

    @property
    def bound(self) -> Path:
        """The config of the weights that fine-tuning makes, beside them."""
        return self.output.with_suffix(".json")

    def _check_output(self) -> None:
        """ConfigError where the weights could not be written, or a file in use would be lost."""
        folder = self.output.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.output} cannot be written: {error}.") from error
        if self.output.is_dir() or not os.access(folder, os.W_OK):
            raise ConfigError(f"{self.output} cannot be written: name a file in a folder of yours.")
        if self.config is None:
            return
        if self.bound == self.output or self.bound.resolve() == self.config.resolve():
            raise ConfigError(
                f"the config of the new weights is written to {self.bound}, beside them: give "
                "another --output."
            )

    def _open(self, model: TaskModel, chosen: DeployConfig | None) -> SlicedTraining:
        data = open_training(self.dataset, model)
        if self.restart:
            self.file.unlink(missing_ok=True)
        training = SlicedTraining(
            model,
            data,
            self.kind,
            recommended(model.task, self.kind).updated(self.settings),
            get_score(self.score or DEFAULT_SCORE).name,
            None if chosen is None else chosen.sparsity,
            self.crop,
            self.file,
        )
        trainer = training.trainer
        if not trainer.processes.first:
            return training
        if trainer.step:
            typer.echo(f"goes on at step {trainer.step} of {trainer.steps}: {self.file}", err=True)
        elif self.check:
            with training_bar("checking the data set", loss=False) as progress:
                data.check(lambda done, total: progress(done, total, 0.0))
        return training

    def _to_the_end(
        self, training: SlicedTraining, model: TaskModel, chosen: DeployConfig | None
    ) -> None:
        """Slice after slice, with a score after every `eval_every` steps."""
        found, trainer = "", training.trainer
        what = "adapting" if self.kind == "adapt" else "fine-tuning"
        first = trainer.processes.first
        with training_bar(what, note=lambda: found, hidden=not first) as progress:
            while True:
                made = training.run(SAVE_SECONDS, self._next_score(trainer.step), progress)
                if made.done:
                    return
                if first and self.eval_every and made.step % self.eval_every == 0:
                    found = self._scores(model, chosen)
                    progress(made.step, made.steps, made.loss)
                trainer.processes.wait()

    def _next_score(self, step: int) -> int | None:
        return None if self.eval_every is None else (step // self.eval_every + 1) * self.eval_every

    def _scores(self, model: TaskModel, chosen: DeployConfig | None) -> str:
        """The metric on the search split, as text: of the config, or of dense and a uniform one."""
        pairs, score = model.backbone.config.pairs, self.score or DEFAULT_SCORE
        configs = {"": chosen.sparsity} if chosen else {
            " dense": SparsityConfig.dense(pairs, score),
            f" at {SHOWN_RATIO}": SparsityConfig.uniform(pairs, SHOWN_RATIO, score),
        }  # fmt: skip
        data = open_splits(self.dataset, model).search
        values = spread_score(model, list(configs.values()), data)
        shown = ", ".join(f"{value:.3f}{name}" for name, value in zip(configs, values, strict=True))
        return f", {model.metric['name']} {shown}"

    def _write(self, model: TaskModel, chosen: DeployConfig | None) -> None:
        sha256 = save_model(model, self.output)
        if chosen is None:
            typer.echo(f"wrote {self.output} (sha256 {sha256[:12]})")
            return
        weights = {"sha256": sha256, "source": "finetuned", "dialect": model.dialect}
        self.bound.write_text(
            json.dumps({"weights": weights} | chosen.sparsity.to_dict(), indent=2) + "\n"
        )
        typer.echo(f"wrote {self.output} (sha256 {sha256[:12]}) and its config {self.bound}")
