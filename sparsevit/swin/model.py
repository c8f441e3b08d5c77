"""The Swin backbone with window activation pruning (SparseViT, CVPR 2023, arXiv 2303.17605).

Shapes: B images, H x W tokens of a stage, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from sparsevit.deploy import DeployConfig
from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import Genes, SparsityConfig, kept_windows
from sparsevit.sparsity.score import Moment, WindowScore, get_score
from sparsevit.swin.config import SwinConfig
from sparsevit.swin.layers import PatchEmbed
from sparsevit.swin.stage import SwinStage


class SparseSwin(nn.Module):
    """Swin that computes, in each block pair, only the most important windows.

    forward(images [B, 3, H, W]) -> one feature map per output stage, [B, C, H, W], each after its
    output norm. `set_sparsity` decides what is skipped from then on; a new model is dense.
    Parameter names are those of the original Swin code. Outside autograd the blocks write into the
    tokens that the patch embedding or a merge returned: a hook that keeps those must copy them.

    out_stages: the stages whose features are returned, rising, from 0; None = all. Only these have an
    output norm. executed_windows: windows per image that each block computed in the last forward,
    [stage][block]; None before the first.
    """

    def __init__(
        self, config: SwinConfig | None = None, out_stages: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.config = config = config or SwinConfig()
        self.out_stages = _check_stages(out_stages, len(config.depths))
        self.patch_embed = PatchEmbed(config)
        self.layers = nn.ModuleList(SwinStage(config, i) for i in range(len(config.depths)))
        for stage in self.out_stages:
            self.add_module(f"norm{stage}", nn.LayerNorm(config.dims[stage]))
        self.sparsity = SparsityConfig.dense(config.pairs)
        self.executed_windows: tuple[tuple[int, ...], ...] | None = None
        self.apply(_initialise)

    def set_sparsity(self, config: SparsityConfig | DeployConfig) -> None:
        """Applies ratios and score to every later forward; ConfigError where they do not fit.

        Of a deployed config only these are looked at: preprocessing and the weights' hash concern
        the whole model (TaskModel.set_sparsity).
        """
        sparsity = config.sparsity if isinstance(config, DeployConfig) else config
        sparsity.check_depths(self.config.depths)
        get_score(sparsity.score)
        self.sparsity = sparsity

    def set_activation_checkpointing(self, enabled: bool = True) -> None:
        """Whether training computes each block again in the backward pass instead of keeping its
        activations: much less memory for about a third more time."""
        for stage in self.layers:
            stage.activation_checkpointing = enabled

    def outputs(self, stage: int, x_BHWC: Tensor) -> list[Tensor]:
        """What `forward` returns of a stage's tokens: its feature map [B, C, H, W], or nothing."""
        if stage not in self.out_stages:
            return []
        return [self.get_submodule(f"norm{stage}")(x_BHWC).permute(0, 3, 1, 2)]

    def forward(self, images_BCHW: Tensor) -> list[Tensor]:
        check_images(images_BCHW, self.config.in_channels)
        x, features, executed = self.patch_embed(images_BCHW), [], []
        for index, (stage, levels) in enumerate(
            zip(self.layers, self.sparsity.levels, strict=True)
        ):
            x, kept = self.run_stage(stage, x, levels)
            executed.append(tuple(kept))
            features += self.outputs(index, x)
            if stage.downsample is not None:
                x = stage.downsample(x)
        self._count(tuple(executed), *images_BCHW.shape[-2:])
        return features

    def _count(self, executed: tuple[tuple[int, ...], ...], height: int, width: int) -> None:
        """Records what each block computed, counted from the rows it got: sparsity that was asked
        for and not applied must not go unseen."""
        expected = self.kept_windows(self.sparsity, height, width)
        if executed != expected:
            raise RuntimeError(f"windows computed: {executed}; the config asks for {expected}.")
        self.executed_windows = executed

    def run_stage(
        self, stage: SwinStage, x_BHWC: Tensor, levels: Genes
    ) -> tuple[Tensor, Sequence[int]]:
        """One stage at the given levels: its tokens and the windows each block computed."""
        score = self.stage_score(levels)
        state = stage.enter(x_BHWC, score)
        for pair, level in enumerate(levels):
            stage.run_pair(state, pair, level, score)
        return stage.leave(state), state.kept

    def stage_score(self, levels: Sequence[int]) -> WindowScore | None:
        """The score of a stage at these levels: None where nothing is dropped."""
        return get_score(self.sparsity.score) if any(levels) else None

    def kept_windows(
        self, sparsity: SparsityConfig, height: int, width: int
    ) -> tuple[tuple[int, ...], ...]:
        """Windows each block computes per image of height x width pixels, [stage][block]."""
        sparsity.check_depths(self.config.depths)
        sizes = self.config.stage_sizes(height, width)
        return tuple(self.kept_in_stage(sparsity, i, *size) for i, size in enumerate(sizes))

    def kept_in_stage(
        self, sparsity: SparsityConfig, stage: int, rows: int, cols: int
    ) -> tuple[int, ...]:
        """Windows each block of a stage with rows x cols tokens computes per image."""
        windows = self.config.windows(rows, cols)
        levels = sparsity.levels[stage]
        blocks = [kept_windows(windows, level) for level in levels for _ in (0, 1)]
        if get_score(sparsity.score).moment is Moment.FIRST_BLOCK:
            blocks[0] = windows
        return tuple(blocks)


def _check_stages(out_stages: Sequence[int] | None, count: int) -> tuple[int, ...]:
    stages = tuple(range(count)) if out_stages is None else tuple(out_stages)
    if not stages or list(stages) != sorted(set(stages) & set(range(count))):
        raise ConfigError(
            f"out_stages is {list(stages)}; it lists stages 0 to {count - 1}, rising."
        )
    return stages


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def check_images(images_BCHW: Tensor, channels: int) -> None:
    """ConfigError unless the tensor is a batch of images with `channels` channels."""
    if images_BCHW.ndim != 4 or not images_BCHW.is_floating_point():
        raise ConfigError(
            "images must be a float tensor [batch, channels, height, width], "
            f"got {images_BCHW.dtype} {list(images_BCHW.shape)}."
        )
    if images_BCHW.shape[1] != channels or 0 in images_BCHW.shape:
        raise ConfigError(
            f"there must be at least one image of {channels} channels and one pixel, got "
            f"{list(images_BCHW.shape)}."
        )
