"""The architecture of a Swin backbone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import block_pairs

# Far beyond every Swin, and small enough that a network of these bounds can be described at all.
MAX_STAGES = 8
MAX_BLOCKS = 200
MAX_TABLE_ENTRIES = 2**26  # of the position index and the shift masks, over all blocks: 1 GiB
BOUNDS = {"in_channels": 1024, "patch_size": 64, "embed_dim": 4096, "window_size": 64}
MAX_MLP_RATIO = 64
MAX_POSITIONS = 4096  # rows or columns of an absolute position embedding

# What happens to the shifted partition of a map that fits into one window (paper.md, pitfall 2):
#   shift  it is shifted all the same             transformers' SwinBackbone, OpenMMLab's detectors
#   whole  no shift where either side fits        original code, transformers' SwinModel
#   axis   no shift along a side that fits        torchvision, timm
# All three agree on maps larger than a window; `whole` and `axis` also on square ones.
SMALL_MAPS = ("shift", "whole", "axis")


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Shape of a Swin backbone; the defaults are Swin-T.

    embed_dim doubles at each stage; num_heads has one entry per stage. A stage's depth is even:
    its blocks come in pairs, regular then shifted.
    small_map: how a map no larger than a window is shifted, one of SMALL_MAPS.
    absolute_positions: (rows, columns) of the embedding that is added to the patches, resized
    to the image's; None as in every released Swin.
    """

    in_channels: int = 3
    patch_size: int = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    small_map: str = "shift"
    absolute_positions: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for field, most in BOUNDS.items():
            _check_whole(field, getattr(self, field), most)
        for field in ("depths", "num_heads"):
            object.__setattr__(self, field, _whole_numbers(field, getattr(self, field)))
        self._check_stages()
        self._check_mlp()
        if not isinstance(self.qkv_bias, bool):
            raise ConfigError(f"qkv_bias is {self.qkv_bias!r}; it is true or false.")
        if self.small_map not in SMALL_MAPS:
            raise ConfigError(f"small_map is {self.small_map!r}; it is one of {SMALL_MAPS}.")
        self._check_positions()

    def _check_stages(self) -> None:
        if not 1 <= len(self.depths) <= MAX_STAGES:
            raise ConfigError(f"a Swin has 1 to {MAX_STAGES} stages, not {len(self.depths)}.")
        block_pairs(self.depths)
        blocks = sum(self.depths)
        if min(self.depths) < 2 or blocks > MAX_BLOCKS:
            raise ConfigError(
                f"depths {self.depths}: each stage has at least 2 blocks, all together at most "
                f"{MAX_BLOCKS}."
            )
        if blocks * self.window_size**4 > MAX_TABLE_ENTRIES:
            raise ConfigError(
                f"windows of {self.window_size} are too large for a network of {blocks} blocks."
            )
        if len(self.num_heads) != len(self.depths):
            raise ConfigError(
                f"num_heads {self.num_heads} and depths {self.depths} must have one entry per stage."
            )
        for dim, heads in zip(self.dims, self.num_heads, strict=True):
            if heads < 1 or dim % heads:
                raise ConfigError(f"a stage of {dim} channels cannot be split into {heads} heads.")

    def _check_mlp(self) -> None:
        ratio = self.mlp_ratio
        number = isinstance(ratio, (int, float)) and not isinstance(ratio, bool)
        # NaN fails the comparison too.
        if not number or not 0 < ratio <= MAX_MLP_RATIO or self.embed_dim * ratio < 1:
            raise ConfigError(
                f"mlp_ratio is {ratio!r}; it is a number up to {MAX_MLP_RATIO} that leaves the MLP "
                "at least one channel."
            )

    def _check_positions(self) -> None:
        if self.absolute_positions is None:
            return
        grid = _whole_numbers("absolute_positions", self.absolute_positions)
        if len(grid) != 2 or not all(1 <= side <= MAX_POSITIONS for side in grid):
            raise ConfigError(
                f"absolute_positions is {list(grid)}; it is [rows, columns], each 1 to "
                f"{MAX_POSITIONS}, or null."
            )
        object.__setattr__(self, "absolute_positions", grid)

    @property
    def dims(self) -> tuple[int, ...]:
        """Channels of each stage."""
        return tuple(self.embed_dim * 2**i for i in range(len(self.depths)))

    @property
    def pairs(self) -> tuple[int, ...]:
        """Block pairs of each stage."""
        return block_pairs(self.depths)

    def stage_sizes(self, height: int, width: int) -> tuple[tuple[int, int], ...]:
        """(height, width) in tokens of each stage for an image of height x width pixels."""
        rows, cols = -(-height // self.patch_size), -(-width // self.patch_size)
        sizes = [(rows, cols)]
        for _ in self.depths[1:]:
            rows, cols = (rows + 1) // 2, (cols + 1) // 2
            sizes.append((rows, cols))
        return tuple(sizes)

    def stage_windows(self, height: int, width: int) -> tuple[int, ...]:
        """Windows per image in each stage (the same for both partitions)."""
        return tuple(self.windows(*size) for size in self.stage_sizes(height, width))

    def windows(self, rows: int, cols: int) -> int:
        """Windows that cover rows x cols tokens."""
        return -(-rows // self.window_size) * -(-cols // self.window_size)

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it: lists for tuples."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> SwinConfig:
        try:
            return cls(**document)
        except TypeError as error:
            raise ConfigError(f"this is no Swin architecture: {error}") from error


def _whole_numbers(field: str, values: Any) -> tuple[int, ...]:
    if not isinstance(values, (list, tuple)):
        raise ConfigError(f"{field} is {values!r}; it is a list of whole numbers.")
    if any(isinstance(v, bool) or not isinstance(v, int) for v in values):
        raise ConfigError(f"{field} is {list(values)}; its entries are whole numbers.")
    return tuple(values)


def _check_whole(field: str, value: Any, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise ConfigError(f"{field} is {value!r}; it is a whole number from 1 to {most}.")
