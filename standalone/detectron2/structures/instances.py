"""A table of per-object fields for one image."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch


class Instances:
    """Objects of one image: named fields that all have one entry per object.

    Fields are read and written as attributes (``instances.gt_boxes = boxes``). A field may be any
    type with ``__len__`` and ``__getitem__``; to take part in :meth:`to` and :meth:`cat` a type of
    its own provides ``to`` and a static or class method ``cat``. Attributes that start with an
    underscore are ordinary attributes.
    """

    def __init__(self, image_size: tuple[int, int], **kwargs: Any) -> None:
        """Make a table for an image of ``(height, width)`` with the given fields."""
        self._image_size = image_size
        self._fields: dict[str, Any] = {}
        for name, value in kwargs.items():
            self.set(name, value)

    @property
    def image_size(self) -> tuple[int, int]:
        """``(height, width)`` in pixels."""
        return self._image_size

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self.set(name, value)

    def __getattr__(self, name: str) -> Any:
        # Copying and unpickling look up attributes before `_fields` exists.
        fields = self.__dict__.get("_fields", {})
        if name not in fields:
            raise AttributeError(f"Cannot find field '{name}' in the given Instances!")
        return fields[name]

    def set(self, name: str, value: Any) -> None:
        """Set a field; its length must equal that of the fields already there."""
        length = len(value)
        if self._fields:
            assert len(self) == length, (
                f"Adding a field of length {length} to a Instances of length {len(self)}"
                f" (field '{name}')"
            )
        self._fields[name] = value

    def has(self, name: str) -> bool:
        """Whether the field exists."""
        return name in self._fields

    def remove(self, name: str) -> None:
        """Delete a field; ``KeyError`` if it does not exist."""
        del self._fields[name]

    def get(self, name: str) -> Any:
        """Return a field; ``KeyError`` if it does not exist."""
        return self._fields[name]

    def get_fields(self) -> dict[str, Any]:
        """The fields by name. This is the table itself: changes to it change the object."""
        return self._fields

    def _with_fields(self, fields: dict[str, Any]) -> Instances:
        return type(self)(self._image_size, **fields)

    def to(self, *args: Any, **kwargs: Any) -> Instances:
        """Call ``to(...)`` on every field that has it; other fields are passed on as they are."""
        return self._with_fields(
            {
                name: value.to(*args, **kwargs) if hasattr(value, "to") else value
                for name, value in self._fields.items()
            }
        )

    def __getitem__(self, item: int | slice | list | torch.Tensor) -> Instances:
        """Select objects. An integer gives a table of length 1; the rest is up to each field."""
        if isinstance(item, int | np.integer):
            length = len(self)
            if not -length <= item < length:
                raise IndexError(f"Index {item} is out of range for {length} instances.")
            start = int(item) % length
            item = slice(start, start + 1)
        return self._with_fields({name: value[item] for name, value in self._fields.items()})

    def __len__(self) -> int:
        for value in self._fields.values():
            return len(value)
        raise NotImplementedError("Empty Instances does not support __len__!")

    def __iter__(self) -> Iterator[Any]:
        # Without this, Python would iterate by calling __getitem__ with 0, 1, 2, ...
        raise NotImplementedError("`Instances` object is not iterable!")

    @staticmethod
    def cat(instance_lists: Sequence[Instances]) -> Instances:
        """Concatenate tables of the same image size.

        The fields of the first table decide: further fields of later ones are dropped, missing
        ones raise ``KeyError``. A single table is returned as it is, not copied.

        Raises:
            ValueError: a field type that does not know how to be concatenated.
        """
        assert len(instance_lists) > 0, "Instances.cat needs at least one Instances."
        assert all(isinstance(instances, Instances) for instances in instance_lists), (
            f"Only Instances can be concatenated, got "
            f"{[type(instances).__name__ for instances in instance_lists]}."
        )
        first = instance_lists[0]
        if len(instance_lists) == 1:
            return first
        sizes = [tuple(instances.image_size) for instances in instance_lists]
        assert len(set(sizes)) == 1, f"Instances of different image sizes: {sizes}."
        return first._with_fields(
            {
                name: _concatenate(name, [instances.get(name) for instances in instance_lists])
                for name in first._fields
            }
        )

    def __repr__(self) -> str:
        height, width = self._image_size
        count = len(self) if self._fields else 0
        fields = ", ".join(f"{name}: {value}" for name, value in self._fields.items())
        return (
            f"{type(self).__name__}(num_instances={count}, image_height={height}, "
            f"image_width={width}, fields=[{fields}])"
        )


def _concatenate(name: str, values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, torch.Tensor):
        return torch.cat(values, dim=0)
    if isinstance(first, list):
        return list(itertools.chain.from_iterable(values))
    if hasattr(type(first), "cat"):
        return type(first).cat(values)
    raise ValueError(
        f"Field '{name}' of type {type(first).__name__} cannot be concatenated: it is neither a "
        "tensor nor a list and its class has no `cat`."
    )
