"""Boxes from NOCS maps: ground-truth maps of table tops, outliers, sizes, failures."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from roca_nocs.data.datasets.nocs import load_nocs
from roca_nocs.data.maps import read_map
from roca_nocs.geometry.box_fitting import BoxFit, fit_boxes, fit_boxes_of_known_size
from roca_nocs.geometry.camera import back_project, pixel_rays
from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.pose import rotation_error_degrees
from roca_nocs.geometry.rotation import quaternion_to_matrix

FEWEST_PIXELS = 64
"""Of an object that is aligned at all, as in the usual preparation of the real data."""


@dataclass
class Image:
    """One image's objects, read from the files: maps for all of them, poses, sizes."""

    coordinates: torch.Tensor
    masks: torch.Tensor
    points: torch.Tensor
    rays: torch.Tensor
    rotation: torch.Tensor
    translation: torch.Tensor
    scale: torch.Tensor
    sizes: torch.Tensor

    @classmethod
    def of(cls, record: dict) -> "Image":
        instance, depth = (torch.from_numpy(read_map(record, n)) for n in ("instance", "depth"))
        nocs = torch.from_numpy(read_map(record, "nocs")).movedim(-1, 0) + 0.5
        intrinsics = torch.from_numpy(record["intrinsics"]).float()
        ids = torch.tensor([a["alignment_id"] for a in record["annotations"]])
        masks = instance == ids[:, None, None]
        large = masks.sum(dim=(1, 2)) >= FEWEST_PIXELS
        objects = [a for a, ok in zip(record["annotations"], large, strict=True) if ok]
        scale = torch.tensor([a["s"] for a in objects]).reshape(-1, 3)

        def for_all(pixels: torch.Tensor) -> torch.Tensor:
            return pixels.expand(len(objects), -1, -1, -1)

        return cls(
            coordinates=for_all(nocs),
            masks=masks[large],
            points=for_all(back_project(depth, intrinsics).movedim(-1, 0)),
            rays=for_all(pixel_rays(intrinsics, tuple(depth.shape)).movedim(-1, 0)),
            rotation=quaternion_to_matrix(torch.tensor([a["q"] for a in objects]).reshape(-1, 4)),
            translation=torch.tensor([a["t"] for a in objects]).reshape(-1, 3),
            scale=scale[:, 0],
            sizes=scale * torch.tensor([a["extents"] for a in objects]).reshape(-1, 3),
        )

    def with_outliers(self, share: float) -> torch.Tensor:
        """Coordinates of which a share is anywhere in the cube."""
        wrong = torch.rand(self.masks.shape) < share
        return torch.where(wrong[:, None], torch.rand(self.coordinates.shape), self.coordinates)

    def check(self, fit: BoxFit, degrees: float, metres: float, scale: float) -> None:
        assert fit.valid.all()
        assert (rotation_error_degrees(fit.rotation, self.rotation) < degrees).all()
        assert ((fit.translation - self.translation).norm(dim=1) < metres).all()
        assert ((fit.scale / self.scale - 1).abs() < scale).all()


@pytest.fixture(scope="module")
def images(embedded_root: Path) -> list[Image]:
    """Table tops written in the layouts of REAL and CAMERA, and read back."""
    records = [
        record
        for dataset, split in (("real", "test"), ("camera", "val"))
        for record in load_nocs(embedded_root / "tabletop_tiny", dataset, split)
    ]
    return [Image.of(record) for record in records]


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield


def test_ground_truth_maps_give_the_pose(images: list[Image]) -> None:
    assert sum(len(image.masks) for image in images) > 40
    for image in images:
        fit = fit_boxes(image.coordinates, image.masks, image.points)
        image.check(fit, degrees=0.5, metres=0.002, scale=0.01)
        # Hidden parts may leave an edge short, and the eight bits of a map are half a step off.
        assert (fit.extents * image.scale[:, None] < image.sizes + image.scale[:, None] / 255).all()


def test_outliers_of_the_map(images: list[Image]) -> None:
    for image in images[::2]:
        fit = fit_boxes(image.with_outliers(0.4), image.masks, image.points)
        image.check(fit, degrees=0.5, metres=0.002, scale=0.01)


def test_outliers_of_the_depth(images: list[Image]) -> None:
    for image in images[:8]:
        wrong = torch.rand(image.masks.shape)[:, None] < 0.4
        points = torch.where(wrong, image.points * (1 + torch.rand(wrong.shape)), image.points)
        fit = fit_boxes(image.coordinates, image.masks, points)
        image.check(fit, degrees=0.5, metres=0.002, scale=0.01)


@pytest.mark.parametrize(("outliers", "degrees"), [(0.0, 1), (0.4, 2)])
def test_known_size_without_depth(images: list[Image], outliers: float, degrees: float) -> None:
    for image in images[::3]:
        coordinates = image.with_outliers(outliers)
        fit = fit_boxes_of_known_size(coordinates, image.masks, image.rays, image.sizes)
        image.check(fit, degrees=degrees, metres=0.01, scale=1e-5)
        torch.testing.assert_close(fit.sizes, image.sizes)


def cube(count: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Coordinates, masks and points of objects filling a map of 6 x 6, of scale 1/2."""
    coordinates = torch.rand(count, 3, 6, 6)
    points = coordinates / 2 + torch.tensor([0.0, 0.0, 1.0])[:, None, None]
    return coordinates, torch.ones(count, 6, 6, dtype=torch.bool), points


def test_extents_and_their_quantile() -> None:
    coordinates, masks, points = cube()
    coordinates[:, :] = 0.5 + (coordinates - 0.5) * 0.8
    coordinates[0, 0, 0, 0] = 0.0
    points[:, 2, :3] = 0  # half of the pixels without depth still count for the box
    fit = fit_boxes(coordinates, masks, points)
    expected = 2 * (coordinates - 0.5).abs().amax(dim=(2, 3))
    torch.testing.assert_close(fit.extents, expected)
    assert fit.extents[0, 0] == 1
    smaller = fit_boxes(coordinates, masks, points, size_quantile=0.97).extents
    ranked = 2 * (coordinates - 0.5).abs().flatten(2).sort(dim=2).values
    torch.testing.assert_close(smaller, ranked[..., -2])
    assert smaller[0, 0] < 0.8


def test_failures_are_values() -> None:
    coordinates, masks, points = cube(6)
    masks[0] = False
    masks[1].view(-1)[2:] = False
    points[2, 2] = 0
    points[3] = torch.nan
    coordinates[4] = 0.25
    fit = fit_boxes(coordinates, masks, points)
    assert [FailureReason(reason) for reason in fit.reasons.tolist()] == [
        FailureReason.TOO_FEW_POINTS,
        FailureReason.TOO_FEW_POINTS,
        FailureReason.NO_VALID_DEPTH,
        FailureReason.NO_VALID_DEPTH,
        FailureReason.DEGENERATE_GEOMETRY,
        FailureReason.OK,
    ]
    assert fit.valid.tolist() == [False] * 5 + [True]
    assert torch.equal(fit.rotation[:5], torch.eye(3).expand(5, 3, 3))
    assert not fit.translation[:5].any() and (fit.scale[:5] == 1).all()
    torch.testing.assert_close(fit.scale[5], torch.tensor(0.5))
    for value in (fit.extents, fit.rotation, fit.translation, fit.scale):
        assert value.isfinite().all()
    rays = points / points[:, 2:]
    sizes = torch.full((6, 3), 0.5 / 3**0.5)
    known = fit_boxes_of_known_size(coordinates, masks, rays, sizes)
    # Pixels whose rays are missing are the caller's to mask; the map alone decides the others.
    assert known.reasons[[0, 1, 4]].tolist() == [
        FailureReason.TOO_FEW_POINTS,
        FailureReason.TOO_FEW_POINTS,
        FailureReason.DEGENERATE_GEOMETRY,
    ]
    assert known.valid[5] and known.rotation.isfinite().all()


def test_coordinates_that_are_not_finite_do_not_count() -> None:
    coordinates, masks, points = cube()
    coordinates[0, 1, 2, 2] = torch.nan
    fit = fit_boxes(coordinates, masks, points)
    assert fit.valid.all() and fit.extents.isfinite().all()
    torch.testing.assert_close(fit.scale, torch.full((2,), 0.5))


@pytest.mark.parametrize("rule", ["corrected", "nocs"])
def test_no_instances(rule: str) -> None:
    coordinates, masks, points = cube(0)
    fit = fit_boxes(coordinates, masks, points, rule=rule, size_quantile=0.9)
    assert fit.rotation.shape == (0, 3, 3) and fit.sizes.shape == (0, 3)
    fit = fit_boxes_of_known_size(coordinates, masks, points, torch.zeros(0, 3))
    assert fit.extents.shape == (0, 3)


def test_bad_shapes_are_named() -> None:
    coordinates, masks, points = cube()
    with pytest.raises(ValueError, match=r"points of one shape \(N, 3, H, W\), got coordinates"):
        fit_boxes(coordinates, masks, points[:, :2])
    with pytest.raises(ValueError, match=r"expected masks \(2, 6, 6\), got \(2, 1, 6, 6\)"):
        fit_boxes(coordinates, masks[:, None], points)
    with pytest.raises(ValueError, match=r"expected sizes \(2, 3\), got \(2,\)"):
        fit_boxes_of_known_size(coordinates, masks, points, torch.ones(2))
    with pytest.raises(ValueError, match=r"size_quantile must lie in \(0, 1\], got 0"):
        fit_boxes(coordinates, masks, points, size_quantile=0)
