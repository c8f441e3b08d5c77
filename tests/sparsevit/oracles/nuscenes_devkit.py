"""nuscenes-devkit's own evaluation of a result file: what sparsevit's metric is compared with.

The devkit needs numpy < 2, so it lives in an environment of its own, and its numbers are recorded in
nuscenes_devkit.json. To record them anew, from the root of the repository:

    python -m venv /tmp/devkit && /tmp/devkit/bin/pip install nuscenes-devkit==1.2.0
    python -m tests.sparsevit.data.detections /tmp/drives
    /tmp/devkit/bin/python tests/sparsevit/oracles/nuscenes_devkit.py /tmp/drives val \
        /tmp/drives/results.json > tests/sparsevit/oracles/nuscenes_devkit.json
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
import tempfile
from importlib.metadata import version
from typing import Any


def evaluated(root: str, split: str, results: str) -> dict[str, Any]:
    """All numbers of the benchmark's configuration, and what the devkit reads of the annotations."""
    from nuscenes import NuScenes
    from nuscenes.eval.common.config import config_factory
    from nuscenes.eval.detection.evaluate import DetectionEval

    tables = NuScenes("v1.0-trainval", root, verbose=False)
    config = config_factory("detection_cvpr_2019")
    with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(io.StringIO()):
        found = DetectionEval(tables, config, results, split, out, verbose=False)
        metrics, _ = found.evaluate()
    summary = metrics.serialize()
    kept = ("mean_ap", "mean_dist_aps", "tp_errors", "label_tp_errors", "nd_score")
    return {
        "devkit": version("nuscenes-devkit"),
        "samples": len(found.sample_tokens),
        "annotations": len(found.gt_boxes.all),
        "detections": len(found.pred_boxes.all),
        **{name: summary[name] for name in kept},
    }


if __name__ == "__main__":
    json.dump(evaluated(*sys.argv[1:]), sys.stdout, indent=1)
    print()
