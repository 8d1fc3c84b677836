"""The multi-view loss on a textured plane, and on nothing."""

from dataclasses import replace

import pytest
import torch

from roca_nocs.geometry.camera import back_project
from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.multiview import Views
from roca_nocs.geometry.rotation import quaternion_to_matrix
from roca_nocs.modeling.criteria.multiview import align_to_depth, pixelwise_consistency
from roca_nocs.modeling.criteria.multiview_loss import MODES, MultiViewLoss, ViewDetections

SIZE = 32
BINS = 8


def scene() -> tuple[Views, ViewDetections]:
    """Two views of a tilted plane, one object over most of each, its map right to the cell."""
    intrinsics = torch.tensor([[40.0, 0, 15.5], [0, 40.0, 15.5], [0, 0, 1]]).repeat(2, 1, 1)
    rows = torch.arange(SIZE, dtype=torch.float32)
    depth = (1.5 + 0.01 * rows)[None, :, None].repeat(2, 1, SIZE)
    poses = torch.eye(4, dtype=torch.float64).repeat(2, 1, 1)
    poses[1, 0, 3] = 0.05
    views = Views(depth, intrinsics, poses, torch.zeros(2, dtype=torch.int64))
    points = back_project(depth, intrinsics)
    points[1, ..., 0] += 0.05  # the frame of the first camera
    coordinates = (points - torch.tensor([0.0, 0.0, 1.6])) / 2 + 0.5
    boxes = torch.tensor([[2.0, 2.0, 30.0, 30.0]]).repeat(2, 1)
    maps = coordinates.permute(0, 3, 1, 2)[:, :, 2:30, 2:30].contiguous()
    detections = ViewDetections(
        maps=maps.clone().requires_grad_(),
        boxes=boxes,
        scores=torch.tensor([0.9, 0.8]),
        masks=torch.ones(2, 1, 14, 14),
        image_indices=torch.arange(2),
    )
    return views, detections


def run(views: Views, detections: ViewDetections, **options: object) -> dict[str, torch.Tensor]:
    loss = MultiViewLoss(modes=MODES, **options)  # type: ignore[arg-type]
    return loss(views, detections, torch.Generator().manual_seed(0)).losses


def test_right_predictions_cost_nothing() -> None:
    views, detections = scene()
    loss = MultiViewLoss(modes=MODES, max_points=200)
    result = loss(views, detections, torch.Generator().manual_seed(0))
    assert set(result.losses) == {"loss_multiview_pixelwise", "loss_multiview_alignment"}
    # Associated pixels are at most half a pixel apart.
    assert result.losses["loss_multiview_pixelwise"] < 0.05
    assert result.losses["loss_multiview_alignment"] < 1e-5
    assert result.reasons["pixelwise"].tolist() == [0, 0]
    assert result.reasons["alignment"].tolist() == [0, 0]
    assert result.disagreement is not None and result.disagreement < 1e-3


def test_wrong_predictions_cost_and_have_gradients() -> None:
    views, detections = scene()
    torch.manual_seed(1)
    wrong = replace(detections, maps=torch.rand(2, 3, 28, 28, requires_grad=True))
    losses = run(views, wrong)
    assert losses["loss_multiview_pixelwise"] > 0.2
    assert losses["loss_multiview_alignment"] > 0.02
    for loss in losses.values():
        (gradient,) = torch.autograd.grad(loss, wrong.maps, retain_graph=True)
        assert gradient.isfinite().all() and gradient.abs().sum() > 0


def test_bins_and_weight() -> None:
    views, detections = scene()
    torch.manual_seed(2)
    bins = replace(detections, maps=torch.randn(2, 3, BINS, 14, 14, requires_grad=True))
    losses, doubled = run(views, bins), run(views, bins, weight=2.0)
    for name, loss in losses.items():
        torch.testing.assert_close(doubled[name], 2 * loss)
    sum(losses.values()).backward()
    assert bins.maps.grad is not None and bins.maps.grad.isfinite().all()


def test_descent_makes_views_agree() -> None:
    views, detections = scene()
    torch.manual_seed(3)
    maps = torch.randn(2, 3, BINS, 14, 14, requires_grad=True)
    optimizer = torch.optim.Adam([maps], lr=0.2)
    values = []
    for _ in range(10):
        loss = sum(run(views, replace(detections, maps=maps), max_points=100).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.7 * values[0]


@pytest.mark.parametrize("case", ["no detections", "no depth", "one view", "no views"])
def test_nothing_to_compare(case: str) -> None:
    views, detections = scene()
    rows = slice(0, 0) if case in ("no detections", "no views") else slice(0, 2)
    kept = slice(0, 0) if case == "no views" else slice(0, 2)
    depth = views.depth * (0.0 if case == "no depth" else 1.0)
    scenes = torch.arange(2) if case == "one view" else views.scenes
    views = Views(depth[kept], views.intrinsics[kept], views.camera_poses[kept], scenes[kept])
    maps = torch.randn(2, 3, BINS, 14, 14, requires_grad=True)
    detections = ViewDetections(
        maps[rows],
        detections.boxes[rows],
        detections.scores[rows],
        detections.masks[rows],
        detections.image_indices[rows],
    )
    result = MultiViewLoss(modes=MODES)(views, detections)
    assert result.losses["loss_multiview_pixelwise"].item() == 0
    if case != "one view":
        assert result.losses["loss_multiview_alignment"].item() == 0
        assert (result.reasons["pixelwise"] > 0).all()
    total = sum(result.losses.values())
    total.backward()
    assert maps.grad is not None and maps.grad.isfinite().all()


def test_modes_are_a_list() -> None:
    for modes in ("pixelwise", [], ["pose"]):
        with pytest.raises(ValueError, match="modes"):
            MultiViewLoss(modes=modes)


def test_constant_predictions_are_degenerate() -> None:
    same = torch.ones(4, 3, BINS, requires_grad=True)
    pairs = torch.tensor([0, 0, 2, 2])
    order = torch.tensor([1, 0, 3, 2])
    losses, reasons = pixelwise_consistency(same, same, pairs, 3, (order, order))
    assert losses.tolist() == [0, 0, 0]
    assert reasons.tolist() == [
        FailureReason.DEGENERATE_LOSS,
        FailureReason.NO_ASSOCIATION,
        FailureReason.DEGENERATE_LOSS,
    ]
    losses.sum().backward()
    assert same.grad is not None and same.grad.isfinite().all()


def test_alignment_recovers_poses() -> None:
    generator = torch.Generator().manual_seed(4)
    counts = [60, 2, 0, 40, 10]
    detections = torch.repeat_interleave(torch.tensor(counts))
    model = torch.rand(len(detections), 3, generator=generator) - 0.5
    model[detections == 4] = 0.25  # one point only
    model.requires_grad_()
    rotation = quaternion_to_matrix(torch.randn(5, 4, generator=generator))
    scale, translation = torch.tensor([0.3, 1, 1, 2.0, 1]), torch.randn(5, 3, generator=generator)
    points = (rotation[detections] @ model.detach()[..., None]).squeeze(-1)
    points = scale[detections, None] * points + translation[detections]
    found = align_to_depth(model, points, detections, 5, generator=generator)
    assert found.reasons.tolist() == [
        FailureReason.OK,
        FailureReason.TOO_FEW_POINTS,
        FailureReason.TOO_FEW_POINTS,
        FailureReason.OK,
        FailureReason.DEGENERATE_GEOMETRY,
    ]
    for row in (0, 3):
        torch.testing.assert_close(
            found.poses[row, :3, :3], scale[row] * rotation[row], atol=1e-4, rtol=1e-4
        )
        torch.testing.assert_close(found.poses[row, :3, 3], translation[row], atol=1e-4, rtol=1e-4)
    assert (found.residuals < 1e-4).all()
    assert found.residuals[[1, 2, 4]].tolist() == [0, 0, 0]
    found.residuals.sum().backward()
    assert model.grad is not None and model.grad.isfinite().all()


def test_alignment_of_too_few_points_only() -> None:
    model = torch.rand(2, 3, requires_grad=True)
    found = align_to_depth(model, torch.rand(2, 3), torch.tensor([0, 1]), 2)
    assert found.reasons.tolist() == [FailureReason.TOO_FEW_POINTS] * 2
    assert found.residuals.tolist() == [0, 0]


def test_weights_of_the_alignment() -> None:
    generator = torch.Generator().manual_seed(5)
    model = torch.rand(80, 3, generator=generator) - 0.5
    detections = torch.arange(80) // 40
    rotation = quaternion_to_matrix(torch.randn(2, 4, generator=generator))
    points = 0.5 * (rotation[detections] @ model[..., None]).squeeze(-1)
    wrong = torch.arange(80) % 4 == 0
    points[wrong] += torch.randn(20, 3, generator=generator)

    def align(weights: torch.Tensor | None) -> torch.Tensor:
        seeded = torch.Generator().manual_seed(6)
        found = align_to_depth(model, points, detections, 2, weights=weights, generator=seeded)
        assert found.reasons.tolist() == [FailureReason.OK] * 2
        return found.residuals

    plain = align(None)
    torch.testing.assert_close(align(torch.ones(80)), plain)
    torch.testing.assert_close(align(torch.full((80,), 0.5)), plain)
    assert (plain > 0.1).all() and (align((~wrong).float()) < 1e-5).all()
    # A tenth of the weight is about a tenth of the residual of the wrong pixels.
    few = align(torch.where(wrong, 0.1, 1.0))
    torch.testing.assert_close(few, plain * 0.1 * 40 / 31, rtol=0.05, atol=1e-4)
    none = align_to_depth(model, points, detections, 2, weights=torch.zeros(80))
    assert none.reasons.tolist() == [FailureReason.TOO_FEW_POINTS] * 2


def test_weights_are_the_probabilities_of_the_mask() -> None:
    views, detections = scene()
    maps = detections.maps.detach().clone()
    maps[:, :, :14] = 0.5  # wrong where the mask is uncertain
    masks = torch.ones(2, 1, 14, 14)
    masks[:, :, :7] = 0.51
    uncertain = replace(detections, maps=maps, masks=masks)
    name = "loss_multiview_alignment"
    weighted = run(views, uncertain, weighted_alignment=True)[name]
    assert 0 < weighted < 0.8 * run(views, uncertain)[name]
