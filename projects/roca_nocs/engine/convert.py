"""Published checkpoints as checkpoints of our models.

The models keep the published parameter names, so that a conversion only takes out what is no
parameter and checks that the rest fits to the last tensor.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

__all__ = [
    "CONVERSIONS",
    "Conversion",
    "ConversionError",
    "convert",
    "leave_out_replaceable",
    "read_state",
    "unify_names",
]

_LISTED = 8


class ConversionError(ValueError):
    """A file that is no checkpoint of the published model; the message says why."""


@dataclass(frozen=True)
class Conversion:
    """What there is to know of a published checkpoint.

    Attributes:
        description: which one.
        config: file of our model, relative to the checkout.
        dropped: entries that the model of today has no use for; they may be missing.
        aliases: pairs of beginnings of names under which the model has the same tensors twice; a
            file may have either or both.
        replaceable: beginnings of names whose tensors depend on the data set; those of another
            shape are left out instead of being an error.
    """

    description: str
    config: str
    dropped: frozenset[str] = frozenset()
    aliases: tuple[tuple[str, str], ...] = ()
    replaceable: tuple[str, ...] = ()


CONVERSIONS = {
    "roca": Conversion(
        description="model_best.pth of ROCA (Scan2CAD, resnet_resnet+image+comp)",
        config="configs/roca/roca_r50_fpn_scan2cad.py",
        # Buffers that detectron2 0.3 stored; since then they follow from the config.
        dropped=frozenset(
            ["pixel_mean", "pixel_std"]
            + [f"proposal_generator.anchor_generator.cell_anchors.{level}" for level in range(5)]
        ),
    ),
    "aligndetr": Conversion(
        description="a checkpoint of AlignDETR, or of detrex's DINO, R50 with 4 feature levels",
        config="configs/aligndetr/r50_24ep.py",
        aliases=tuple(
            (f"{heads}.", f"transformer.decoder.{heads}.")
            for heads in ("class_embed", "bbox_embed")
        ),
        replaceable=(
            "class_embed.",
            "transformer.decoder.class_embed.",
            "label_enc.",
            "transformer.tgt_embed.",  # depends on the number of queries
        ),
    ),
}


def read_state(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint's ``model`` entry, read without running what the file contains.

    Raises:
        FileNotFoundError: there is no such file.
        ConversionError: it is damaged, holds anything but plain data, or has no model.
    """
    try:
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
    state = content.get("model") if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not all(map(torch.is_tensor, state.values())):
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise ConversionError(
            f"{path} has no entry 'model' with named tensors, but {found}: give the checkpoint "
            "file as it was published"
        )
    return dict(state)


def unify_names(
    state: Mapping[str, torch.Tensor], aliases: Sequence[tuple[str, str]] = ()
) -> dict[str, torch.Tensor]:
    """Tensors without the prefix of a data-parallel wrapper, and under all names that they have.

    Args:
        state: published tensors by name.
        aliases: see :class:`Conversion`.

    Raises:
        ConversionError: two names of one tensor have different values.
    """
    wrapped = bool(state) and all(name.startswith("module.") for name in state)
    state = {name.removeprefix("module.") if wrapped else name: t for name, t in state.items()}
    unified = dict(state)
    for pair in aliases:
        for prefix, other in (pair, pair[::-1]):
            for name, tensor in state.items():
                if not name.startswith(prefix):
                    continue
                alias = other + name.removeprefix(prefix)
                if not torch.equal(unified.setdefault(alias, tensor), tensor):
                    raise ConversionError(
                        f"{name} and {alias} are the same tensor in the model, but they differ in "
                        "the checkpoint"
                    )
    return unified


def leave_out_replaceable(
    state: Mapping[str, torch.Tensor],
    shapes: Mapping[str, Sequence[int]],
    replaceable: tuple[str, ...],
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Separate what depends on the data set and has another shape than the model needs.

    Args:
        state: tensors by name.
        shapes: what the model needs, by name.
        replaceable: see :class:`Conversion`.

    Returns:
        The other tensors, and a line for each that was left out.
    """
    left_out = {
        name: f"{name} {tuple(tensor.shape)}, the model has {tuple(shapes[name])}"
        for name, tensor in state.items()
        if name.startswith(replaceable)
        and name in shapes
        and tuple(tensor.shape) != tuple(shapes[name])
    }
    kept = {name: tensor for name, tensor in state.items() if name not in left_out}
    return kept, [*left_out.values()]


def convert(
    state: Mapping[str, torch.Tensor],
    shapes: Mapping[str, Sequence[int]],
    dropped: Collection[str] = (),
) -> dict[str, torch.Tensor]:
    """The tensors of a model, all of them and no others.

    Args:
        state: published tensors by name.
        shapes: what the model needs, by name.
        dropped: names to leave out of ``state``.

    Returns:
        The tensors in the order of ``shapes``.

    Raises:
        ConversionError: tensors are missing, unexpected or of another shape; all are named.
    """
    kept = {name: tensor for name, tensor in state.items() if name not in dropped}
    wrong = [
        f"{name} {tuple(kept[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in kept and tuple(kept[name].shape) != tuple(shape)
    ]
    problems = {
        "missing": [name for name in shapes if name not in kept],
        "unexpected": [name for name in kept if name not in shapes],
        "of another shape": wrong,
    }
    if any(problems.values()):
        found = [
            f"{len(names)} {kind}: {_some(names)}" for kind, names in problems.items() if names
        ]
        raise ConversionError(
            f"the checkpoint does not fit the model, which has {len(shapes)} tensors. "
            + "; ".join(found)
        )
    return {name: kept[name] for name in shapes}


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")
