"""The six numbers of a 3D box: inverse pairs, flips and resizes, priors."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geometry.mono3d_cases import Scene, random_scene, reference_boxes
from roca_nocs.geometry.box3d_codec import (
    BOX3D_FIELDS,
    DIMS_FUNCS,
    Z_TYPES,
    Box3DCodec,
    BoxPriors,
    ImageBoxes3D,
    estimate_priors,
    uninformed_priors,
    virtual_depth,
)
from roca_nocs.geometry.cuboids import alpha_from_rotation_y, rotation_y_from_alpha
from roca_nocs.geometry.projection import (
    back_project_points,
    flip_centers,
    flip_projection,
    flip_yaw,
    project_points,
    resize_projection,
)
from roca_nocs.geometry.yaw_bins import YawBins, wrap_angle

few = settings(max_examples=12, deadline=None)
seeds = st.integers(0, 10**6)
VARIANTS = list(itertools.product(Z_TYPES, DIMS_FUNCS))
COUNT, CLASSES = 64, 3


def wide_priors() -> BoxPriors:
    """Bounds that all boxes of the random scenes keep."""
    base = uninformed_priors(CLASSES, 4)
    dimensions = torch.tensor([[1.0, 2, 3], [4, 5, 6], [2, 2, 2]], dtype=torch.float64)
    return BoxPriors(
        dimensions,
        torch.full_like(dimensions, 5.0),
        torch.tensor([22.0, 14, 16], dtype=torch.float64),
        torch.tensor([20.0, 60, 150, 400], dtype=torch.float64).expand_as(base.cluster_scales),
        torch.tensor([120.0, 90, 60, 40], dtype=torch.float64).expand_as(base.cluster_depth),
        torch.full_like(base.cluster_depth, 200.0).double(),
    )


def seen(scene: Scene) -> ImageBoxes3D:
    center_2d, depth = project_points(scene.center[:, None], scene.projection)
    return ImageBoxes3D(center_2d.squeeze(1), depth.squeeze(1), scene.dimensions)


def classes() -> torch.Tensor:
    return torch.arange(COUNT) % CLASSES


@few
@given(seeds, st.sampled_from(VARIANTS))
def test_decode_inverts_encode(seed: int, variant: tuple[str, str]) -> None:
    scene = random_scene(COUNT, seed)
    boxes = seen(scene)
    focal = scene.projection[:, 1, 1]
    if variant[0] == "sigmoid":
        # Virtual depths up to 100 m.
        far = virtual_depth(boxes.depth, focal) > 99
        boxes = boxes._replace(depth=torch.where(far, 10 * focal / 512, boxes.depth))
        center = back_project_points(
            boxes.center_2d[:, None], boxes.depth[:, None], scene.projection
        )
        scene = scene._replace(center=center.squeeze(1))
    codec = Box3DCodec(wide_priors(), *variant)
    where = reference_boxes(boxes.center_2d, seed), classes(), focal
    numbers = codec.encode(boxes, *where)
    assert numbers.shape == (COUNT, len(BOX3D_FIELDS)) and numbers.isfinite().all()
    decoded = codec.decode(numbers, *where)
    bins = YawBins()
    alpha = bins.decode(*bins.encode(alpha_from_rotation_y(scene.rotation_y, scene.center)))
    center = back_project_points(
        decoded.center_2d[:, None], decoded.depth[:, None], scene.projection
    ).squeeze(1)
    for ours, expected in ((center, scene.center), (decoded.dimensions, scene.dimensions)):
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
    error = wrap_angle(rotation_y_from_alpha(alpha, center) - scene.rotation_y)
    assert error.abs().max() < 1e-6


@few
@given(seeds)
def test_flip(seed: int) -> None:
    scene = random_scene(COUNT, seed)
    boxes, width = seen(scene), scene.size[0]
    reference = reference_boxes(boxes.center_2d, seed)
    codec, bins, focal = Box3DCodec(wide_priors()), YawBins(), scene.projection[:, 1, 1]
    numbers = codec.encode(boxes, reference, classes(), focal)

    flipped = scene._replace(
        center=flip_centers(scene.center),
        rotation_y=flip_yaw(scene.rotation_y),
        projection=flip_projection(scene.projection, width),
    )
    x1, y1, x2, y2 = reference.unbind(1)
    mirrored = torch.stack([width - x2, y1, width - x1, y2], dim=1)
    ours = codec.encode(seen(flipped), mirrored, classes(), flipped.projection[:, 1, 1])
    expected = numbers * numbers.new_tensor([-1, 1, 1, 1, 1, 1])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
    alpha = alpha_from_rotation_y(scene.rotation_y, scene.center)
    mirrored_alpha = alpha_from_rotation_y(flipped.rotation_y, flipped.center)
    assert wrap_angle(mirrored_alpha - flip_yaw(alpha)).abs().max() < 1e-9
    decoded = bins.decode(*bins.encode(mirrored_alpha))
    assert wrap_angle(math.pi - decoded - alpha).abs().max() < 1e-9


@few
@given(seeds, st.floats(0.5, 2), st.floats(0.5, 2))
def test_resize(seed: int, scale_x: float, scale_y: float) -> None:
    scene = random_scene(COUNT, seed)
    boxes = seen(scene)
    reference = reference_boxes(boxes.center_2d, seed)
    codec, focal = Box3DCodec(wide_priors()), scene.projection[:, 1, 1]
    numbers = codec.encode(boxes, reference, classes(), focal)

    resized = scene._replace(projection=resize_projection(scene.projection, scale_x, scale_y))
    scale = reference.new_tensor([scale_x, scale_y, scale_x, scale_y])
    where = reference * scale, classes(), resized.projection[:, 1, 1]
    ours = codec.encode(seen(resized), *where)
    # Objects twice as large appear half as far from the virtual camera; nothing else changes.
    expected = numbers - numbers.new_tensor([0, 0, math.log(scale_y), 0, 0, 0])
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-9)
    decoded = codec.decode(ours, *where)
    torch.testing.assert_close(decoded.depth, boxes.depth)
    torch.testing.assert_close(decoded.center_2d, boxes.center_2d * scale[:2])


def test_one_scene_in_two_resolutions() -> None:
    """The network resizes both files to one size, and equal outputs then give equal boxes."""
    scene = random_scene(COUNT, 3)
    codec, reference = Box3DCodec(wide_priors()), reference_boxes(seen(scene).center_2d, 3)
    numbers = torch.randn(COUNT, 6, dtype=torch.float64)
    results = []
    for factor in (1.0, 2.0):
        file = resize_projection(scene.projection, factor, factor)
        network = resize_projection(file, 0.5 / factor, 0.5 / factor)
        results.append(codec.decode(numbers, reference, classes(), network[:, 1, 1]))
    for one, two in zip(*results, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_wild_outputs_give_finite_boxes_and_gradients(variant: tuple[str, str]) -> None:
    codec = Box3DCodec(wide_priors(), *variant)
    numbers = torch.tensor([[0.0] * 6, [1e4] * 6, [-1e4] * 6], requires_grad=True)
    reference = torch.tensor([[10.0, 10, 50, 90]]).expand(3, 4)
    boxes = codec.decode(numbers, reference, torch.tensor([0, 1, 2]), torch.full((3,), 700.0))
    assert all(part.isfinite().all() for part in boxes)
    sum(part.sum() for part in boxes).backward()
    assert numbers.grad.isfinite().all()


def test_half_precision_is_decoded_in_single() -> None:
    codec = Box3DCodec(BoxPriors(*(part.float() for part in wide_priors())))
    numbers = torch.full((2, 6), 0.3, dtype=torch.bfloat16)
    reference = torch.tensor([[10.0, 10, 50, 90]]).expand(2, 4)
    where = reference, torch.tensor([0, 1]), torch.full((2,), 700.0)
    for ours, expected in zip(
        codec.decode(numbers, *where), codec.decode(numbers.float(), *where), strict=True
    ):
        assert ours.dtype == torch.float32 and torch.equal(ours, expected)


def test_no_boxes() -> None:
    nothing = torch.zeros(0, 6)
    for variant in VARIANTS:
        codec = Box3DCodec(uninformed_priors(CLASSES), *variant)
        where = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0)
        boxes = codec.decode(nothing, *where)
        assert codec.encode(boxes, *where).shape == (0, 6)


def test_bad_settings() -> None:
    for arguments, message in ((("linear",), "unknown Z_TYPE"), (("log", "tanh"), "DIMS_FUNC")):
        with pytest.raises(ValueError, match=message):
            Box3DCodec(uninformed_priors(1), *arguments)


def test_priors() -> None:
    random = torch.Generator().manual_seed(0)
    classes = torch.tensor([0] * 40 + [1] * 4 + [2] * 30)
    dimensions = 1 + torch.rand(len(classes), 3, generator=random)
    # Class 0 comes in two sizes on the image, near and far.
    near = torch.arange(len(classes)) % 2 == 0
    scales = torch.where(near, 200.0, 20.0) + torch.rand(len(classes), generator=random)
    depths = torch.where(near, 5.0, 50.0) + torch.rand(len(classes), generator=random)
    priors = estimate_priors(classes, dimensions, depths, scales, 4, num_clusters=2)
    own = classes == 0
    torch.testing.assert_close(priors.dimensions[0], dimensions[own].mean(0))
    torch.testing.assert_close(priors.dimensions_std[0], dimensions[own].std(0, correction=0))
    torch.testing.assert_close(priors.depth[0], depths[own].log().mean().exp())
    for column, group in enumerate((~near & own, near & own)):
        torch.testing.assert_close(priors.cluster_scales[0, column], scales[group].mean())
        torch.testing.assert_close(priors.cluster_depth[0, column], depths[group].mean())
    spread = depths[~near & own].std(correction=0).clamp(min=0.05 * priors.cluster_depth[0, 0])
    torch.testing.assert_close(priors.cluster_depth_std[0, 0], spread)
    # Too few boxes, or none: unit dimensions, the depth of all.
    for rare in (1, 3):
        assert priors.dimensions[rare].tolist() == [1, 1, 1]
        torch.testing.assert_close(priors.depth[rare], depths.log().mean().exp())
    assert all(part.isfinite().all() and part.dtype == torch.float32 for part in priors)


def test_priors_of_equal_boxes_and_of_nothing() -> None:
    classes = torch.zeros(6, dtype=torch.int64)
    same = torch.full((6,), 8.0)
    priors = estimate_priors(classes, torch.full((6, 3), 2.0), same, same, 1, num_clusters=3)
    assert (priors.dimensions_std > 0).all() and (priors.cluster_depth_std > 0).all()
    torch.testing.assert_close(priors.cluster_depth, torch.full((1, 3), 8.0))
    nothing = torch.zeros(0)
    priors = estimate_priors(
        torch.zeros(0, dtype=torch.int64), torch.zeros(0, 3), nothing, nothing, 2, num_clusters=2
    )
    for ours, expected in zip(priors, uninformed_priors(2, 2), strict=True):
        torch.testing.assert_close(ours, expected)
