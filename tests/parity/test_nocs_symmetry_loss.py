"""The losses of object coordinates against the official ones, and the rotation of maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.geometry.symmetry import class_rotations
from roca_nocs.modeling.criteria.nocs_loss import (
    NocsLoss,
    best_rotation,
    euclidean_error,
    rotate_coordinates,
    symmetric_bin_loss,
)

RELATIVE = 2e-4


class Golden:
    """The official example as regions: those of background classes are left out."""

    def __init__(self, golden_dir: Path) -> None:
        with np.load(golden_dir / "nocs" / "symmetry_loss_official.npz") as file:
            self.arrays = dict(file)
        ids = self.tensor("target_class_ids")
        self.kept = ids > 0
        self.classes = ids[self.kept] - 1
        self.labelled = ~self.tensor("target_no_nocs")[self.kept]
        self.mask = self.tensor("target_masks")[self.kept] > 0
        self.coordinates = self.tensor("target_coords")[self.kept].movedim(-1, 1)
        probabilities = self.tensor("pred_bin_prob_target_class")[self.kept]
        self.logits = probabilities.permute(0, 4, 3, 1, 2).log().contiguous()
        self.pred = self.tensor("pred_coord_target_class")[self.kept].movedim(-1, 1)
        num_classes = int(self.arrays["num_classes"]) - 1
        turns = int(self.arrays["num_rotations"])
        symmetric = [f"class{k - 1}" for k in self.arrays["symmetric_class_ids"].tolist()]
        self.rotations = class_rotations(
            [f"class{k}" for k in range(num_classes)],
            {name: {"axis": "y", "order": "inf", "samples": turns} for name in symmetric},
        )

    def tensor(self, name: str) -> torch.Tensor:
        return torch.from_numpy(self.arrays[name])

    def loss(self, pred: torch.Tensor, symmetric: bool = True, **options: object) -> torch.Tensor:
        loss = NocsLoss(rotations=self.rotations if symmetric else None, **options)
        # The official losses without symmetries take no notice of missing labels.
        labelled = self.labelled if symmetric else torch.ones_like(self.labelled)
        losses = loss(pred, self.coordinates, self.mask, self.classes, labelled)
        assert list(losses) == [f"loss_nocs_{axis}" for axis in "xyz"]
        return torch.stack([*losses.values()])


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> Golden:
    return Golden(golden_dir)


def test_bins_with_symmetry(golden: Golden) -> None:
    found = golden.loss(golden.logits, bin_rule="nocs")
    torch.testing.assert_close(found, golden.tensor("loss_bins_sym_xyz"), rtol=RELATIVE, atol=0)


def test_bins_without_symmetry(golden: Golden) -> None:
    found = golden.loss(golden.logits, False, bin_rule="nocs", normalization="per_pixel")
    torch.testing.assert_close(found, golden.tensor("loss_bins_nosym_xyz"), rtol=RELATIVE, atol=0)


def test_every_rotation_and_the_choice(golden: Golden) -> None:
    table = golden.rotations[golden.classes]
    sums = torch.stack(
        [
            (
                symmetric_bin_loss(
                    golden.logits, golden.coordinates, golden.mask, table[:, [k]], "nocs"
                )
                * golden.mask[:, None]
            ).sum(dim=(1, 2, 3))
            for k in range(table.shape[1])
        ],
        dim=1,
    )
    used = golden.labelled
    # A class without symmetry has the same six rotations in the reference.
    expected = golden.tensor("bins_sum_per_rotation")[golden.kept][used].float()
    symmetric = table[used].ne(table[used][:, :1]).flatten(1).any(dim=1)
    assert symmetric.any() and not symmetric.all()
    torch.testing.assert_close(sums[used], expected, rtol=RELATIVE, atol=1e-2)
    chosen = golden.tensor("bins_argmin_rotation")[golden.kept][used]
    torch.testing.assert_close(
        best_rotation(sums[used], table[used])[:, 0],
        table[used][torch.arange(len(chosen)), chosen],
    )


@pytest.mark.parametrize(
    ("distance", "key"), [("smooth_l1", "smooth_l1_0p1"), ("l1", "l1"), ("l2", "l2")]
)
def test_regression(golden: Golden, distance: str, key: str) -> None:
    torch.testing.assert_close(
        golden.loss(golden.pred, distance=distance),
        golden.tensor(f"loss_reg_sym_{key}"),
        rtol=RELATIVE,
        atol=0,
    )
    torch.testing.assert_close(
        golden.loss(golden.pred, False, distance=distance, normalization="per_pixel"),
        golden.tensor(f"loss_reg_nosym_{key}"),
        rtol=RELATIVE,
        atol=0,
    )


def test_euclidean_error(golden: Golden) -> None:
    errors = euclidean_error(
        golden.pred, golden.coordinates, golden.mask, golden.rotations[golden.classes]
    )
    expected = golden.tensor("metric_euclid_sym").flatten()
    torch.testing.assert_close(
        errors[golden.labelled].mean()[None], expected, rtol=RELATIVE, atol=0
    )


def test_rotated_maps(golden_dir: Path) -> None:
    with np.load(golden_dir / "nocs" / "nocs_rotation.npz") as file:
        data = {name: torch.from_numpy(file[name]) for name in file.files}
    turns = len(data["rotations6"])
    table = class_rotations(["round"], {"round": {"axis": "y", "order": turns}})
    torch.testing.assert_close(table[0], data["rotations6"], atol=1e-6, rtol=0)
    torch.testing.assert_close(table[0, 1], data["R_step"], atol=1e-6, rtol=0)
    nocs = data["nocs"]
    rotated = rotate_coordinates(nocs, data["mask"][:, 0], table.expand(len(nocs), -1, -1, -1))
    torch.testing.assert_close(rotated, data["rotated_centred_masked"], atol=1e-6, rtol=0)
