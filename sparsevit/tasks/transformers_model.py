"""Models with a head of transformers: what UperNet and both kinds of Mask2Former share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import nn

from sparsevit.data.preprocess import Preprocess
from sparsevit.swin.model import SparseSwin
from sparsevit.tasks import huggingface
from sparsevit.tasks.base import TaskModel, check_class_names
from sparsevit.tasks.foreign import ForeignCheckpoint, ForeignHead
from sparsevit.tasks.semantic import MAX_CLASSES


class TransformersModel(TaskModel):
    """SparseSwin with the head of one of transformers' models; a subclass adds the task.

    settings: fields of transformers' config; what is left out is its default.
    A subclass says: model_type, the model's name in config.json; registered, its name among our tasks;
    fields that its head is built of;
    head_class(settings, channels of the feature maps, classes); head_names, the beginnings of the
    head's tensors to transformers' own; classifier, the layer that tells classes apart, of whose
    outputs `others` are no classes.
    """

    model_type: ClassVar[str]
    registered: ClassVar[str]
    fields: ClassVar[Mapping[str, huggingface.Check]]
    head_class: ClassVar[type[nn.Module]]
    head_names: ClassVar[Mapping[str, str]]
    classifier: ClassVar[str]
    others: ClassVar[int] = 0

    def __init__(
        self,
        backbone: SparseSwin,
        class_names: Sequence[str],
        settings: dict[str, Any] | None = None,
        *,
        preprocess: Preprocess | None = None,
    ) -> None:
        check_class_names(class_names, MAX_CLASSES)
        settings = dict(settings or {})
        huggingface.check_settings(settings, self.fields)
        dims = [backbone.config.dims[stage] for stage in backbone.out_stages]
        head = huggingface.built(lambda: self.head_class(settings, dims, len(class_names)))
        super().__init__(backbone, head, preprocess or Preprocess())
        self.class_names, self.settings = tuple(class_names), settings

    def describe(self) -> dict[str, Any]:
        return {
            "task": self.task,
            "model": self.registered,
            "class_names": list(self.class_names),
            "settings": self.settings,
        }

    @classmethod
    def from_description(
        cls, backbone: SparseSwin, document: dict[str, Any], preprocess: Preprocess
    ) -> Self:
        return cls(backbone, document["class_names"], document["settings"], preprocess=preprocess)

    @classmethod
    def head_in(cls, checkpoint: ForeignCheckpoint) -> ForeignHead | None:
        """A folder of transformers whose config.json is this model's."""
        config = checkpoint.config or {}
        if config.get("model_type") != cls.model_type:
            return None
        return ForeignHead(
            description={
                "task": cls.task,
                "model": cls.registered,
                "settings": huggingface.settings_of(config, cls.fields, checkpoint.name),
                "class_names": huggingface.class_names(checkpoint, cls.classifier, cls.others),
            },
            names=cls.head_names,
            out_stages=huggingface.out_stages(checkpoint),
        )
