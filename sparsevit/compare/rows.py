"""The rows of a comparison, as the paper's tables have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparsevit.compare.settings import CompareSettings
from sparsevit.compare.sizes import Size, reduced_sizes
from sparsevit.sparsity.config import Genes
from sparsevit.swin.config import SwinConfig

KINDS = ("dense", "resolution", "width", "uniform", "searched")
SPARSE = ("uniform", "searched")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    size: (height, width) of the input. width: share of the channels. genes: of a uniform row; None for
    a dense row, and for a searched one, which has its own for every seed. against: the dense rows
    whose latency a sparse row has to meet.
    """

    name: str
    kind: str
    size: Size
    width: float = 1.0
    genes: Genes | None = None
    against: tuple[str, ...] = ()

    @property
    def sparse(self) -> bool:
        return self.kind in SPARSE

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Row:
        tuples = {k: tuple(v) for k, v in document.items() if isinstance(v, list)}
        return cls(**document | tuples)


def dense_rows(config: SwinConfig, size: Size, settings: CompareSettings) -> list[Row]:
    """Dense at full size, then at reduced resolutions, then at reduced widths."""
    rows = [Row("dense", "dense", size)]
    for small in reduced_sizes(config, size, settings.sizes):
        rows.append(Row(f"R{_size_name(small)}", "resolution", small))
    rows += [Row(f"W{width:g}", "width", size, width) for width in settings.widths]
    return rows


def sparse_rows(size: Size, uniform: dict[str, Genes]) -> list[Row]:
    """uniform: by dense row, the uniform config that meets its latency. Uniform rows, each once, then a
    searched one for each dense row."""
    met: dict[Genes, list[str]] = {}
    for name, genes in uniform.items():
        met.setdefault(genes, []).append(name)
    rows = [
        Row(f"uniform {genes[0] / 10:g}", "uniform", size, genes=genes, against=tuple(names))
        for genes, names in sorted(met.items())
    ]
    rows += [Row(f"searched ({name})", "searched", size, against=(name,)) for name in uniform]
    return rows


def named(rows: Sequence[Row], name: str) -> Row:
    return next(row for row in rows if row.name == name)


def sparse_for(rows: Sequence[Row], kind: str, against: str) -> Row:
    """The uniform or the searched row that meets the latency of a dense one."""
    return next(row for row in rows if row.kind == kind and against in row.against)


def place_key(row: Row, genes: Genes) -> str:
    """What a latency depends on: size, width and config; rows and seeds may share it."""
    return f"{row.size[0]}x{row.size[1]} W{row.width:g} {'-'.join(map(str, genes))}"


def _size_name(size: Size) -> str:
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"
