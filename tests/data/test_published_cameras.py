"""Published intrinsics at other image sizes."""

import numpy as np
import pytest

from roca_nocs.data.published_cameras import nocs_intrinsics, scannet_intrinsics


def test_scannet() -> None:
    full = scannet_intrinsics((360, 480))
    np.testing.assert_allclose(full, [[433.2, 0, 239.6], [0, 434.1, 182.2], [0, 0, 1]])
    # A third of the size: (c + 1/2) / 3 - 1/2, not c / 3.
    small = scannet_intrinsics((120, 160))
    expected = [[144.4, 0, 79.5333333], [0, 144.7, 60.4], [0, 0, 1]]
    np.testing.assert_allclose(small, expected, atol=1e-6)


def test_nocs() -> None:
    np.testing.assert_allclose(
        nocs_intrinsics((480, 640)), [[577.5, 0, 319.5], [0, 577.5, 239.5], [0, 0, 1]]
    )
    real = nocs_intrinsics((240, 320), "real")
    np.testing.assert_allclose(
        real, [[295.50625, 0, 161.0125], [0, 295.083875, 121.80542], [0, 0, 1]], atol=1e-6
    )


def test_other_aspect_ratios_are_centre_crops() -> None:
    wide = nocs_intrinsics((120, 320))
    assert wide[0, 0] == wide[1, 1] == 577.5 / 2
    np.testing.assert_allclose(wide[:2, 2], [159.5, 59.5])


def test_errors() -> None:
    with pytest.raises(ValueError, match="'nyu'; expected one of camera, real"):
        nocs_intrinsics((48, 64), "nyu")
    with pytest.raises(ValueError, match=r"image size .* is \(0, 64\)"):
        scannet_intrinsics((0, 64))
