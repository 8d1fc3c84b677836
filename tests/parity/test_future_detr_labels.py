"""Centre heat, offsets and forward flow of an instance clip, against reference numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.data.bev_labels import IGNORE, centerness, centre_offsets, forward_flow
from roca_nocs.geometry.bev import matrix_to_pose_vector, pose_vector_to_matrix
from roca_nocs.geometry.fiery_warp import fiery_warp


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict[str, np.ndarray]:
    with np.load(golden_dir / "future_detr" / "fiery_labels.npz") as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_centerness(golden: dict[str, np.ndarray]) -> None:
    heat = centerness(golden["instance"], float(golden["sigma"]))
    np.testing.assert_allclose(heat, golden["centerness"], atol=1e-5)


def test_offsets(golden: dict[str, np.ndarray]) -> None:
    assert golden["ignore_index"] == IGNORE
    np.testing.assert_array_equal(centre_offsets(golden["instance"]), golden["offset"])


def test_forward_flow(golden: dict[str, np.ndarray]) -> None:
    instance = golden["instance"]
    motion = torch.from_numpy(golden["future_egomotion"])[:-1]
    back = matrix_to_pose_vector(torch.linalg.inv(pose_vector_to_matrix(motion)))
    along_x, along_y = golden["spatial_extent"].tolist()
    later = torch.from_numpy(instance[1:].astype(np.float32))[:, None]
    warped = fiery_warp(later, back, (along_x, along_y))[:, 0]
    flow = forward_flow(instance, warped.numpy().astype(instance.dtype))
    np.testing.assert_array_equal(flow, golden["flow"])
