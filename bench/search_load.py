"""What the coordinator and the database cost, on a real Postgres; the device answers at once.

A whole job of 10,000 candidates takes the way of any job (claim, hand in, step), with made-up results.
Then a job of 100,000 candidates stands in the database: how fast the API answers about it, and how long
the next generation takes. The network is Swin-L at 672 pixels (17,721,990 configs) on 500 images.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Engine, insert, update

from bench.common import Check, table
from bench.search_api import api
from bench.search_shapes import DEVICE, INPUT
from bench.search_shapes import SWIN_L as SHAPE
from service.db.artefacts import ArtefactStore
from service.db.jobs import JobRepository
from service.db.latency_maps import LatencyMapRepository
from service.db.migrate import upgrade
from service.db.models import EvaluationRow, JobRow, table_of
from service.db.session import make_engine, session_scope
from service.db.units import UnitRepository
from service.domain.records import Job, Unit, new_job_id
from service.domain.request import parse_search_request
from service.domain.status import EvaluationState, JobStatus, Stage, UnitKind
from service.embedded.accounts import temporary_home
from service.embedded.postgres import EmbeddedPostgres
from sparsevit import metrics
from sparsevit.search.choices import parse_budget
from sparsevit.search.evolution import EvolutionSettings
from sparsevit.search.feasible import FeasibleSet
from sparsevit.search.history import History
from sparsevit.search.moves import Evaluation
from sparsevit.search.racing import folds_of_shard, rungs
from sparsevit.search.stops import next_turn
from worker.leases import Leases
from worker.step_memory import StepMemory
from worker.tasks import advance

FOLDER = Path("runs/search-load")
IMAGES, SHARDS, CLASSES = 500, 32, 19  # Cityscapes
FOLDS = min(folds_of_shard(SHARDS), IMAGES // SHARDS)
POPULATION, PARENTS = 100, 25
BUDGET = "60%"
OWNER = "bench"
PIXELS_OF_A_STATE = 1_000_000
MOST_MS = 5.0
MOST_API_MS = 50.0
MOST_GROWTH = 15.0
"""A generation at ten times the history: at most so many times as long, where n^2 would be 100."""


def load(evaluations: int, history: int) -> tuple[dict[str, Any], list[Check]]:
    """Both parts. evaluations: of the job that runs. history: of the one that stands."""
    with database() as (engine, store, url):
        coordinator = run_job(engine, store, evaluations)
        sizes = [history // 10, history]
        standing = [stand(engine, size) for size in sizes]
        steps = [next_generation(engine, store, job) for job in standing]
        answers = api(url, store.root, standing[-1], history)
    return _report(coordinator, dict(zip(sizes, steps, strict=True)), answers)


@contextmanager
def database() -> Iterator[tuple[Engine, ArtefactStore, str]]:
    """A real, durable Postgres with the service's tables, an artefact folder, and the URL."""
    with temporary_home(FOLDER.absolute()) as home, EmbeddedPostgres(home / "postgres") as server:
        upgrade(server.url())
        engine = make_engine(server.url())
        try:
            yield engine, ArtefactStore(home / "artefacts"), server.url()
        finally:
            engine.dispose()


def run_job(engine: Engine, store: ArtefactStore, evaluations: int) -> dict[str, Any]:
    """One job from its submission to its end: seconds in all, and of a claim, a hand-in and a step."""
    job = submit(engine, evaluations // POPULATION)
    leases, memory = Leases(engine, "bench", 60.0, store.root), StepMemory()
    spent: dict[str, list[float]] = {"claim": [], "hand_in": [], "advance": []}
    start = time.perf_counter()
    while True:
        with _clocked(spent["advance"]):
            advance(engine, store, job.id, memory)
        with _clocked(spent["claim"]):
            unit = leases.claim(DEVICE, "uuid")
        if unit is None:
            break
        result = answer(unit)
        with _clocked(spent["hand_in"]):
            leases.finish(unit, result)
    seconds = time.perf_counter() - start
    with session_scope(engine) as session:
        ended = JobRepository(session).get(job.id)
    assert ended is not None, "the job was submitted"
    assert ended.status == JobStatus.SUCCEEDED, ended.error
    done, units = ended.progress["done"], len(spent["hand_in"])
    # Most units end while others are under way; what such an `advance` costs belongs to the hand-in.
    glance = float(np.median(spent["advance"]))
    return {
        "seconds": sum(sum(times) for times in spent.values()),
        "wall_seconds": seconds,
        "evaluations": done,
        "dropped": ended.progress.get("dropped", 0),
        "units": units,
        "claim": float(np.mean(spent["claim"])),
        "hand_in": float(np.mean(spent["hand_in"])) + glance,
        "steps": sum(spent["advance"]) - units * glance,
        "step": max(0.0, sum(spent["advance"]) - units * glance) / (evaluations // POPULATION),
    }


@contextmanager
def _clocked(spent: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    spent.append(time.perf_counter() - start)


def submit(engine: Engine, generations: int) -> Job:
    """A job as POST /search leaves it."""
    search = {"population": POPULATION, "parents": PARENTS, "generations": generations}
    search["patience"] = None
    body = {"checkpoint": "builtin:digits", "dataset": "builtin:digits", "latency_budget": BUDGET}
    request = parse_search_request(body | {"search": search}).model_dump(mode="json")
    with session_scope(engine) as session:
        job = JobRepository(session).add(new_job_id(), OWNER, request, None, None, DEVICE, {})
        UnitRepository(session).add(job.id, UnitKind.INSPECT, {}, device=DEVICE)
    return job


def answer(unit: Unit) -> dict[str, Any]:
    """What a device would have found, at once."""
    match unit.kind:
        case UnitKind.INSPECT:
            return inspection()
        case UnitKind.CALIBRATE:
            document = SHAPE.latency_map.to_dict()
            return {"map": document, "receipt": document["receipt"]}
        case UnitKind.EVALUATE:
            spec = inspection()["metric"]
            candidates = unit.payload["candidates"]
            states = [metrics.packed([_state(genes)] * FOLDS, spec) for genes in candidates]
            return {"states": states, "seconds": 0.0}
        case UnitKind.MEASURE:
            found = {"document": {}, "front": [], "receipts": {}, "artefacts": {}}
            return found | {"error": None}
    raise ValueError(f"no unit of kind {unit.kind} belongs to this job")


def inspection() -> dict[str, Any]:
    return {
        "architecture": {"pairs": list(SHAPE.space.pairs)},
        "windows": list(SHAPE.space.windows),
        "task": "semantic_segmentation",
        "evaluation_threads": 1,
        "checkpoint_sha256": "c" * 64,
        "dataset_sha256": "d" * 64,
        "input": INPUT,
        "preprocess": None,
        "score": "variance",
        "splits": {"search": IMAGES, "report": IMAGES},
        "metric": {"name": "miou", "kind": "mean_iou", "classes": [*range(CLASSES)]},
        "images": IMAGES,
        "shards": SHARDS,
        "adapted": True,
        "dense_metric": None,
        "adapt": None,
        "finetune": None,
        "device": DEVICE,
        "latency_map_key": SHAPE.latency_map.key,
    }


def _state(genes: list[int]) -> list[list[int]]:
    """Counts of classes whose IoU is the shape's metric."""
    metric = SHAPE.metric(tuple(genes))
    hits = round(2 * PIXELS_OF_A_STATE * metric / (1 + metric))
    labels = [PIXELS_OF_A_STATE] * CLASSES
    return [[hits] * CLASSES, labels, labels]


def stand(engine: Engine, history: int) -> Job:
    """A job in the middle of its search, with so many candidates evaluated."""
    generations = history // POPULATION
    job = submit(engine, generations + 1)
    genes = _distinct(history)
    latency = SHAPE.latency_map.predict(genes, "model")
    jobs, evaluations = table_of(JobRow), table_of(EvaluationRow)
    with session_scope(engine) as session:
        UnitRepository(session).cancel_pending(job.id)
        LatencyMapRepository(session).add(
            SHAPE.latency_map.key, DEVICE, SHAPE.latency_map.to_dict(), None
        )
        values = {
            "status": JobStatus.RUNNING,
            "stage": Stage.SEARCH,
            "inspection": inspection(),
            "latency_map_key": SHAPE.latency_map.key,
        }
        session.execute(update(jobs).where(jobs.c.id == job.id).values(values))
        for generation in range(generations):
            first = generation * POPULATION
            rows = [
                {
                    "job_id": job.id,
                    "config_key": json.dumps(SHAPE.space.key(genes[first + position])),
                    "generation": generation,
                    "position": position,
                    "genes": genes[first + position].tolist(),
                    "state": EvaluationState.DONE,
                    "metric": SHAPE.metric(tuple(genes[first + position])),
                    "latency_ms": float(latency[first + position]),
                }
                for position in range(POPULATION)
            ]
            session.execute(insert(evaluations), rows)
    return job


def _distinct(count: int) -> np.ndarray:
    """So many feasible configs, no two alike."""
    feasible = FeasibleSet(SHAPE.space, SHAPE.latency_map, _budget_ms(), "model")
    drawn = feasible.sample(np.random.default_rng(0), 2 * count)
    _, first = np.unique(drawn, axis=0, return_index=True)
    return drawn[np.sort(first)[:count]]


def _budget_ms() -> float:
    return parse_budget(BUDGET, SHAPE.latency_map.dense_ms)


def next_generation(engine: Engine, store: ArtefactStore, job: Job) -> dict[str, float]:
    """Seconds to propose and open the next generation, and of the proposing alone."""
    start = time.perf_counter()
    advance(engine, store, job.id)
    opened = time.perf_counter() - start
    with session_scope(engine) as session:
        opened_units = UnitRepository(session).for_job(job.id, UnitKind.EVALUATE)
    assert len(opened_units) == rungs(SHARDS, racing=True)[0]
    return {"open": opened, "propose": propose_seconds(int(job.request["search"]["generations"]))}


def propose_seconds(generations: int) -> float:
    """Seconds of the strategy alone, at the history of the generations before the last."""
    genes = _distinct((generations - 1) * POPULATION)
    latency = SHAPE.latency_map.predict(genes, "model")
    history = History(
        Evaluation(tuple(row), number // POPULATION, SHAPE.metric(tuple(row)), float(ms))
        for number, (row, ms) in enumerate(zip(genes.tolist(), latency, strict=True))
    )
    settings = EvolutionSettings(
        population=POPULATION, parents=PARENTS, generations=generations, patience=None
    )
    start = time.perf_counter()
    turn = next_turn(
        *("evolution", SHAPE.space, SHAPE.latency_map, _budget_ms(), "model"),
        *(settings, history, generations - 1),
    )
    assert len(turn.proposals) == POPULATION
    return time.perf_counter() - start


def _report(
    coordinator: dict[str, Any], steps: dict[int, dict[str, float]], answers: dict[str, float]
) -> tuple[dict[str, Any], list[Check]]:
    each = 1e3 * coordinator["seconds"] / coordinator["evaluations"]
    rows = [
        ["evaluations", f"{coordinator['evaluations']:,}"],
        ["units claimed and handed in", f"{coordinator['units']:,}"],
        ["ms per evaluation", f"{each:.2f}"],
        [
            "of it in steps of the coordinator",
            f"{coordinator['steps'] / coordinator['seconds']:.0%}",
        ],
    ]
    for size, found in steps.items():
        rows.append([f"next generation at {size:,} candidates, ms", f"{1e3 * found['open']:.0f}"])
        rows.append(["... of it the strategy", f"{1e3 * found['propose']:.0f}"])
    most = max(steps)
    rows += [[f"{name} at {most:,}, p95 ms", f"{ms:.1f}"] for name, ms in answers.items()]
    print(f"\nCoordinator and database: Swin-L, population {POPULATION}, {SHARDS} shards")
    print(table(["", ""], rows))
    few, many = (steps[size]["open"] for size in sorted(steps))
    checks = [
        Check("coordinator and database: ms per evaluation", each, MOST_MS, at_most=True),
        Check(f"API at {most:,} candidates: p95 ms", max(answers.values()), MOST_API_MS, True),
        Check("next generation at ten times the history", many / few, MOST_GROWTH, at_most=True),
    ]
    found = {"coordinator": coordinator, "steps": steps, "api_p95_ms": answers}
    return found, checks
