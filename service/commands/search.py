"""sparsevit search, sparsevit watch."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from service.commands.answers import budget_text, notes_table, settled
from service.commands.common import (
    JobArgument,
    JsonOption,
    KeyOption,
    UrlOption,
    connect,
    hint,
    messages,
    output,
    print_json,
    require_success,
)
from service.commands.request import (
    AdaptOption,
    BatchOption,
    CheckpointArgument,
    DatasetArgument,
    DeviceOption,
    ExpectedMetricOption,
    FinetuneOption,
    FormatOption,
    HeightOption,
    InterpolationOption,
    LimitOption,
    ModeOption,
    PrecisionOption,
    ReportSplitOption,
    ScoreOption,
    SearchSplitOption,
    SizesOption,
    ThreadsOption,
    TrainSplitOption,
    WidthOption,
    given,
    network_fields,
    parse_latency,
    parse_training,
)
from service.domain.specs import Scope, Strategy


def search(
    checkpoint: CheckpointArgument,
    dataset: DatasetArgument,
    latency: Annotated[
        str,
        typer.Option("--latency", help="Budget: milliseconds (10ms) or a share of dense (60%)."),
    ],
    scope: Annotated[
        Scope | None, typer.Option("--scope", help="What the budget covers (default: model).")
    ] = None,
    device: DeviceOption = None,
    height: HeightOption = None,
    width: WidthOption = None,
    sizes: SizesOption = None,
    batch: BatchOption = None,
    precision: PrecisionOption = None,
    mode: ModeOption = None,
    threads: ThreadsOption = None,
    score: ScoreOption = None,
    format: FormatOption = None,
    train_split: TrainSplitOption = None,
    search_split: SearchSplitOption = None,
    report_split: ReportSplitOption = None,
    limit: LimitOption = None,
    interpolation: InterpolationOption = None,
    expected_metric: ExpectedMetricOption = None,
    adapt: AdaptOption = None,
    finetune: FinetuneOption = None,
    population: Annotated[
        int | None, typer.Option("--population", help="Candidates per generation.")
    ] = None,
    parents: Annotated[
        int | None, typer.Option("--parents", help="Candidates the next ones come from.")
    ] = None,
    generations: Annotated[int | None, typer.Option("--generations", help="Generations.")] = None,
    strategy: Annotated[
        Strategy | None, typer.Option("--strategy", help="Who proposes (default: evolution).")
    ] = None,
    max_evaluations: Annotated[
        int | None, typer.Option("--max-evaluations", help="Stop after so many candidates.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(
            "--patience", help="Stop after so many generations without gain (default: 8)."
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option("--seed", help="The same seed, the same search.")] = (
        None
    ),
    reuse: Annotated[
        bool | None,
        typer.Option(
            "--reuse/--no-reuse", help="Take over evaluations of earlier searches (default: yes)."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--watch", help="Show progress until the search has ended.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Start no search: show dense latency, range and what the budget leaves.",
        ),
    ] = False,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search for the best sparsity of a network within a latency budget."""
    if sizes and (height or width):
        raise typer.BadParameter("give --size, or --height and --width", param_hint="--size")
    request = {
        **network_fields(
            checkpoint,
            dataset,
            device=device,
            score=score,
            split={
                "format": format,
                "train_split": train_split,
                "search_split": search_split,
                "report_split": report_split,
                "limit": limit,
            },
            input={
                "height": height,
                "width": width,
                "batch": batch,
                "precision": precision,
                "mode": mode,
                "threads": threads,
            },
            sizes=sizes or (),
        ),
        **parse_latency(latency),
        **given(
            latency_scope=scope,
            preprocess=given(interpolation=interpolation, expected_dense_metric=expected_metric)
            or None,
            adapt=parse_training(adapt, "--adapt"),
            finetune=parse_training(finetune, "--finetune"),
        ),
        "search": given(
            population=population,
            parents=parents,
            generations=generations,
            strategy=strategy,
            max_evaluations=max_evaluations,
            patience=patience,
            seed=seed,
            reuse=reuse,
        ),
    }
    with connect(url, key) as client:
        if dry_run:
            _show_answer(settled(client, request), as_json)
            return
        job = client.submit(request)
        if follow:
            _follow(client, job["id"], as_json)
        elif as_json:
            print_json(job)
        else:
            typer.echo(job["id"])
            hint(f"watch it with: sparsevit watch {job['id']}")


def watch(
    job_id: JobArgument,
    url: UrlOption = None,
    key: KeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a job's progress until it ends; fails where the job fails."""
    with connect(url, key) as client:
        _follow(client, job_id, as_json)


COMMANDS = [
    (
        search,
        "sparsevit search builtin:digits builtin:digits --latency 60% --watch\n\n"
        "Example: sparsevit search builtin:digits builtin:digits --latency 10ms --dry-run\n\n"
        "Example: sparsevit search model.safetensors /data/city --latency 60% --adapt default "
        "--finetune epochs=4,learning_rate=1e-5 --watch",
    ),
    (watch, "sparsevit watch job_0198c5d2a7f07cc1a6a1f1d0c2b3e4f5"),
]


def _show_answer(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(answer)
        return
    console = output()
    for found in answer["resolutions"] or [answer["latency"]]:
        console.print(budget_text(found))
        console.print(notes_table(found, answer["verdicts"]))


def _follow(client: Any, job_id: str, as_json: bool) -> None:
    from service.commands.progress import changes, follow

    if as_json:
        job: dict[str, Any] = {}
        for job in changes(client, job_id):
            typer.echo(json.dumps(job))
    else:
        job = follow(client, job_id, messages())
    require_success(job)
    if not as_json:
        hint(f"the best config: sparsevit config {job_id} -o best.json")
        if job["weights"] is not None:
            hint(f"its weights:     sparsevit weights {job_id} -o weights.safetensors")
