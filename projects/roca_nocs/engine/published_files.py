"""Reading of published weights, without running what the files contain."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

__all__ = ["ConversionError", "read_arrays", "read_state"]


class ConversionError(ValueError):
    """A file that is no checkpoint of the published model; the message says why."""


def read_state(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's ``model`` entry, or of a bare state dict.

    Raises:
        FileNotFoundError: there is no such file.
        ConversionError: it is damaged, holds anything but plain data, or has no model.
    """
    try:
        # Trainings often store their arguments beside the tensors; a Namespace is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise
    except pickle.UnpicklingError as error:
        raise ConversionError(
            f"{path} is refused: it holds more than tensors and plain data, or is no checkpoint "
            f"({str(error).splitlines()[0]})"
        ) from error
    except Exception as error:  # whatever a damaged archive makes its readers raise
        raise ConversionError(
            f"{path} cannot be read as a checkpoint ({type(error).__name__}: {error})"
        ) from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise ConversionError(
            f"{path} has no entry 'model' with named tensors, but {found}: give the checkpoint "
            "file as it was published"
        )
    return dict(state)


def read_arrays(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Arrays of a file of Keras weights as ``<layer>/<kind>``, e.g. ``mrcnn_mask_conv1/kernel``.

    Args:
        path: an ``.h5`` file as published, which takes the library h5py, or an ``.npz`` with the
            arrays under names that end with ``<layer>/<kind>``.

    Raises:
        FileNotFoundError: there is no such file.
        ConversionError: h5py is missing or the file is damaged.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                arrays = dict(file)
        else:
            arrays = _read_h5(path)
    except ModuleNotFoundError as error:
        raise ConversionError(
            f"{path}: .h5 files are read by h5py, which is not installed: pip install h5py"
        ) from error
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path} cannot be read: {error}") from error
    return {
        "/".join(name.removesuffix(":0").split("/")[-2:]): torch.from_numpy(array)
        for name, array in arrays.items()
    }


def _read_h5(path: Path) -> dict[str, np.ndarray]:
    import h5py

    arrays: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        file.visititems(
            lambda name, item: (
                arrays.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return arrays
