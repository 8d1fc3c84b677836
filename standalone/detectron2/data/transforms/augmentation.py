"""Policies that look at the data and choose a (deterministic) transform for it."""

import inspect
import pprint
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from fvcore.transforms.transform import Transform, TransformList

__all__ = [
    "AugInput",
    "Augmentation",
    "AugmentationList",
    "StandardAugInput",
    "TransformGen",
    "apply_augmentations",
    "apply_transform_gens",
]

_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Augmentation:
    """Base class: `get_transform` is the policy, calling the object applies it to an input.

    Random draws use numpy's global generator, which the data loaders seed in each worker.
    """

    input_args: tuple[str, ...] | None = None
    """Attributes of the input that `get_transform` receives. `None`: the names of its
    parameters; a single parameter, whatever its name, receives `image`."""

    def _init(self, params: Mapping[str, Any] | None = None) -> None:
        """Store constructor arguments, given as `locals()`, as attributes."""
        for key, value in (params or {}).items():
            if key != "self" and not key.startswith("_"):
                setattr(self, key, value)

    def _input_names(self) -> tuple[str, ...]:
        if self.input_args is not None:
            return tuple(self.input_args)
        parameters = inspect.signature(self.get_transform).parameters
        if len(parameters) == 1:
            return ("image",)
        if any(p.kind in _VARIADIC for p in parameters.values()):
            raise TypeError(
                f"{type(self).__name__}.get_transform declares its inputs by the names of its "
                "parameters and cannot use *args or **kwargs. Name them or override __call__."
            )
        return tuple(parameters)

    def get_transform(self, *args: Any) -> Transform:
        """Choose a transform; overridden with named parameters, e.g. `(self, image, sem_seg)`."""
        raise NotImplementedError(f"{type(self).__name__} does not define get_transform.")

    def __call__(self, aug_input: Any) -> Transform:
        """Transform `aug_input` in place and return the transform that was used.

        Args:
            aug_input: has the attributes that `get_transform` asks for, and a method
                `transform(transform)` which replaces its data; usually an `AugInput`.

        Raises:
            AttributeError: the input lacks an attribute that `get_transform` asks for.
        """
        args = []
        for name in self._input_names():
            if not hasattr(aug_input, name):
                raise AttributeError(
                    f"{type(self).__name__}.get_transform needs input attribute '{name}', "
                    f"but {type(aug_input).__name__} has none!"
                )
            args.append(getattr(aug_input, name))
        transform = self.get_transform(*args)
        assert isinstance(transform, Transform), (
            f"{type(self).__name__}.get_transform must return an instance of Transform! "
            f"Got {type(transform)} instead."
        )
        aug_input.transform(transform)
        return transform

    def _rand_range(
        self, low: float = 1.0, high: float | None = None, size: Sequence[int] | None = None
    ) -> Any:
        """Uniform draw from `[low, high)`, or from `[0, low)` without `high`."""
        if high is None:
            low, high = 0.0, low
        return np.random.uniform(low, high, size)

    def __repr__(self) -> str:
        parameters = inspect.signature(type(self)).parameters
        if any(p.kind in _VARIADIC or not hasattr(self, n) for n, p in parameters.items()):
            return super().__repr__()
        shown = []
        for name, parameter in parameters.items():
            value = getattr(self, name)
            # Identity: the value may be an array, and a default given explicitly is shown.
            if value is not parameter.default:
                text = pprint.pformat(value)
                shown.append(f"{name}={'...' if chr(10) in text else text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    __str__ = __repr__


class _FixedAugmentation(Augmentation):
    """The policy that always chooses the same transform."""

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    def get_transform(self, *args: Any) -> Transform:
        return self.transform

    def __repr__(self) -> str:
        return repr(self.transform)

    __str__ = __repr__


def _to_augmentation(transform_or_augmentation: Transform | Augmentation) -> Augmentation:
    assert isinstance(transform_or_augmentation, Transform | Augmentation), (
        f"Expected a Transform or an Augmentation, got {transform_or_augmentation!r}."
    )
    if isinstance(transform_or_augmentation, Transform):
        return _FixedAugmentation(transform_or_augmentation)
    return transform_or_augmentation


class AugmentationList(Augmentation):
    """Applies augmentations one after the other, each to the result of those before it."""

    def __init__(self, augs: Sequence[Augmentation | Transform]) -> None:
        self.augs = [_to_augmentation(aug) for aug in augs]

    def __call__(self, aug_input: Any) -> TransformList:
        return TransformList([aug(aug_input) for aug in self.augs])

    def __repr__(self) -> str:
        return f"AugmentationList[{', '.join(map(str, self.augs))}]"

    __str__ = __repr__


class AugInput:
    """An image with what belongs to it; all of it is transformed together."""

    def __init__(
        self,
        image: np.ndarray,
        *,
        boxes: np.ndarray | None = None,
        sem_seg: np.ndarray | None = None,
    ) -> None:
        """
        Args:
            image: `(H, W)` or `(H, W, C)`, uint8 in [0, 255] or floating point.
            boxes: `(N, 4)` corners in pixels (XYXY_ABS).
            sem_seg: `(H, W)` integer labels.
        """
        assert isinstance(image, np.ndarray), (
            f"AugInput needs the image as a numpy array, got a {type(image).__name__}!"
        )
        assert image.ndim in (2, 3), f"AugInput needs (H, W) or (H, W, C), got {image.shape}."
        self.image = image
        self.boxes = boxes
        self.sem_seg = sem_seg

    def transform(self, tfm: Transform) -> None:
        """Replace every attribute by its transformed version."""
        self.image = tfm.apply_image(self.image)
        if self.boxes is not None:
            self.boxes = tfm.apply_box(self.boxes)
        if self.sem_seg is not None:
            self.sem_seg = tfm.apply_segmentation(self.sem_seg)

    def apply_augmentations(
        self, augmentations: Sequence[Augmentation | Transform]
    ) -> TransformList:
        """Apply the augmentations in place and return the transforms that were used."""
        return AugmentationList(augmentations)(self)


def apply_augmentations(
    augmentations: Sequence[Augmentation | Transform], inputs: np.ndarray | AugInput
) -> tuple[np.ndarray | AugInput, TransformList]:
    """Apply augmentations to an `AugInput` (in place) or to a bare image.

    Returns:
        The augmented input, of the kind that was given, and the transforms that were used.
    """
    if isinstance(inputs, np.ndarray):
        image_input = AugInput(inputs)
        transforms = image_input.apply_augmentations(augmentations)
        return image_input.image, transforms
    return inputs, inputs.apply_augmentations(augmentations)


# Names of earlier versions, still common in code outside.
TransformGen = Augmentation
StandardAugInput = AugInput
apply_transform_gens = apply_augmentations
