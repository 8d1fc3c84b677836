"""Which CAD model an instance shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch


class CadReferences:
    """The CAD models of N instances, as keys of a CAD catalogue.

    Fits ``Instances``: it has a length, takes any index that tensors take (a whole number gives a
    list of one), ignores devices and concatenates.
    """

    def __init__(self, keys: Sequence[tuple[str, str]]) -> None:
        """
        Args:
            keys: (catalogue id, model id) of each instance, e.g. ``("03001627", "chair_v03")``.

        Raises:
            ValueError: an entry is not a pair.
        """
        self.keys = [tuple(key) for key in keys]
        for key in self.keys:
            if len(key) != 2:
                raise ValueError(f"a CAD reference is (catalogue id, model id), got {key!r}")

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.keys)

    def __getitem__(self, item: int | slice | Sequence[int] | torch.Tensor) -> CadReferences:
        if isinstance(item, int):
            return CadReferences([self.keys[item]])
        positions = torch.arange(len(self))[item.cpu() if torch.is_tensor(item) else item]
        return CadReferences([self.keys[position] for position in positions.tolist()])

    def __repr__(self) -> str:
        return f"CadReferences({self.keys})"

    def to(self, *args: object, **kwargs: object) -> CadReferences:
        """Itself: names live on no device."""
        return self

    @staticmethod
    def cat(references: Sequence[CadReferences]) -> CadReferences:
        """All references in one list."""
        return CadReferences([key for each in references for key in each])
