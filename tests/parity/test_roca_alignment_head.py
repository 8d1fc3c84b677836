"""The alignment head with the weights of a rule, against the published implementation."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.rotation import matrix_to_quaternion, quaternion_to_matrix
from roca_nocs.modeling.roi_heads.alignment_head import (
    AlignmentHead,
    AlignmentRegions,
    AlignmentTargets,
)
from roca_nocs.modeling.roi_heads.retrieval_modes import build_retrieval_head

Golden = dict[str, np.ndarray]


def load(path: Path) -> Golden:
    with np.load(path) as arrays:
        return {name: arrays[name] for name in arrays.files}


@pytest.fixture(scope="module")
def inference_golden(golden_dir: Path) -> Golden:
    return load(golden_dir / "roca" / "alignment_head_infer.npz")


@pytest.fixture(scope="module")
def training_golden(golden_dir: Path) -> Golden:
    return load(golden_dir / "roca" / "alignment_head_train.npz")


def fill(module: torch.nn.Module, names: list[str], seed: float, gain: float) -> None:
    """Parameters by the rule of the golden arrays: pseudo-random numbers from a sine."""
    parameters = dict(module.named_parameters())
    assert sorted(parameters) == names
    for k, name in enumerate(names):
        parameter = parameters[name]
        i = np.arange(parameter.numel(), dtype=np.float64)
        a = np.sin((i + 1) * 12.9898 + (k + 1) * 78.233 + seed) * 43758.5453
        u = 2 * (a - np.floor(a)) - 1
        fan_in = np.prod(parameter.shape[1:])
        values = gain * u * np.sqrt(6 / fan_in) if parameter.dim() > 1 else 0.1 * u
        parameter.data = torch.from_numpy(values).float().reshape(parameter.shape)


def build_head(golden: Golden) -> AlignmentHead:
    head = AlignmentHead(
        # The last layer of the scale head has three outputs a class.
        num_classes=9,
        in_channels=golden["depth_features"].shape[1],
        grid_size=int(golden["grid_size"]),
        dropout=0.0,
        retrieval_head=build_retrieval_head("resnet_resnet+image+comp"),
    )
    names = golden["param_names_sorted"].tolist()
    fill(head, names, float(golden["fill_seed"]), float(golden["fill_gain"]))
    return head


def build_regions(golden: Golden) -> AlignmentRegions:
    images = torch.repeat_interleave(torch.from_numpy(golden["rois_per_image"]))
    weights = golden.get("class_weights_per_roi")
    return AlignmentRegions(
        boxes=torch.from_numpy(golden["boxes_xyxy"]),
        classes=torch.from_numpy(golden["classes"]),
        image_indices=images,
        image_sizes=torch.from_numpy(golden["image_size_hw"]).expand(len(golden["depths"]), 2),
        intrinsics=torch.from_numpy(golden["intrinsics"])[images],
        weights=None if weights is None else torch.from_numpy(weights),
        scenes=[None] * len(images),
    )


def masks_of(golden: Golden) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(golden[name]) for name in ("mask_probs", "mask_pred")}


def test_inference(inference_golden: Golden) -> None:
    golden = inference_golden
    head = build_head(golden).eval()
    maps = (torch.from_numpy(golden[name]) for name in ("depth_features", "depths"))
    result = head.inference(build_regions(golden), *maps, **masks_of(golden))
    enough = result.has_enough
    assert enough.tolist() == golden["out_has_enough"].tolist()
    ours = {
        "shape_code": result.shape_code,
        "scales": result.scales,
        "trans_before_procrustes": result.translations - result.corrections,
        "proc_rot": result.rotations[enough],
        "proc_trs": result.corrections[enough],
        "proc_weights": result.confidences[enough],
        "translations": result.translations,
        "rotations_wxyz": matrix_to_quaternion(result.rotations),
        "nocs": result.nocs,
    }
    for name, value in ours.items():
        expected = torch.from_numpy(golden[f"out_{name}"])
        torch.testing.assert_close(
            value, expected, rtol=1e-4, atol=1e-4, msg=lambda m, n=name: n + m
        )
    assert result.indices.tolist() == [-1] * len(enough)


def test_training(training_golden: Golden) -> None:
    golden = training_golden
    head = build_head(golden).train()
    features, depths = (
        torch.from_numpy(golden[name]).requires_grad_() for name in ("depth_features", "depths")
    )
    count = len(golden["classes"])
    voxels = [
        torch.from_numpy(np.unpackbits(golden[f"{name}_voxels_packed"], count=count * 32**3))
        for name in ("pos", "neg")
    ]
    positives, negatives = (each.reshape(count, 1, 32, 32, 32).bool() for each in voxels)
    targets = AlignmentTargets(
        depths=torch.from_numpy(golden["gt_depths"]),
        masks=torch.from_numpy(golden["mask_gt"]),
        rotations=quaternion_to_matrix(torch.from_numpy(golden["gt_rotations_wxyz"])),
        translations=torch.from_numpy(golden["gt_translations"]),
        scales=torch.from_numpy(golden["gt_scales"]),
        positives=positives,
        negatives=negatives,
    )
    losses = head.losses(
        build_regions(golden), features, depths, targets=targets, **masks_of(golden)
    )
    expected = {name[4:]: float(golden[name]) for name in golden if name.startswith("out_loss_")}
    assert set(losses) == set(expected)
    for name, value in losses.items():
        assert value.item() == pytest.approx(expected[name], rel=1e-4), name
    total = sum(losses.values())
    assert total.item() == pytest.approx(float(golden["out_total"]), rel=1e-4)

    total.backward()
    parameters = dict(head.named_parameters())
    for name, norm, sum_ in zip(
        golden["param_names_sorted"].tolist(),
        golden["out_grad_l2_per_param"],
        golden["out_grad_sum_per_param"],
        strict=True,
    ):
        gradient = parameters[name].grad
        assert gradient.norm().item() == pytest.approx(norm, rel=1e-2), name
        assert gradient.sum().item() == pytest.approx(sum_, abs=0.05 * norm), name
    norm = float(golden["out_grad_depth_features_l2"])
    assert features.grad.norm().item() == pytest.approx(norm, rel=1e-2)
    expected_grad = torch.from_numpy(golden["out_grad_depths"])
    atol = 1e-3 * float(expected_grad.abs().max())
    torch.testing.assert_close(depths.grad, expected_grad, rtol=0, atol=atol)
