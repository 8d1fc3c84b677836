"""Colours and textures of parts: typical of the class where it has typical ones, else random."""

from __future__ import annotations

import colorsys

import numpy as np

from .types import CadModel, Material

# Base colours in 0-255. A role that is missing here takes any colour.
_BASES: dict[str, tuple[tuple[int, int, int], ...]] = {
    "wood": ((150, 105, 65), (120, 80, 48), (185, 145, 95), (95, 62, 40), (205, 175, 130)),
    "light wood": ((205, 178, 140), (228, 222, 212), (180, 150, 110)),
    "metal": ((165, 165, 170), (120, 122, 126), (70, 70, 74)),
    "dark": ((32, 32, 36), (48, 48, 52), (24, 26, 30)),
    "case": ((45, 45, 48), (30, 30, 32), (150, 152, 156), (205, 206, 208)),
    "screen": ((22, 26, 34), (16, 18, 22), (46, 72, 120)),
    "glass": ((26, 28, 40), (40, 40, 60)),
    "ceramic": ((235, 236, 234), (222, 222, 216)),
    "linen": ((232, 230, 224), (214, 216, 222), (226, 216, 198)),
    "cardboard": ((176, 134, 88), (190, 150, 104)),
    "leaf": ((62, 112, 52), (84, 130, 60)),
    "paper": ((236, 236, 232), (245, 244, 238)),
    "upholstery": ((122, 120, 122), (178, 160, 132), (84, 92, 116), (110, 66, 52), (92, 110, 84)),
    "seat": ((60, 62, 68), (172, 128, 82), (142, 48, 44), (56, 84, 130), (206, 200, 190)),
    "bin": ((70, 72, 76), (150, 154, 158), (52, 84, 132), (60, 104, 74), (206, 206, 202)),
    "shade": ((236, 226, 200), (224, 210, 180)),
    "paint": (
        (226, 228, 230),
        (40, 42, 46),
        (120, 124, 130),
        (176, 180, 186),
        (158, 34, 34),
        (38, 66, 130),
        (52, 92, 62),
        (206, 178, 92),
    ),
    "lamp": ((245, 244, 230), (232, 236, 245)),
    "tail lamp": ((176, 18, 20), (200, 30, 24)),
    "skin": ((226, 182, 150), (198, 146, 112), (138, 92, 66), (92, 62, 46)),
    "hair": ((44, 34, 28), (92, 62, 36), (168, 132, 84), (150, 148, 146)),
}

_TEXTURES: dict[str, tuple[str, ...]] = {
    "wood": ("wood", "wood", "none"),
    "light wood": ("wood", "none"),
    "fabric": ("none", "stripes", "speckle"),
    "linen": ("none", "none", "stripes"),
    "plastic": ("none", "none", "speckle"),
    "upholstery": ("none", "none", "stripes", "speckle"),
    "seat": ("none", "wood", "none", "speckle"),
    "bin": ("none", "none", "speckle"),
    "glaze": ("none", "none", "stripes", "speckle"),
    "print": ("none", "stripes", "speckle"),
    "jacket": ("none", "none", "stripes"),
    "trousers": ("none",),
}

# Role of each part; "*" stands for the parts that are not listed.
_ROLES: dict[str, dict[str, str]] = {
    "bathtub": {"tap": "metal", "foot": "metal", "*": "ceramic"},
    "bed": {
        "mattress": "linen",
        "pillow": "linen",
        "blanket": "fabric",
        "head_board": "wood",
        "*": "wood",
    },
    "bin": {"body": "bin", "lid": "bin", "*": "metal"},
    "bookcase": {"side": "wood", "back": "wood", "shelf": "wood", "*": "print"},
    "cabinet": {"handle": "metal", "door": "light wood", "leg": "dark", "*": "light wood"},
    "chair": {
        "leg": "metal",
        "post": "metal",
        "spoke": "metal",
        "caster": "dark",
        "*": "seat",
    },
    "display": {"screen": "screen", "*": "case"},
    "sofa": {"leg": "dark", "pillow": "accent", "headrest": "upholstery", "*": "upholstery"},
    "table": {"handle": "metal", "leg": "table leg", "*": "wood"},
    "bottle": {"cap": "accent", "label": "print", "*": "plastic"},
    "bowl": {"rim": "accent", "*": "glaze"},
    "camera": {"glass": "glass", "flash": "paper", "button": "metal", "body": "case", "*": "dark"},
    "can": {"label": "print", "*": "metal"},
    "laptop": {"screen": "screen", "keys": "dark", "point": "accent", "*": "case"},
    "mug": {"*": "glaze"},
    "ball": {"*": "plastic"},
    "book_stack": {"*": "print"},
    "carton": {"body": "cardboard", "*": "paper"},
    "floor_lamp": {"shade": "shade", "*": "metal"},
    "plant": {"leaf": "leaf", "*": "glaze"},
    "tissue_box": {"tissue": "paper", "*": "print"},
    "car": {
        "wheel": "dark",
        "bumper": "dark",
        "grille": "dark",
        "mirror": "dark",
        "rail": "metal",
        "rim": "metal",
        "window": "glass",
        "headlight": "lamp",
        "tail_light": "tail lamp",
        "plate": "paper",
        "sign": "shade",
        "*": "paint",
    },
    "pedestrian": {
        "skin": "skin",
        "hair": "hair",
        "jacket": "jacket",
        "trousers": "trousers",
        "shoe": "dark",
        "*": "accent",
    },
    "cyclist": {
        "skin": "skin",
        "hair": "hair",
        "jacket": "jacket",
        "trousers": "trousers",
        "shoe": "dark",
        "tyre": "dark",
        "saddle": "dark",
        "metal": "metal",
        "frame": "paint",
        "headlight": "lamp",
        "tail_light": "tail lamp",
        "*": "accent",
    },
}


def random_color(rng: np.random.Generator, brightness: tuple[float, float]) -> np.ndarray:
    """Any hue at a value within ``brightness``: (3,) float32 in [0, 1]."""
    hue, saturation = rng.uniform(), rng.uniform(0.05, 0.75)
    color = colorsys.hsv_to_rgb(hue, saturation, rng.uniform(*brightness))
    return np.asarray(color, dtype=np.float32)


def role_material(role: str, rng: np.random.Generator) -> Material:
    """Draw a material.

    Typical colours vary by a factor of 0.7-1.2 and by noise of 12 levels.
    """
    bases = _BASES.get(role)
    if bases is None:
        color = random_color(rng, (0.25, 0.95))
    else:
        base = np.asarray(bases[rng.integers(len(bases))], dtype=np.float64)
        color = (base * rng.uniform(0.7, 1.2) + rng.normal(0.0, 12.0, 3)) / 255.0
        color = np.clip(color, 0.02, 1.0).astype(np.float32)
    textures = _TEXTURES.get(role, ("none",))
    texture = textures[rng.integers(len(textures))]
    return Material(color=color, texture=texture, texture_scale=float(rng.uniform(0.7, 1.5)))


def sample_materials(model: CadModel, rng: np.random.Generator) -> tuple[Material, ...]:
    """One material per part; parts of the same role match, except for prints.

    Raises:
        KeyError: a class without roles.
    """
    roles = _ROLES[model.category]
    drawn: dict[str, Material] = {}
    materials = []
    for part in model.part_names:
        role = roles.get(part, roles["*"])
        if role == "table leg":
            role = "wood" if rng.random() < 0.6 else "metal"
        if role not in drawn or role == "print":
            drawn[role] = role_material(role, rng)
        shade = np.float32(rng.uniform(0.93, 1.05))
        material = drawn[role]
        color = np.clip(material.color * shade, 0.0, 1.0).astype(np.float32)
        materials.append(Material(color, material.texture, material.texture_scale))
    return tuple(materials)
