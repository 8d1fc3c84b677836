"""Values that the generator of the embedded datasets passes around.

Frames: *model* (right-handed, y up, front -z, bounding-box centre at the origin, bounding-box
diagonal 1), *world* (z up, metres, floor at z = 0), *camera* (OpenCV: x right, y down, z forward,
metres). An object placed in the world maps a model point p to ``rotation @ (scale * p) +
translation``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class CadModel:
    """A parametric CAD model in the model frame; compared and hashed by identity.

    Attributes:
        category: class name, e.g. ``"chair"``.
        catalog_id: WordNet synset of the class as ShapeNet spells it, e.g. ``"03001627"``.
        model_id: name that is unique within the class, e.g. ``"chair_v03"``.
        vertices: (V, 3) float32.
        faces: (F, 3) int32, counter-clockwise seen from outside.
        face_parts: (F,) uint8, index of the part that a face belongs to.
        part_names: one name per part, e.g. ``("seat", "back", "leg")``.
        size: (3,) float32, nominal metric extents in metres along model x, y, z.
        symmetry: ``"__SYM_NONE"``, ``"__SYM_ROTATE_UP_2"``, ``"__SYM_ROTATE_UP_4"`` or
            ``"__SYM_ROTATE_UP_INF"``, true of the geometry about model +y.
    """

    category: str
    catalog_id: str
    model_id: str
    vertices: np.ndarray
    faces: np.ndarray
    face_parts: np.ndarray
    part_names: tuple[str, ...]
    size: np.ndarray
    symmetry: str


@dataclass(frozen=True)
class Material:
    """How a part looks: base colour (3,) float32 in [0, 1] (RGB) and a texture in model space."""

    color: np.ndarray
    texture: str = "none"  # a name in textures.TEXTURES
    texture_scale: float = 1.0


@dataclass(frozen=True)
class PlacedObject:
    """A CAD model in a scene.

    Attributes:
        model: the model.
        rotation: (3, 3) float64, model to world.
        scale: (3,) float64, metres per model unit along each model axis.
        translation: (3,) float64, world position of the model origin in metres.
        materials: one per part of the model.
        annotated: False for clutter and distractors, which are drawn and occlude but get no label.
    """

    model: CadModel
    rotation: np.ndarray
    scale: np.ndarray
    translation: np.ndarray
    materials: tuple[Material, ...]
    annotated: bool = True


@dataclass(frozen=True)
class Surface:
    """Background geometry (floor, wall, table top) in the world frame."""

    vertices: np.ndarray  # (V, 3) float32
    faces: np.ndarray  # (F, 3) int32
    material: Material


@dataclass(frozen=True)
class Lighting:
    """A point light, a directional light and an ambient term."""

    point_position: np.ndarray  # (3,) world, metres
    point_power: float
    direction: np.ndarray  # (3,) unit, towards the light
    directional_power: float
    ambient: float
    exposure: float


@dataclass(frozen=True, eq=False)
class Scene:
    """Everything that is drawn; a pure function of (kind, seed, split, index).

    Compared and hashed by identity, so that what is derived from a scene can be cached. Annotated
    objects come first, so that their instance ids have no gaps.
    """

    name: str
    objects: tuple[PlacedObject, ...]
    surfaces: tuple[Surface, ...]
    lighting: Lighting
    seed: tuple[int, ...]


@dataclass(frozen=True)
class View:
    """A camera.

    Attributes:
        intrinsics: (3, 3) float64 in pixels, pixel centres at integer coordinates.
        world_to_camera: (4, 4) float64.
        size: image size (height, width).
        index: number of the view within its scene; seeds the pixel noise.
    """

    intrinsics: np.ndarray
    world_to_camera: np.ndarray
    size: tuple[int, int]
    index: int = 0


@dataclass(frozen=True)
class Frame:
    """What the renderer returns for one view.

    Attributes:
        rgb: (H, W, 3) uint8.
        depth: (H, W) float32, metres along the optical axis, 0 where nothing was hit.
        instance: (H, W) uint8, 1 + index into ``Scene.objects``, 0 for surfaces and nothing.
        nocs: (H, W, 3) float32 in [-0.5, 0.5], model coordinates of the hit point, 0 outside.
        normals: (H, W, 3) float32, unit, camera frame, facing the camera, 0 where nothing was hit.
        amodal_masks: (N, H, W) bool, each object drawn alone (inside the image).
        amodal_boxes: (N, 4) float32 XYXY, exclusive right and bottom edge, of the projected object
            without clipping by the image border (the part in front of the near plane).
        visible_boxes: (N, 4) float32 XYXY of the visible pixels; zeros where there are none.
        visible_pixels: (N,) int64.
        visibility: (N,) float32, visible pixels over pixels of the object drawn alone.
        truncation: (N,) float32, share of the unclipped amodal box outside the image.
    """

    rgb: np.ndarray
    depth: np.ndarray
    instance: np.ndarray
    nocs: np.ndarray
    normals: np.ndarray
    amodal_masks: np.ndarray
    amodal_boxes: np.ndarray
    visible_boxes: np.ndarray
    visible_pixels: np.ndarray
    visibility: np.ndarray
    truncation: np.ndarray
