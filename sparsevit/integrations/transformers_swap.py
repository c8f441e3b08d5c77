"""Swaps the Swins of transformers for the models of sparsevit.integrations.transformers, in place.

The module object stays, so whoever holds it (the model around it, a trainer) holds the sparse one:
its class and all inside it become another's. Configs around it are told, so that save_pretrained
and from_pretrained work on the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.models.maskformer.modeling_maskformer_swin import MaskFormerSwinBackbone
from transformers.models.swin.modeling_swin import (
    SwinBackbone,
    SwinForImageClassification,
    SwinModel,
)

from sparsevit.errors import ConfigError
from sparsevit.integrations.convert import to_sparse_swin
from sparsevit.integrations.transformers import (
    SparseSwinBackbone,
    SparseSwinForImageClassification,
    SparseSwinModel,
)
from sparsevit.integrations.transformers_config import (
    HostedSwin,
    SparseSwinConfig,
    feature_stages,
)
from sparsevit.swin.config import SwinConfig

SWIN_TYPES = ("swin", "maskformer-swin")
# What a config keeps that is not the backbone's architecture.
KEPT = ("id2label", "label2id", "problem_type", "initializer_range", "dtype", "return_dict")


def swap(module: nn.Module, around: Sequence[nn.Module]) -> None:
    """Turns a SwinForImageClassification, SwinModel, SwinBackbone or MaskFormerSwinBackbone sparse.

    around: the modules that hold it, from the outermost. ConfigError where one of them is a model of
    transformers that could not be loaded again after it was saved.
    """
    hosts = [host for host in around if isinstance(host, PreTrainedModel)]
    fresh: PreTrainedModel
    if isinstance(module, (SwinBackbone, MaskFormerSwinBackbone)):
        _check_hosts(hosts)
        fresh = _backbone(module)
    elif hosts:
        raise ConfigError(
            f"{type(hosts[0]).__name__} is built around a {type(module).__name__}, and its config "
            "could not say that this is sparse: it would not load again after it was saved."
        )
    elif isinstance(module, SwinForImageClassification):
        fresh = _classifier(module)
    else:
        fresh = _model(module)
    if module.is_gradient_checkpointing:
        fresh.gradient_checkpointing_enable()
    _become(module, fresh)
    for host in hosts:
        host.config.backbone_config = module.config


def _check_hosts(hosts: Sequence[PreTrainedModel]) -> None:
    for host in hosts:
        config = getattr(host.config, "backbone_config", None)
        if getattr(config, "model_type", None) not in SWIN_TYPES:
            raise ConfigError(
                f"the config of {type(host).__name__} does not say that it has a Swin: it could not "
                "be loaded again after it was saved."
            )


def _backbone(theirs: PreTrainedModel) -> SparseSwinBackbone:
    # Both of their backbones shift every map, however small.
    swin = _convert(theirs, "shift", feature_stages(theirs.config))
    with torch.device("meta"):
        fresh = SparseSwinBackbone(swin.settings)
    fresh.backbone = swin
    fresh.training = theirs.training
    return fresh


def _model(theirs: SwinModel) -> SparseSwinModel:
    if theirs.embeddings.mask_token is not None:
        raise ConfigError("this SwinModel masks patches for pre-training, SparseSwin cannot.")
    swin = _convert(theirs, "whole", (theirs.num_layers - 1,))
    with torch.device("meta"):
        fresh = SparseSwinModel(swin.settings, add_pooling_layer=theirs.pooler is not None)
    fresh.backbone = swin
    fresh.training = theirs.training
    return fresh


def _classifier(theirs: SwinForImageClassification) -> SparseSwinForImageClassification:
    swin = _model(theirs.swin)
    with torch.device("meta"):
        fresh = SparseSwinForImageClassification(swin.config)
    fresh.swin, fresh.classifier = swin, theirs.classifier
    fresh.training = theirs.training
    return fresh


def _convert(theirs: PreTrainedModel, small_map: str, stages: tuple[int, ...]) -> HostedSwin:
    return to_sparse_swin(
        theirs,
        small_map=small_map,
        out_stages=stages,
        config=theirs.config.to_dict(),
        build=partial(_hosted, theirs),
    )


def _hosted(theirs: PreTrainedModel, made: SwinConfig, stages: Sequence[int]) -> HostedSwin:
    kept = {field: getattr(theirs.config, field) for field in KEPT}
    names = [f"stage{stage + 1}" for stage in stages]
    settings = SparseSwinConfig.from_architecture(made, out_features=names, **kept)
    settings.name_or_path = theirs.config.name_or_path
    return HostedSwin(settings, stages)


def _become(module: nn.Module, fresh: nn.Module) -> None:
    """Makes `module` what `fresh` is; `fresh` is not to be used any more."""
    module.__class__ = type(fresh)
    object.__setattr__(module, "__dict__", fresh.__dict__)
