"""ADE20K as the scene parsing challenge gives it out (ADEChallengeData2016).

`images/{training,validation}/NAME.jpg` with `annotations/{training,validation}/NAME.png`, whose
pixels are 0 (unlabelled) or 1 to 150, the rows of `objectInfo150.txt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from sparsevit.data.segmentation_folder import SegmentationFolder
from sparsevit.errors import DatasetError

TABLE = "objectInfo150.txt"
CLASS_NAMES = tuple(
    """
wall; building; sky; floor; tree; ceiling; road; bed; windowpane; grass; cabinet; sidewalk; person;
earth; door; table; mountain; plant; curtain; chair; car; water; painting; sofa; shelf; house; sea;
mirror; rug; field; armchair; seat; fence; desk; rock; wardrobe; lamp; bathtub; railing; cushion;
base; box; column; signboard; chest of drawers; counter; sand; sink; skyscraper; fireplace;
refrigerator; grandstand; path; stairs; runway; case; pool table; pillow; screen door; stairway;
river; bridge; bookcase; blind; coffee table; toilet; flower; book; hill; bench; countertop; stove;
palm; kitchen island; computer; swivel chair; boat; bar; arcade machine; hovel; bus; towel; light;
truck; tower; chandelier; awning; streetlight; booth; television receiver; airplane; dirt track;
apparel; pole; land; bannister; escalator; ottoman; bottle; buffet; poster; stage; van; ship;
fountain; conveyer belt; canopy; washer; plaything; swimming pool; stool; barrel; basket; waterfall;
tent; bag; minibike; cradle; oven; ball; food; step; tank; trade name; microwave; pot; animal;
bicycle; lake; dishwasher; screen; blanket; sculpture; hood; sconce; vase; traffic light; tray;
ashcan; fan; pier; crt screen; plate; monitor; bulletin board; shower; radiator; glass; clock; flag
""".replace("\n", " ")
    .strip()
    .split("; ")
)
"""The first name of each row of the table: label 1 is a wall."""
CLASSES = len(CLASS_NAMES)
ALIASES = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class ADE20K(SegmentationFolder):
    """One split of ADE20K; its 150 classes in the order of its table are 0 to 149 here."""

    layout: ClassVar[str] = (
        f"{TABLE}, images/SPLIT/NAME.jpg and annotations/SPLIT/NAME.png (SPLIT: training or train, "
        "validation or val)"
    )

    @classmethod
    def recognises(cls, root: Path) -> bool:
        return (root / TABLE).is_file() and super().recognises(root)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.class_names) != CLASSES:
            raise DatasetError(
                f"{self.root} is ADE20K, of {CLASSES} classes; the model tells "
                f"{len(self.class_names)} apart."
            )

    @property
    def folder(self) -> str:
        return ALIASES.get(self.split, self.split)

    def _classes(self, labels: np.ndarray, path: Path) -> np.ndarray:
        if labels.max() > CLASSES:
            raise DatasetError(
                f"{path} holds the label {labels[labels > CLASSES].min()}; ADE20K has 0 (unlabelled) "
                f"to {CLASSES}."
            )
        return labels - np.uint8(1)  # 0 wraps round to 255, which is ignored
