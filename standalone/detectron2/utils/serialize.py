"""Pickling of closures, for dataset functions that travel to worker processes."""

from typing import Any

import cloudpickle

__all__ = ["PicklableWrapper"]


class PicklableWrapper:
    """Make an object picklable through cloudpickle, and otherwise behave like it.

    Unpickling gives the wrapped object itself, not a wrapper. Wrapping twice is the same as once.
    """

    def __init__(self, obj: Any) -> None:
        self._obj = obj._obj if isinstance(obj, PicklableWrapper) else obj

    def __reduce__(self) -> tuple[Any, tuple[bytes]]:
        return cloudpickle.loads, (cloudpickle.dumps(self._obj),)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._obj(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name == "_obj":  # only while half constructed: delegating would never end
            raise AttributeError(name)
        return getattr(self._obj, name)
