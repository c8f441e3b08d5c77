"""The architecture of a Swin backbone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sparsevit.errors import ConfigError
from sparsevit.sparsity.config import block_pairs


@dataclass(frozen=True, kw_only=True)
class SwinConfig:
    """Shape of a Swin backbone; the defaults are Swin-T.

    embed_dim doubles at each stage; num_heads has one entry per stage. A stage's depth is even:
    its blocks come in pairs, regular then shifted.
    """

    in_channels: int = 3
    patch_size: int = 4
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: float = 4.0
    qkv_bias: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "depths", tuple(self.depths))
        object.__setattr__(self, "num_heads", tuple(self.num_heads))
        block_pairs(self.depths)
        if len(self.num_heads) != len(self.depths):
            raise ConfigError(
                f"num_heads {self.num_heads} and depths {self.depths} must have one entry per stage."
            )
        for dim, heads in zip(self.dims, self.num_heads, strict=True):
            if heads < 1 or dim % heads:
                raise ConfigError(f"a stage of {dim} channels cannot be split into {heads} heads.")

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
        return asdict(self) | {"depths": list(self.depths), "num_heads": list(self.num_heads)}

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> SwinConfig:
        try:
            return cls(**document)
        except TypeError as error:
            raise ConfigError(f"this is no Swin architecture: {error}") from error
