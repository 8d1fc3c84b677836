"""A mask as the fields of a COCO-style annotation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pycocotools.mask as mask_util


def mask_fields(mask: np.ndarray) -> dict[str, Any]:
    """``bbox`` (XYWH), ``area`` and ``segmentation`` (compressed run-length code) of a mask.

    Args:
        mask: (H, W) bool.
    """
    code = mask_util.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "bbox": mask_util.toBbox(code).tolist(),
        "area": int(mask_util.area(code)),
        "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
    }
