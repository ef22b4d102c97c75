"""Rows of settings, one a lane, as columns: lists and `[L]` tensors; and lanes grouped into blocks.

A lane is one run of a study (one seed of one variant). Lanes whose static settings agree have
tensors of the same shape and train stacked on axis `L`; everything in which they differ is an `[L]`
tensor made here.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

Row = Mapping[str, object]


class LaneTable:
    """The settings of the lanes of one block, readable by name as a column over lanes.

    Args:
        rows: one mapping a lane, in lane order; all with the same names.

    Raises:
        ValueError: no row, or rows whose names differ.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        if not rows:
            raise ValueError("rows must hold at least one lane, got none")
        names = set(rows[0])
        for lane, row in enumerate(rows):
            if set(row) != names:
                odd = ", ".join(sorted(names.symmetric_difference(row)))
                raise ValueError(f"rows must all have the same names, lane {lane} differs in {odd}")
        self._rows = tuple(dict(row) for row in rows)

    @property
    def num_lanes(self) -> int:
        """L, the number of lanes."""
        return len(self._rows)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in the order of the first row."""
        return tuple(self._rows[0])

    def row(self, lane: int) -> dict[str, object]:
        """Settings of one lane, as a copy."""
        return dict(self._rows[lane])

    def column(self, name: str) -> list[object]:
        """Values of one setting over the lanes, [L].

        Raises:
            ValueError: no column has that name.
        """
        if name not in self._rows[0]:
            raise ValueError(f"column must be one of {', '.join(self.names)}, got {name!r}")
        return [row[name] for row in self._rows]

    def tensor(
        self,
        name: str,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """One numeric setting over the lanes.

        Returns:
            [L] tensor of `dtype` on `device`.

        Raises:
            ValueError: no such column, or a value that is not a number or a truth value.
        """
        values = self.column(name)
        for lane, value in enumerate(values):
            if not isinstance(value, (bool, int, float)):
                raise ValueError(
                    f"{name} must be a number in every lane, lane {lane} has {value!r}"
                )
        return torch.tensor(values, dtype=dtype, device=device)

    def select(self, lanes: Iterable[int]) -> "LaneTable":
        """The table of the chosen lanes, in the order asked for."""
        return LaneTable([self._rows[lane] for lane in lanes])


def group_lanes(rows: Sequence[Row], keys: Sequence[str]) -> list[tuple[int, ...]]:
    """Indices of the rows that agree in every one of `keys`, groups in first-seen order.

    Args:
        rows: one mapping a lane; the values of `keys` must be hashable.
        keys: the settings that lanes of a group must share.

    Returns:
        Disjoint tuples of increasing indices that together are `range(len(rows))`.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, row in enumerate(rows):
        groups.setdefault(tuple(row[key] for key in keys), []).append(index)
    return [tuple(group) for group in groups.values()]
