"""Associations of two views, samples of bins, consistency and alignment against ganocs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from roca_nocs.geometry.multiview import Views, associate, back_project_pixels
from roca_nocs.geometry.procrustes import weighted_procrustes
from roca_nocs.geometry.similarity import umeyama
from roca_nocs.layers.region_samples import owning_regions, sample_regions
from roca_nocs.modeling.criteria.multiview import pixelwise_consistency


@pytest.fixture(scope="module")
def arrays(golden_dir: Path) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "nocs" / "multiview_ganocs.npz", allow_pickle=False) as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def stacked(arrays: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return torch.stack([arrays[f"view{i}/{name}"] for i in range(2)])


@pytest.fixture(scope="module")
def views(arrays: dict[str, torch.Tensor]) -> Views:
    # The file's camera poses are world to camera.
    return Views(
        depth=stacked(arrays, "depth"),
        intrinsics=arrays["intrinsics"].float().expand(2, 3, 3),
        camera_poses=torch.linalg.inv(stacked(arrays, "camera_pose")),
        scenes=torch.zeros(2, dtype=torch.int64),
    )


@pytest.fixture(scope="module")
def regions(arrays: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Bins as maps, and boxes: with inclusive edges (ganocs samples bins so), and exclusive."""
    bins = torch.stack([stacked(arrays, f"pred_{axis}") for axis in "xyz"], dim=2)
    boxes = stacked(arrays, "boxes").flatten(0, 1)
    count = len(arrays["view0/boxes"])
    return {
        "maps": bins.flatten(0, 1).flatten(1, 2),
        "bins": bins.shape[3],
        "masks": stacked(arrays, "masks").flatten(0, 1),
        "exclusive": boxes,
        "inclusive": boxes + torch.tensor([0, 0, 1, 1]),
        "scores": stacked(arrays, "scores").flatten(),
        "images": torch.arange(2).repeat_interleave(count),
        "count": count,
    }


def owners_of(views: Views, regions: dict[str, Any], boxes: str) -> torch.Tensor:
    size = tuple(views.depth.shape[1:])
    return owning_regions(regions[boxes], regions["scores"], regions["images"], 2, size)


def bins_at(views: Views, regions: dict[str, Any], view: int, pixels: torch.Tensor) -> torch.Tensor:
    owner = owners_of(views, regions, "inclusive")[(view, *pixels.unbind(1))]
    sampled = sample_regions(regions["maps"], regions["inclusive"], owner, pixels)
    return sampled.unflatten(1, (3, regions["bins"]))


def test_associations(
    arrays: dict[str, torch.Tensor], views: Views, regions: dict[str, Any]
) -> None:
    foreground = owners_of(views, regions, "exclusive") >= 0
    pairs = torch.tensor([[0, 1]])
    found = associate(views, foreground, pairs, pixel_rule="truncate")
    ours = torch.cat([found.first, found.second], dim=1).tolist()
    expected = torch.cat([arrays["assoc_ij_view0"], arrays["assoc_ij_view1"]], dim=1).tolist()
    common = set(map(tuple, ours)) & set(map(tuple, expected))
    assert len(common) >= 0.995 * max(len(ours), len(expected)) > 0


@pytest.mark.parametrize("view", [0, 1])
def test_bins_at_associated_pixels(
    arrays: dict[str, torch.Tensor], views: Views, regions: dict[str, Any], view: int
) -> None:
    expected = arrays[f"nocs_bins_at_assoc_view{view}"]
    pixels = arrays[f"assoc_ij_view{view}"][: len(expected)]
    torch.testing.assert_close(
        bins_at(views, regions, view, pixels), expected, atol=1e-4, rtol=1e-4
    )


def test_pixelwise_consistency(
    arrays: dict[str, torch.Tensor], views: Views, regions: dict[str, Any]
) -> None:
    first, second = (bins_at(views, regions, i, arrays[f"assoc_ij_view{i}"]) for i in range(2))
    truncated = regions["count"]
    for name, length in (
        ("pixelwise_all_pixels_roll1", len(first)),
        ("pixelwise_reference_truncated_roll1", truncated),
    ):
        rolled = torch.arange(length).roll(1)
        pairs = torch.zeros(length, dtype=torch.int64)
        loss, reasons = pixelwise_consistency(
            first[:length], second[:length], pairs, 1, (rolled, rolled)
        )
        torch.testing.assert_close(loss[0], arrays[name], atol=1e-5, rtol=1e-4)
        assert reasons.tolist() == [0]


@pytest.mark.parametrize("view", [0, 1])
def test_points_and_coordinates_of_a_detection(
    arrays: dict[str, torch.Tensor], views: Views, regions: dict[str, Any], view: int
) -> None:
    pixels = arrays[f"view{view}/reproj_ij_det0"]
    row = view * regions["count"]

    # Pixels: the pasted mask, where there is any box and depth.
    valid = (owners_of(views, regions, "exclusive")[view] >= 0) & (views.depth[view] > 0)
    found = valid.nonzero()
    x0, y0, x1, y1 = regions["inclusive"][row]
    y, x = (found + 0.5).unbind(1)
    found = found[(x > x0) & (x < x1) & (y > y0) & (y < y1)]
    of_detection = torch.full((len(found),), row)
    masks = sample_regions(regions["masks"], regions["inclusive"], of_detection, found)
    assert found[masks[:, 0] > 0.5].tolist() == pixels.tolist()

    located = torch.cat([torch.full((len(pixels), 1), view), pixels], dim=1)
    points = back_project_pixels(views.depth, views.intrinsics, located)
    torch.testing.assert_close(points, arrays[f"view{view}/reproj_xyz_det0"], atol=1e-5, rtol=1e-5)

    # ganocs counts bins from k / B.
    bins = bins_at(views, regions, view, pixels)
    values = torch.arange(regions["bins"]) / regions["bins"]
    coordinates = bins.softmax(dim=2) @ values - 0.5
    torch.testing.assert_close(
        coordinates, arrays[f"view{view}/nocs_xyz_det0"], atol=1e-5, rtol=1e-4
    )


def test_rigid_alignment(arrays: dict[str, torch.Tensor]) -> None:
    source, target = arrays["view1/nocs_xyz_det0"], arrays["view1/reproj_xyz_det0"]
    rotation, translation = weighted_procrustes(
        source[None], target[None], torch.ones(1, len(source)), centred=True
    )
    found = torch.cat([rotation[0], translation[0, :, None]], dim=1)
    torch.testing.assert_close(found, arrays["procrustes_rigid_Rt"][0], atol=1e-4, rtol=1e-4)
    residual = (source @ rotation[0].T + translation[0] - target).norm(dim=1).mean()
    torch.testing.assert_close(residual, arrays["procrustes_mean_residual"], atol=1e-4, rtol=1e-4)


def test_weighted_alignment_squares_the_weights(arrays: dict[str, torch.Tensor]) -> None:
    """Ours, which uses them once, is the same fit where a weight is its own square."""
    source, target = arrays["view1/nocs_xyz_det0"], arrays["view1/reproj_xyz_det0"]
    weights = arrays["procrustes_weights"]
    share = weights / (weights.sum() + 1e-5)
    means = [share @ each for each in (source, target)]
    rotation, _ = weighted_procrustes(
        (source - means[0])[None], (target - means[1])[None], weights.square()
    )
    translation = means[1][0] - rotation[0] @ means[0][0]
    found = torch.cat([rotation[0], translation[:, None]], dim=1)
    torch.testing.assert_close(found, arrays["procrustes_weighted_Rt"][0], atol=1e-4, rtol=1e-4)

    for used, same in ((weights, False), ((weights > weights.median()).float(), True)):
        share = used / (used.sum() + 1e-5)
        means = [share @ each for each in (source, target)]
        theirs, _ = weighted_procrustes(
            (source - means[0])[None], (target - means[1])[None], used.square()
        )
        ours = umeyama(source[None], target[None], used).rotation
        assert torch.allclose(ours, theirs, atol=1e-4) == same
