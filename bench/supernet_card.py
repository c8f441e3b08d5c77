"""The card of the shipped supernet, made from the numbers of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsevit.sparsity.config import DEFAULT_SCORE
from sparsevit.training import digits_recipe as recipe

PATH = Path("sparsevit/data/digits-supernet.md")

HEAD = """# The digits supernet

`builtin:digits`, the file `digits-supernet.safetensors` beside this card: a small Swin with a
pyramid head that finds strings of handwritten digits on {canvas} px canvases. Made by
`make supernet`; this card by `python -m bench.supernet --scores`.

- **Data**: canvases of `sparsevit.data.digits`; glyphs from the UCI digits, half of the backgrounds
  smooth, half real textures and photographs. Training, search and report splits share neither glyphs
  nor background pixels.
- **Model**: patch 4, {dim} channels, depths {depths}, heads {heads}, window 7, pyramid head with
  {head} channels; {parameters:,} parameters, stored as fp16.
- **Steps** (AdamW, weight decay {decay}, clip {clip}, background weight 0.3, cosine, {threads}
  threads):
{steps}
- **Metric**: digit mIoU in percent, background left out, on {images} canvases of the report split.
- **Latency**: one image, one thread, {device}; interleaved with the dense model.

It was trained for minutes to show the product, not to be good at digits.
"""


def write_card(results: dict[str, Any]) -> None:
    """Writes the card; results as `bench.supernet` collects them."""
    from bench.common import table
    from bench.supernet import RATIOS, metric_at, rows_of

    model = recipe.new_model()
    config = model.backbone.config
    schedules = {
        "packed 224 px canvases": recipe.PACKED,
        "whole canvases": recipe.WHOLE,
        "adaptation, whole canvases": recipe.ADAPT,
    }
    steps = "\n".join(
        f"  - {name}: {s.steps} steps, batch {s.batch}, rate {s.learning_rate:g}, seed {s.seed}"
        for name, s in schedules.items()
    )
    from sparsevit.latency.receipt import cpu_model

    text = HEAD.format(
        canvas=recipe.CANVAS,
        dim=config.embed_dim,
        depths=config.depths,
        heads=config.num_heads,
        head=model.head_channels,
        parameters=sum(p.numel() for p in model.parameters()),
        decay=recipe.PACKED.weight_decay,
        clip=recipe.PACKED.clip,
        threads=recipe.THREADS,
        steps=steps,
        images=results["shipped"]["images"],
        device=cpu_model(),
    )
    for name, result in results["scores"].items():
        shipped = " (the default, the shipped file)" if name == DEFAULT_SCORE else ""
        text += f"\n## Adapted with `{name}`{shipped}\n\n"
        text += table(["uniform ratio", *(f"{r:g}" for r in RATIOS)], rows_of(result)) + "\n\n"
        for kind, stages in result["recall"].items():
            recall = ", ".join(f"{value:.2f}" for value in stages)
            text += f"Foreground recall by stage, half of the windows kept, {kind}: {recall}.\n"
    text += "\n## At equal measured latency\n\n"
    text += (
        "Digit mIoU on all canvases at a share of the dense latency, between ratios linearly.\n\n"
    )
    rows = [
        [f"`{name}`", *(f"{metric_at(result, share):.1f}" for share in (0.75, 0.6, 0.45))]
        for name, result in results["scores"].items()
    ]
    text += table(["score", "75%", "60%", "45%"], rows) + "\n"
    PATH.write_text(text)
    print(f"wrote {PATH}")
