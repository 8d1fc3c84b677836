"""Retrieval against the numbers of the published code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from parity.reference_weights import fill
from roca_nocs.geometry.point_sets import mean_nearest_distance
from roca_nocs.geometry.voxels import splat_to_voxels
from roca_nocs.modeling.roi_heads.retrieval_head import EmbeddingRetrieval, NearestPointRetrieval
from roca_nocs.modeling.roi_heads.retrieval_modes import build_retrieval_head
from roca_nocs.structures import CadDatabase

Arrays = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "roca" / "retrieval.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def tensors(golden: dict[str, np.ndarray]) -> Arrays:
    """Inputs and outputs as tensors, the voxels unpacked."""
    arrays = {k: torch.from_numpy(v) for k, v in golden.items() if v.dtype.kind in "fiub"}
    shape = (len(golden["nocs"]), 1, 32, 32, 32)
    for name in ("pos_voxels", "neg_voxels"):
        bits = np.unpackbits(golden[f"{name}_packed"], count=int(np.prod(shape)))
        arrays[name] = torch.from_numpy(bits.reshape(shape).astype(bool))
    return arrays


@pytest.fixture(scope="module")
def head(golden: dict[str, np.ndarray]) -> EmbeddingRetrieval:
    head = build_retrieval_head("resnet_resnet+image+comp", wild=True)
    names = golden["param_names_sorted"].tolist()
    parameters = dict(head.named_parameters())
    assert sorted(parameters) == names
    fill(parameters, names, float(golden["fill_seed"]), float(golden["fill_gain"]))
    return head


def regions(tensors: Arrays) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return tensors["nocs"], tensors["masks"], tensors["shape_code"]


def test_voxels_of_object_coordinates(tensors: Arrays) -> None:
    nocs, masks, _ = regions(tensors)
    grids = splat_to_voxels(nocs.flatten(2).transpose(1, 2), masks.flatten(1) > 0.5, 32)
    expected = torch.zeros_like(grids)
    expected[tensors["out_noc_voxel_index_nzyx"].long().unbind(1)] = tensors["out_noc_voxel_value"]
    torch.testing.assert_close(grids, expected, atol=1e-6, rtol=0)


@torch.no_grad()
def test_embeddings(head: EmbeddingRetrieval, tensors: Arrays) -> None:
    actual = {
        "noc": head.noc_net(*regions(tensors))[0],
        "pos": head.cad_net(tensors["pos_voxels"].float()),
        "neg": head.cad_net(tensors["neg_voxels"].float()),
    }
    for name, embedding in actual.items():
        expected = tensors[f"out_{name}_embedding"]
        torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-5)
    models = torch.cat([actual["pos"], actual["neg"]])
    torch.testing.assert_close(
        torch.cdist(actual["noc"], models).square(),
        tensors["out_pairwise_sq_dist"],
        rtol=1e-4,
        atol=1e-4,
    )


def test_losses_and_their_gradients(head: EmbeddingRetrieval, tensors: Arrays) -> None:
    nocs, masks, shape_code = regions(tensors)
    nocs, shape_code = nocs.clone().requires_grad_(), shape_code.clone().requires_grad_()
    losses = head.losses(nocs, masks, shape_code, tensors["pos_voxels"], tensors["neg_voxels"])
    assert list(losses) == ["loss_triplet", "loss_noc_comp"]
    for name, loss in losses.items():
        assert loss.item() == pytest.approx(tensors[f"out_{name}"].item(), rel=1e-4)
    gradients = torch.autograd.grad(sum(losses.values()), [nocs, shape_code])
    for name, gradient in zip(("nocs", "shape_code"), gradients, strict=True):
        expected = tensors[f"out_grad_{name}"]
        tolerance = 1e-3 * expected.abs().max().item()
        torch.testing.assert_close(gradient, expected, rtol=0, atol=tolerance)


def scene_database(golden: dict[str, np.ndarray], tensors: Arrays) -> CadDatabase:
    """The positives as class 2, the negatives as class 5, with the scenes of the file."""
    voxels = torch.cat([tensors["pos_voxels"], tensors["neg_voxels"]])[:, 0]
    count = len(voxels) // 2
    first_row = {2: 0, 5: count}
    scenes = {
        scene: torch.cat(
            [tensors[f"lookup_{scene}_class{c}"] + row for c, row in first_row.items()]
        )
        for scene in golden["lookup_scene_names"].tolist()
    }
    return CadDatabase(
        keys=tuple(("synset", str(row)) for row in range(2 * count)),
        category_ids=torch.tensor([2] * count + [5] * count),
        symmetries=torch.zeros(2 * count, dtype=torch.int64),
        voxels=voxels,
        scenes=scenes,
    )


def test_lookup(head: EmbeddingRetrieval, golden: dict[str, np.ndarray], tensors: Arrays) -> None:
    head.set_database(scene_database(golden, tensors))
    scenes = np.repeat(golden["lookup_scene_names"], golden["lookup_rois_per_image"]).tolist()
    indices, wild = head.eval().inference(*regions(tensors), tensors["lookup_classes"], scenes)
    assert indices.tolist() == golden["out_lookup_scene"].tolist()
    assert wild.tolist() == golden["out_lookup_wild"].tolist()
    assert (indices >= 0).tolist() == golden["out_lookup_has_alignment"].tolist()


@torch.no_grad()
def test_point_networks(golden: dict[str, np.ndarray], tensors: Arrays) -> None:
    head = build_retrieval_head("pointnet")
    parameters = {
        name.replace("noc_net.pointnet.", "noc_net."): parameter
        for name, parameter in head.named_parameters()
    }
    names = golden["pointnet_param_names_sorted"].tolist()
    assert sorted(parameters) == names
    fill(parameters, names, float(golden["fill_seed"]), float(golden["pointnet_fill_gain"]))
    clouds = tensors["clouds"]
    valid = torch.ones(clouds.shape[:2], dtype=torch.bool)
    cads = head.cad_net(clouds.transpose(1, 2), valid)
    torch.testing.assert_close(cads, tensors["out_pointnet_cad_embedding"], rtol=1e-4, atol=1e-5)
    nocs = head.noc_net(*regions(tensors))[0]
    torch.testing.assert_close(nocs, tensors["out_pointnet_noc_embedding"], rtol=1e-4, atol=1e-5)


def test_nearest_points(tensors: Arrays) -> None:
    rows, clouds = tensors["nearest_roi_index"], tensors["clouds"]
    nocs, masks, shape_code = (each[rows] for each in regions(tensors))
    head = NearestPointRetrieval(wild=True)
    head.set_database(
        CadDatabase(
            keys=tuple(("synset", str(row)) for row in range(len(clouds))),
            category_ids=torch.zeros(len(clouds), dtype=torch.int64),
            symmetries=torch.zeros(len(clouds), dtype=torch.int64),
            points=clouds,
        )
    )
    classes = torch.zeros(len(rows), dtype=torch.int64)
    _, indices = head.inference(nocs, masks, shape_code, classes, [None] * len(rows))
    assert indices.tolist() == tensors["out_nearest_index"].tolist()
    distances = mean_nearest_distance(
        nocs.flatten(2).transpose(1, 2),
        masks.flatten(1) > 0.5,
        clouds,
        torch.stack([torch.arange(len(rows)), indices], dim=1),
    )
    expected = tensors["out_nearest_mean_sq_dist"].float()
    torch.testing.assert_close(distances, expected, rtol=1e-4, atol=0)
