"""One seed of a comparison: every row trained, searched where it is searched, and scored."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sparsevit import metrics
from sparsevit.compare.models import Models
from sparsevit.compare.plan import ADAPTATION, Plan, Progress, training_settings
from sparsevit.compare.rows import Row
from sparsevit.compare.settings import CompareSettings
from sparsevit.compare.store import Store
from sparsevit.compare.training import trained
from sparsevit.errors import NoFeasibleConfig
from sparsevit.search.choices import finalists
from sparsevit.search.generations import Evaluator, search
from sparsevit.search.space import SearchSpace
from sparsevit.search.steps import Session
from sparsevit.sparsity.config import Genes
from sparsevit.training.settings import Kind


@dataclass(frozen=True)
class SeedRun:
    """Its files lie in a folder of their own; what is there is not made again."""

    seed: int
    settings: CompareSettings
    models: Models
    full: Session
    plan: Plan
    store: Store
    tell: Progress

    def result(self, row: Row) -> dict[str, Any]:
        """The finished row: {"genes", "steps", "seconds", "cpu_seconds", "adaptation", "metric",
        "interval", "details", "search_seconds"}. adaptation: its own, null for a dense row."""
        name = f"{self.name(row.name)}.json"
        found = self.store.read(name)
        return found if found is not None else self.store.write(name, self._made(row))

    def name(self, of: str) -> str:
        return f"seed-{self.seed}/{re.sub('[^A-Za-z0-9.]+', '-', of).strip('-')}"

    def _made(self, row: Row) -> dict[str, Any]:
        nothing = {"adaptation": None, "search_seconds": None}
        if not row.sparse:
            session = self.models.untrained(row)
            return nothing | self._finished(row, session, (0,) * sum(session.pairs))
        supernet, adaptation = self._train(self.full, "adapt", ADAPTATION)
        session = self.models.session(row.size, supernet)
        if row.genes is not None:
            genes, searched = row.genes, nothing
        else:
            searched = self._searched(row, session)
            genes = tuple(searched.pop("genes"))
        return {**searched, "adaptation": adaptation, **self._finished(row, session, genes)}

    def _finished(self, row: Row, session: Session, genes: Genes) -> dict[str, Any]:
        """Fine-tuned with its config, and scored on the report split."""
        weights, spent = self._train(session, "finetune", row.name, genes)
        session = self.models.session(row.size, weights)
        data = session.splits.report
        (states,) = session.states(
            data, [genes], range(len(data)), lambda d, t: self._tell(row.name, "scoring", d, t)
        )
        spec = session.model.metric
        total = metrics.merge(states, spec)
        return {
            "genes": list(genes),
            **spent,
            "metric": metrics.value(total, spec),
            "interval": list(metrics.interval(states, spec)),
            "details": metrics.details(total, spec),
        }

    def _train(
        self, session: Session, kind: Kind, name: str, genes: Genes | None = None
    ) -> tuple[Path, dict[str, Any]]:
        training = training_settings(self.full, self.settings)
        return trained(
            session,
            kind,
            training,
            self.plan.steps[name],
            training.seed + self.seed,
            self.store,
            self.name(name),
            genes,
            lambda done, total: self._tell(name, "training", done, total),
        )

    def _searched(self, row: Row, session: Session) -> dict[str, Any]:
        """{"genes", "search_seconds"}: the best config of the search split that is predicted to be as
        fast as the dense row."""
        name = f"{self.name(row.name)}.search.json"
        found = self.store.read(name)
        if found is not None:
            return found
        begin, shards = time.perf_counter(), session.shards
        budget, evolution = self.plan.budgets[row.against[0]], self.settings.evolution
        history, _ = search(
            "evolution",
            SearchSpace(session.pairs, session.windows),
            self.plan.latency_map,
            budget,
            self.settings.scope,
            replace(evolution, seed=evolution.seed + self.seed),
            Evaluator(
                lambda candidates, shard: session.evaluate(candidates, shard, shards)["states"],
                session.model.metric,
                len(session.splits.search),
                shards,
            ),
            lambda done, total: self._tell(row.name, "searching", done, total),
        )
        best = finalists(history, budget)
        if not best:
            raise NoFeasibleConfig(f"{row.name}: nothing that could be evaluated is fast enough.")
        seconds = time.perf_counter() - begin
        return self.store.write(name, {"genes": list(best[0]), "search_seconds": seconds})

    def _tell(self, name: str, what: str, done: int, total: int) -> None:
        self.tell(f"seed {self.seed}, {name}: {what}", done, total)
