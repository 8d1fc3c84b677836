"""Global name -> data set and name -> metadata tables."""

from __future__ import annotations

import logging
import types
from collections import UserDict
from collections.abc import Callable
from typing import Any

from ..utils.logger import log_first_n

__all__ = ["DatasetCatalog", "Metadata", "MetadataCatalog"]


class _NamedTable(UserDict):
    """A dictionary keyed by data set name with the catalogs' shared verbs."""

    def list(self) -> list[str]:
        """Names in order of registration."""
        return [*self.data]

    def remove(self, name: str) -> None:
        """Forget `name`; `KeyError` when it is unknown."""
        del self.data[name]

    def __repr__(self) -> str:
        return f"{type(self).__name__.lstrip('_')}({', '.join(self.data)})"

    __str__ = __repr__


class _DatasetCatalog(_NamedTable):
    """Maps the name of a data set to the function that returns its records.

    Only the function is stored: nothing is read from disk before `get`.
    """

    def register(self, name: str, func: Callable[[], Any]) -> None:
        """Store `func`, which takes no argument and returns the records, under a new name."""
        assert callable(func), (
            f"DatasetCatalog.register needs a function that returns the records of '{name}', "
            f"got {type(func).__name__}!"
        )
        assert name not in self.data, f"Dataset '{name}' is already registered!"
        self.data[name] = func

    def get(self, name: str) -> Any:
        """Call the registered function (each time) and return what it returns.

        Raises:
            KeyError: the name is unknown; the message lists the known ones.
        """
        try:
            func = self.data[name]
        except KeyError:
            raise KeyError(
                f"Dataset '{name}' is not registered! "
                f"Available datasets are: {', '.join(self.data)}"
            ) from None
        return func()


_RENAMED_KEYS = {
    "class_names": "thing_classes",
    "dataset_id_to_contiguous_id": "thing_dataset_id_to_contiguous_id",
    "stuff_class_names": "stuff_classes",
}


def _current_key(key: str) -> str:
    """The name that a metadata key of earlier versions has now."""
    new = _RENAMED_KEYS.get(key)
    if new is None:
        return key
    log_first_n(logging.WARNING, f"Metadata '{key}' was renamed to '{new}'!", n=10)
    return new


class Metadata(types.SimpleNamespace):
    """Constants of one data set as attributes; a value, once set, cannot be changed."""

    # A class attribute, so that error messages about a half-built object do not recurse.
    name: str = "N/A"

    def __getattr__(self, key: str) -> Any:
        # Called only when ordinary lookup has failed.
        current = _current_key(key)
        if current != key:
            return getattr(self, current)
        present = [k for k in self.__dict__ if k != "name"]
        reason = f"Available keys are {present}." if present else "metadata is empty."
        raise AttributeError(
            f"Attribute '{key}' does not exist in the metadata of dataset '{self.name}': {reason}"
        )

    def __setattr__(self, key: str, value: Any) -> None:
        key = _current_key(key)
        if key in self.__dict__:
            old = self.__dict__[key]
            assert old == value, (
                f"Attribute '{key}' in the metadata of '{self.name}' cannot be set "
                f"to a different value!\n{old} != {value}"
            )
        else:
            super().__setattr__(key, value)

    def as_dict(self) -> dict[str, Any]:
        """All entries as a new (shallow) dictionary."""
        return dict(self.__dict__)

    def set(self, **entries: Any) -> Metadata:
        """Set several entries; returns `self`, so that it can be chained."""
        for key, value in entries.items():
            setattr(self, key, value)
        return self

    def get(self, key: str, default: Any = None) -> Any:
        """The entry called `key`, or `default` when there is none."""
        return getattr(self, key, default)


class _MetadataCatalog(_NamedTable):
    """Maps the name of a data set to its `Metadata`, one object a name for the whole process."""

    def get(self, name: str) -> Metadata:
        """The metadata of `name`, created empty on first use."""
        assert name, "MetadataCatalog.get needs the name of a dataset, got an empty one!"
        if name not in self.data:
            self.data[name] = Metadata(name=name)
        return self.data[name]


DatasetCatalog = _DatasetCatalog()
MetadataCatalog = _MetadataCatalog()
