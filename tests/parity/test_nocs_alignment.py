"""Umeyama, RANSAC and box fitting against the official code and object-deformnet."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.box_fitting import fit_boxes
from roca_nocs.geometry.camera import back_project
from roca_nocs.geometry.failures import FailureReason
from roca_nocs.geometry.pose import rotation_error_degrees
from roca_nocs.geometry.similarity import Similarity, _Official, umeyama, umeyama_ransac

Arrays = dict[str, torch.Tensor]


def load(path: Path) -> tuple[Arrays, list[str]]:
    with np.load(path) as arrays:
        names = arrays["case_names"].tolist() if "case_names" in arrays.files else []
        tensors = {n: torch.from_numpy(arrays[n]) for n in arrays.files if n != "case_names"}
    return tensors, names


def assert_close(
    result: Similarity, golden: Arrays, prefix: str, case: int, tolerance: float
) -> None:
    assert result.reasons.tolist() == [FailureReason.OK]
    for name, value in (("scale", result.scale), ("R", result.rotation), ("t", result.translation)):
        expected = golden[f"{prefix}{name}_{case}"]
        atol = tolerance * float(expected.abs().max())
        torch.testing.assert_close(value[0], expected, rtol=0, atol=atol)


def test_umeyama(golden_dir: Path) -> None:
    golden, names = load(golden_dir / "nocs" / "umeyama_similarity.npz")
    assert names
    for case in range(len(names)):
        source, target = golden[f"src_{case}"][None], golden[f"tgt_{case}"][None]
        result = umeyama(source, target, torch.ones(source.shape[:2]))
        assert_close(result, golden, "", case, 1e-9)


@pytest.mark.parametrize(("rule", "prefix"), [("corrected", "robust"), ("nocs", "official")])
def test_ransac_with_the_recorded_draws(golden_dir: Path, rule: str, prefix: str) -> None:
    golden, names = load(golden_dir / "nocs" / "umeyama_ransac.npz")
    assert names
    for case in range(len(names)):
        source, target = golden[f"src_{case}"][None], golden[f"tgt_{case}"][None]
        valid = torch.ones(source.shape[:2], dtype=torch.bool)
        samples = golden[f"{prefix}_sample_idx_{case}"][None]
        result = umeyama_ransac(source, target, valid, rule=rule, samples=samples)
        assert_close(result, golden, f"{prefix}_", case, 1e-7)
        if rule == "nocs":
            threshold = _Official(source, target, valid).threshold
            expected = golden[f"official_pass_threshold_{case}"][None]
            torch.testing.assert_close(threshold, expected, rtol=1e-9, atol=0)


def test_early_stop_of_the_recorded_draws(golden_dir: Path) -> None:
    """Samples beyond the recorded ones, were they tried, might win; the stop leaves them alone."""
    golden, names = load(golden_dir / "nocs" / "umeyama_ransac.npz")
    for case in range(len(names)):
        source, target = golden[f"src_{case}"][None], golden[f"tgt_{case}"][None]
        samples = golden[f"robust_sample_idx_{case}"][None]
        more = torch.randint(source.shape[1], (1, 128 - samples.shape[1], 5))
        valid = torch.ones(source.shape[:2], dtype=torch.bool)
        both = torch.cat([samples, more], dim=1)
        result = umeyama_ransac(source, target, valid, samples=both)
        assert_close(result, golden, "robust_", case, 1e-7)


def test_ransac_with_free_draws(golden_dir: Path) -> None:
    golden, names = load(golden_dir / "nocs" / "umeyama_ransac.npz")
    for case, name in enumerate(names):
        source, target = golden[f"src_{case}"][None], golden[f"tgt_{case}"][None]
        valid = torch.ones(source.shape[:2], dtype=torch.bool)
        result = umeyama_ransac(
            source, target, valid, generator=torch.Generator().manual_seed(case)
        )
        if name == "clean":
            assert_close(result, golden, "true_", case, 1e-6)
        else:
            assert rotation_error_degrees(result.rotation[0], golden[f"true_R_{case}"]) < 0.5
            assert abs(result.scale[0] / golden[f"true_scale_{case}"] - 1) < 0.01


def test_alignment_with_depth(golden_dir: Path) -> None:
    golden, _ = load(golden_dir / "nocs" / "align_depth.npz")
    masks = golden["masks"].permute(2, 0, 1) > 0
    points = back_project(golden["depth_mm"].double() / 1000, golden["intrinsics"])
    lifted = points[golden["backproject_v"], golden["backproject_u"]]
    mirrored = golden["backproject_points_mm_xyneg"] * torch.tensor([-1, -1, 1])
    torch.testing.assert_close(lifted, mirrored / 1000, rtol=0, atol=1e-9)

    points = points.movedim(-1, 0).expand(len(masks), -1, -1, -1)
    coordinates = golden["coords"].permute(2, 3, 0, 1)
    result = fit_boxes(coordinates, masks, points, rule="nocs")
    failed = golden["failed"]
    assert torch.equal(~result.valid, failed)
    assert (result.reasons[failed] == FailureReason.NO_VALID_DEPTH).all()
    close = {"rtol": 0, "atol": 1e-5}
    torch.testing.assert_close(result.extents, golden["box_scale"], **close)
    pose = golden["RT"][~failed]
    linear = result.scale[:, None, None] * result.rotation
    torch.testing.assert_close(linear[~failed], pose[:, :3, :3], **close)
    torch.testing.assert_close(result.translation[~failed], pose[:, :3, 3], **close)

    # The official ``if_norm`` moves the length of the extents into the scale.
    length = result.extents.norm(dim=1)
    pose = golden["RT_if_norm"][~failed]
    linear = length[:, None, None] * linear
    torch.testing.assert_close(linear[~failed], pose[:, :3, :3], **close)
    normalised = result.extents / length[:, None]
    torch.testing.assert_close(normalised, golden["box_scale_if_norm"], **close)

    true = golden["true_RT"][~failed]
    for rule in ("nocs", "corrected"):
        result = fit_boxes(coordinates, masks, points, rule=rule)
        linear = (result.scale[:, None, None] * result.rotation)[~failed]
        torch.testing.assert_close(linear, true[:, :3, :3], rtol=0, atol=0.02)
        torch.testing.assert_close(result.translation[~failed], true[:, :3, 3], rtol=0, atol=0.02)
