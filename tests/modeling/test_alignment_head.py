"""The alignment head: options, missing regions, planted poses, symmetry, autocast, gradients."""

from dataclasses import replace

import pytest
import roma
import torch

from roca_nocs.geometry.roi_grid import back_project_grid, roi_pixel_grid, sample_at_grid
from roca_nocs.geometry.symmetry import symmetry_rotations
from roca_nocs.layers.masked_pixels import MaskedPixels
from roca_nocs.modeling.roi_heads.alignment_head import (
    AlignmentHead,
    AlignmentRegions,
    AlignmentTargets,
)
from roca_nocs.modeling.roi_heads.retrieval_head import FirstRetrieval
from roca_nocs.structures import CadDatabase

GRID, HEIGHT, WIDTH = 8, 48, 64
LOSSES = {
    "loss_roi_depth",
    "loss_mean_depth",
    "loss_scale",
    "loss_depth_min",
    "loss_depth_max",
    "loss_trans",
    "loss_noc",
    "loss_proc",
    "loss_trans_proc",
}


def build_head(**options: object) -> AlignmentHead:
    torch.manual_seed(0)
    sizes = dict.fromkeys(("translation_sizes", "confidence_sizes"), (8,))
    sizes |= dict.fromkeys(
        ("shape_pixel_sizes", "shape_code_sizes", "scale_sizes", "noc_sizes"), (8, 8)
    )
    return AlignmentHead(num_classes=3, in_channels=6, grid_size=GRID, **{**sizes, **options})


def regions_of(*images: int, weights: bool = False) -> AlignmentRegions:
    count = len(images)
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(1)) * 20
    intrinsics = torch.tensor([[60.0, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
    return AlignmentRegions(
        boxes=torch.cat([corners, corners + 25], dim=1),
        classes=torch.arange(count) % 3,
        image_indices=torch.tensor(images, dtype=torch.int64),
        image_sizes=torch.tensor([[HEIGHT, WIDTH]] * 2),
        intrinsics=intrinsics.expand(count, 3, 3),
        weights=torch.linspace(0.5, 1, count) if weights else None,
        scenes=[None] * count,
    )


def maps() -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(2)
    features = torch.rand(2, 6, HEIGHT // 4, WIDTH // 4, generator=random)
    depths = torch.rand(2, 1, HEIGHT, WIDTH, generator=random) + 1
    return features.requires_grad_(), depths.requires_grad_()


def masks_for(count: int) -> dict[str, torch.Tensor]:
    probs = torch.rand(count, 1, GRID, GRID, generator=torch.Generator().manual_seed(3))
    return {"mask_probs": probs, "mask_pred": (probs > 0.3).float()}


def targets_for(count: int) -> AlignmentTargets:
    torch.manual_seed(4)
    return AlignmentTargets(
        depths=torch.rand(2, 1, HEIGHT, WIDTH) + 1,
        masks=(torch.rand(count, 1, GRID, GRID) > 0.3).float(),
        rotations=roma.random_rotmat(count) if count else torch.zeros(0, 3, 3),
        translations=torch.randn(count, 3) + torch.tensor([0.0, 0, 2]),
        scales=torch.rand(count, 3) + 0.5,
        symmetries=torch.arange(count) % 4,
    )


@pytest.mark.parametrize("images", [(), (0, 1, 1, 1)])
@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"class_embedding_size": 4, "per_class_translation": False},
        {"confidence_head": False},
        {"noc_weights": False, "symmetry_aware": True},
        {"end_to_end": False},
        {"irls_iterations": 3, "symmetry_aware": True},
    ],
)
def test_every_parameter_learns(images: tuple[int, ...], weights: bool, options: dict) -> None:
    head = build_head(**options)
    features, depths = maps()
    regions = regions_of(*images, weights=weights)
    losses = head.losses(
        regions, features, depths, targets=targets_for(len(images)), **masks_for(len(images))
    )
    expected = LOSSES if head.end_to_end else LOSSES - {"loss_proc", "loss_trans_proc"}
    assert set(losses) == expected
    sum(losses.values()).backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    for value in (*losses.values(), features.grad, depths.grad):
        assert value.isfinite().all()
        assert len(images) or not value.any()
    result = head.eval().inference(regions, features, depths, **masks_for(len(images)))
    assert result.translations.shape == (len(images), 3)
    assert result.rotations.shape == (len(images), 3, 3)
    assert result.nocs.shape == (len(images), 3, GRID, GRID)
    assert result.has_alignment.all() and (result.indices == -1).all()
    assert result.wild_indices is None
    if images:
        torch.testing.assert_close(torch.linalg.det(result.rotations), torch.ones(len(images)))


@pytest.mark.parametrize("pixels", [0, 1, 15, 16])
def test_few_pixels(pixels: int) -> None:
    head = build_head()
    features, depths = maps()
    mask = torch.zeros(1, 1, GRID, GRID)
    mask.flatten()[:pixels] = 1
    masks = {"mask_probs": mask * 0.9, "mask_pred": mask}
    result = head.eval().inference(regions_of(0), features, depths, **masks)
    assert result.has_enough.item() == (pixels >= 16)
    if pixels < 16:
        assert torch.equal(result.rotations[0], torch.eye(3))
        assert not result.corrections.any()
    losses = head.train().losses(regions_of(0), features, depths, targets=targets_for(1), **masks)
    assert (losses["loss_proc"].item() == 0) == (pixels < 16)
    sum(losses.values()).backward()
    gradients = [features.grad, depths.grad, *(p.grad for p in head.parameters())]
    assert all(gradient.isfinite().all() for gradient in gradients)


class Constant(torch.nn.Module):
    """A network that always gives the same."""

    def __init__(self, output: torch.Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        return self.output


class ConstantMaps(Constant):
    """Always gives the pixels of the same maps."""

    def forward(
        self, values: torch.Tensor, pixels: MaskedPixels, code: torch.Tensor
    ) -> torch.Tensor:
        return pixels.gather(self.output)


def plant(head: AlignmentHead, regions: AlignmentRegions, depths: torch.Tensor) -> AlignmentTargets:
    """Make the networks of a head say what fits the depth and random poses."""
    count = len(regions.boxes)
    targets = replace(targets_for(count), depths=depths, masks=torch.ones(count, 1, GRID, GRID))
    sizes = regions.image_sizes[regions.image_indices]
    grid = roi_pixel_grid(regions.boxes, sizes, GRID)
    depth = sample_at_grid(depths, grid, regions.image_indices, sizes)
    points = back_project_grid(depth, grid, regions.intrinsics).flatten(2)
    nocs = targets.rotations.mT @ (points - targets.translations[..., None])
    nocs = nocs / targets.scales[..., None]
    center = (points.amin(dim=2) + points.amax(dim=2)) / 2
    head.scale_head = Constant(targets.scales.repeat(1, 3))
    head.trans_head = Constant((targets.translations - center).repeat(1, 3))
    head.noc_head = ConstantMaps(nocs.reshape(count, 3, GRID, GRID))
    return targets


def test_truth_is_recovered_and_costs_nothing() -> None:
    head = build_head(dropout=0.0)
    regions = regions_of(0, 1, 1)
    features, depths = maps()
    targets = plant(head, regions, depths.detach())
    ones = torch.ones(3, 1, GRID, GRID)
    losses = head.losses(
        regions, features, depths, mask_probs=ones, mask_pred=ones, targets=targets
    )
    for name, value in losses.items():
        assert value.item() == pytest.approx(0, abs=2e-5), name
    result = head.inference(regions, features, depths, mask_probs=ones, mask_pred=ones)
    torch.testing.assert_close(result.rotations, targets.rotations, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.translations, targets.translations, rtol=0, atol=1e-5)
    torch.testing.assert_close(result.scales, targets.scales)


@pytest.mark.parametrize("symmetry_aware", [False, True])
def test_symmetry_aware_losses_accept_a_turned_model(symmetry_aware: bool) -> None:
    head = build_head(symmetry_aware=symmetry_aware)
    regions = regions_of(0, 1)
    features, depths = maps()
    targets = plant(head, regions, depths.detach())
    symmetries = torch.tensor([1, 3])
    turn = symmetry_rotations(symmetries)[:, 7].mT
    # The annotation shows another of the equivalent poses.
    turned = replace(targets, rotations=targets.rotations @ turn, symmetries=symmetries)
    ones = torch.ones(2, 1, GRID, GRID)
    losses = head.losses(regions, features, depths, mask_probs=ones, mask_pred=ones, targets=turned)
    for name in ("loss_noc", "loss_proc"):
        assert (losses[name].item() < 1e-4) == symmetry_aware, name


def test_scales_start_where_they_are_told_to() -> None:
    head = build_head(initial_scales=[0.5, 1.0, 2.0]).eval()
    assert head.scale_head.output.bias.tolist() == [0.5] * 3 + [1.0] * 3 + [2.0] * 3
    features, depths = maps()
    scales = head.inference(regions_of(0, 0, 1), features, depths, **masks_for(3)).scales
    torch.testing.assert_close(
        scales, torch.tensor([[0.5], [1], [2]]).expand(3, 3), rtol=0, atol=0.4
    )
    with pytest.raises(ValueError, match="initial_scales has 2 numbers for 3 classes"):
        build_head(initial_scales=[1.0, 2.0])


def test_autocast_keeps_the_geometry_in_float32() -> None:
    head = build_head().eval()
    regions, (features, depths), masks = regions_of(0, 1), maps(), masks_for(2)
    plant(head, regions, depths.detach())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = head.inference(regions, features, depths, **masks)
        losses = head.losses(regions, features, depths, targets=targets_for(2), **masks)
    expected = head.inference(regions, features, depths, **masks)
    for name in ("translations", "scales"):
        torch.testing.assert_close(getattr(ours, name), getattr(expected, name), atol=1e-2, rtol=0)
    torch.testing.assert_close(ours.rotations, expected.rotations, atol=1e-2, rtol=0)
    assert all(value.dtype == torch.float32 for value in losses.values())


def test_order_of_regions_does_not_matter() -> None:
    head = build_head().eval()
    features, depths = maps()
    regions, masks = regions_of(0, 1, 1), masks_for(3)
    together = head.inference(regions, features, depths, **masks)
    for row in range(3):
        alone = replace(
            regions,
            **{
                name: getattr(regions, name)[row : row + 1]
                for name in ("boxes", "classes", "image_indices", "intrinsics", "scenes")
            },
        )
        own = {name: mask[row : row + 1] for name, mask in masks.items()}
        result = head.inference(alone, features, depths, **own)
        torch.testing.assert_close(result.translations, together.translations[row : row + 1])
        torch.testing.assert_close(
            result.rotations, together.rotations[row : row + 1], rtol=0, atol=1e-4
        )


def test_retrieval() -> None:
    database = CadDatabase(
        keys=(("a", "0"), ("a", "1")),
        category_ids=torch.tensor([1, 2]),
        symmetries=torch.zeros(2, dtype=torch.int64),
        scenes={"room": torch.tensor([1])},
    )
    features, depths = maps()
    regions = replace(regions_of(0, 0, 1), scenes=["room", "room", "room"])
    head = build_head(retrieval_head=FirstRetrieval()).eval()
    head.set_database(database)
    result = head.inference(regions, features, depths, **masks_for(3))
    assert result.indices.tolist() == [-1, -1, 1]
    assert result.has_alignment.tolist() == [False, False, True]
    head = build_head(retrieval_head=FirstRetrieval(wild=True)).eval()
    head.set_database(database)
    result = head.inference(regions, features, depths, **masks_for(3))
    assert result.wild_indices.tolist() == [-1, 0, 1]
    assert result.has_alignment.tolist() == [False, True, True]
    with pytest.raises(ValueError, match="has no retrieval_head"):
        build_head().set_database(database)
