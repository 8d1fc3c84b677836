"""The choice of detections against that of the published code."""

from pathlib import Path

import numpy as np
import torch

from roca_nocs.modeling.transformer.align_detr_head import select_detections


def test_detections(golden_dir: Path) -> None:
    golden = np.load(golden_dir / "aligndetr" / "postprocess.npz")
    scores, labels, boxes = select_detections(
        torch.from_numpy(golden["pred_logits"]),
        torch.from_numpy(golden["pred_boxes"]),
        [tuple(size) for size in golden["image_sizes"].tolist()],
        int(golden["topk"]),
    )
    torch.testing.assert_close(scores, torch.from_numpy(golden["scores"]), atol=1e-5, rtol=0)
    assert torch.equal(labels, torch.from_numpy(golden["labels"]))
    torch.testing.assert_close(boxes, torch.from_numpy(golden["boxes_xyxy"]), atol=1e-2, rtol=0)
