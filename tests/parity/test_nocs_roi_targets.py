"""Targets of regions, plain losses and pasting against the official program and ganocs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.layers.coordinate_bins import soft_argmax
from roca_nocs.layers.grouped import select_class
from roca_nocs.layers.paste_maps import paste_maps
from roca_nocs.modeling.criteria.nocs_loss import NocsLoss, symmetric_bin_loss
from roca_nocs.modeling.roi_heads.nocs_targets import (
    ObjectMaps,
    crop_and_resize,
    resample,
)


def load(golden_dir: Path, name: str) -> dict[str, torch.Tensor]:
    with np.load(golden_dir / "nocs" / f"{name}.npz") as file:
        return {key: torch.from_numpy(file[key]) for key in file.files}


def xyxy(boxes: torch.Tensor) -> torch.Tensor:
    """From y1, x1, y2, x2."""
    return boxes[:, [1, 0, 3, 2]]


def test_official_targets(golden_dir: Path) -> None:
    data = load(golden_dir, "roi_targets_official")
    truth = data["gt_boxes_norm_y1x1y2x2_cls"]
    regions, boxes = xyxy(data["rois"]), xyxy(truth[:, :4])
    # The file names the object of a region by its class only.
    rows = (data["class_ids"][:, None] == truth[None, :, 4]).float().argmax(dim=1)
    assert torch.equal(truth[rows, 4], data["class_ids"])
    coordinates, masks = data["gt_mini_coords"], data["gt_mini_masks"]
    maps = torch.cat([coordinates.permute(2, 3, 0, 1), masks.permute(2, 0, 1)[:, None]], dim=1)
    own = boxes[rows]
    relative = (regions - own[:, :2].repeat(1, 2)) / (own[:, 2:] - own[:, :2]).repeat(1, 2)
    size = data["masks"].shape[-1]
    sampled = crop_and_resize(maps, relative, rows, size)
    expected = torch.stack([data[f"coord_{axis}"] for axis in "xyz"], dim=1)
    torch.testing.assert_close(sampled[:, :3], expected, atol=1e-5, rtol=0)
    different = (sampled[:, 3].round() != data["masks"]).flatten(1).sum(dim=1)
    assert different.max() <= 1


class Ganocs:
    """One of the two examples of ganocs: objects, regions and predictions."""

    def __init__(self, golden_dir: Path, mode: str) -> None:
        data = load(golden_dir, "nocs_loss_ganocs")
        prefix = f"{mode}/"
        data = {k.removeprefix(prefix): v for k, v in data.items() if k.startswith(prefix)}
        self.data = data
        images, objects = data["gt_labels"].shape
        self.per_image = data["matched_idx"].shape[1]
        first = objects * torch.arange(images)[:, None]
        self.rows = (data["matched_idx"] + first).flatten()
        self.boxes = data["boxes_xyxy"].flatten(0, 1)
        self.pred = data["pred_of_matched_class"]
        masks = data["gt_masks"].flatten(0, 1)
        height, width = masks.shape[-2:]
        self.objects = ObjectMaps(
            nocs=data["gt_nocs"] - 0.5,
            masks=masks,
            boxes=torch.tensor([[0.0, 0.0, width, height]]).expand(len(masks), -1),
            image_indices=torch.arange(images).repeat_interleave(objects),
            depth=torch.zeros(images, 1, height, width),
        )
        self.coordinates, self.mask = resample(
            self.objects, self.boxes, self.rows, self.pred.shape[-1], "ganocs"
        )

    def loss(self, labelled: torch.Tensor, **options: object) -> torch.Tensor:
        """Mean over the axes."""
        loss = NocsLoss(normalization="per_pixel", region="roi", **options)
        pred = self.pred if self.pred.shape[2] > 1 else self.pred[:, :, 0]
        classes = torch.zeros(len(pred), dtype=torch.int64)
        losses = loss(pred, self.coordinates, self.mask, classes, labelled)
        return torch.stack([*losses.values()]).mean()


@pytest.mark.parametrize(
    ("mode", "key", "options"),
    [
        ("classification", "loss_ce", {"bin_rule": "ganocs"}),
        ("regression", "loss_mse", {"distance": "l2"}),
    ],
)
def test_ganocs_targets_and_losses(
    golden_dir: Path, mode: str, key: str, options: dict[str, str]
) -> None:
    example = Ganocs(golden_dir, mode)
    data = example.data
    torch.testing.assert_close(example.coordinates, data["roi_target"], atol=1e-5, rtol=0)
    assert torch.equal(example.mask, data["roi_mask"][:, 0] > 0)
    labelled = torch.ones(len(example.rows), dtype=torch.bool)
    expected = data[f"{key}_mean_all_valid"]
    torch.testing.assert_close(example.loss(labelled, **options), expected, atol=1e-5, rtol=0)
    labelled[-example.per_image :] = False
    expected = data[f"{key}_mean_last_image_no_gt"]
    torch.testing.assert_close(example.loss(labelled, **options), expected, atol=1e-5, rtol=0)


def test_ganocs_bins(golden_dir: Path) -> None:
    example = Ganocs(golden_dir, "classification")
    data = example.data
    identity = torch.eye(3).expand(len(example.rows), 1, 3, 3)
    loss = symmetric_bin_loss(
        example.pred, example.coordinates, example.mask, identity, bin_rule="ganocs"
    )
    torch.testing.assert_close(loss, data["loss_ce_none"], atol=1e-5, rtol=0)
    torch.testing.assert_close(
        soft_argmax(example.pred, "ganocs"),
        data["soft_argmax_for_discriminator"],
        atol=1e-5,
        rtol=0,
    )


def test_class_selection(golden_dir: Path) -> None:
    data = load(golden_dir, "select_and_paste_ganocs")
    # Label 0, the background, has no channel: the reference fills in zeros.
    kept = data["labels"] > 0
    for axis in "xyz":
        outputs = data[f"all_{axis}"][kept]
        selected = select_class(outputs.flatten(1, 2), data["labels"][kept] - 1, outputs.shape[2])
        torch.testing.assert_close(selected, data[f"selected_{axis}"][kept], atol=1e-6, rtol=0)


def test_pasting(golden_dir: Path) -> None:
    data = load(golden_dir, "select_and_paste_ganocs")
    expected = data["paste_image"]
    pasted = paste_maps(
        data["paste_data"], data["paste_boxes"], tuple(expected.shape[-2:]), inclusive=True
    )
    torch.testing.assert_close(pasted, expected, atol=1e-6, rtol=0)

    data = load(golden_dir, "paste_coord")
    pasted = paste_maps(
        data["coord_roi"].permute(2, 0, 1)[None],
        xyxy(data["box_y1x1y2x2"][None]).float(),
        tuple(data["image_hw"].tolist()),
    )
    torch.testing.assert_close(pasted[0].permute(1, 2, 0), data["coord_full"], atol=1e-5, rtol=0)
