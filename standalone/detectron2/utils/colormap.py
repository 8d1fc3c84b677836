"""A palette of well separated colours for drawing."""

import colorsys

import numpy as np

__all__ = ["colormap", "random_color", "random_colors"]

_GOLDEN_RATIO = (5**0.5 - 1) / 2
# (saturation, value) of successive colours: neighbours in the list differ in tone and in hue.
_TONES = ((0.95, 0.95), (0.60, 1.00), (0.85, 0.65), (0.40, 0.85))
_NUM_COLORS = 72


def _build_palette() -> np.ndarray:
    """Hues by golden-ratio steps, which never come close to an earlier hue too soon."""
    return np.array(
        [
            colorsys.hsv_to_rgb((k * _GOLDEN_RATIO) % 1.0, *_TONES[k % len(_TONES)])
            for k in range(_NUM_COLORS)
        ],
        dtype=np.float32,
    )


_PALETTE = _build_palette()


def colormap(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """The whole palette, float32 ``(N, 3)`` in ``[0, maximum]``; BGR unless ``rgb``.

    Args:
        maximum: 255 or 1.
    """
    assert maximum in (1, 255), f"maximum must be 1 or 255, got {maximum}"
    colors = _PALETTE * maximum
    return colors if rgb else colors[:, ::-1]


def random_color(rgb: bool = False, maximum: int = 255) -> np.ndarray:
    """One palette colour, float32 ``(3,)``, drawn with numpy's global generator."""
    index = np.random.randint(_NUM_COLORS)
    return colormap(rgb, maximum)[index]


def random_colors(num_colors: int, rgb: bool = False, maximum: int = 255) -> list[np.ndarray]:
    """Different palette colours, at most as many as the palette has."""
    if num_colors > _NUM_COLORS:
        raise ValueError(f"The palette has {_NUM_COLORS} colours, {num_colors} were asked for.")
    order = np.random.permutation(_NUM_COLORS)
    return list(colormap(rgb, maximum)[order[:num_colors]])
