"""The traffic simulator: clips a second at 200x200 on one core, and drawing against OpenCV's.

A clip has three observed and four future frames. The baseline of the rate is the demanded one, 20
clips a second, so that the ratio is above one where the target is met; the files of a clip are
packed within the time of the second row. Boxes are drawn against one ``cv2.fillPoly`` a box,
which rounds corners to whole pixels.
"""

from __future__ import annotations

import time
from itertools import count

import numpy as np
from timing import compare

from roca_nocs.data.bev_clip import clip_files
from roca_nocs.data.bev_raster import draw_boxes, draw_boxes_fiery
from roca_nocs.data.synthetic.traffic import traffic_clip, traffic_meta

SECONDS_PER_CLIP = 1 / 20


def main() -> None:
    meta = traffic_meta(200, 200)
    numbers = count()
    compare(
        "traffic clip 200x200, vs the demanded 20 clips/s",
        lambda: time.sleep(SECONDS_PER_CLIP),
        lambda: traffic_clip(meta, 0, "train", next(numbers)),
    )
    numbers = count()
    compare(
        "traffic clip 200x200 with its files, vs the demanded 20 clips/s",
        lambda: time.sleep(SECONDS_PER_CLIP),
        lambda: clip_files(traffic_clip(meta, 0, "train", next(numbers)), meta.classes),
    )
    generator = np.random.default_rng(0)
    boxes = np.column_stack(
        [
            generator.uniform(-50, 50, (140, 2)),
            np.tile([4.6, 1.9], (140, 1)),
            generator.uniform(-np.pi, np.pi, 140),
        ]
    )
    frames, ids = np.repeat(np.arange(7), 20), np.tile(np.arange(1, 21), 7)
    compare(
        "20 boxes in 7 rasters 200x200 by centres of cells, vs one fillPoly a box",
        lambda: draw_boxes_fiery(boxes, ids, frames, 7, meta.grid),
        lambda: draw_boxes(boxes, ids, frames, 7, meta.grid),
    )


if __name__ == "__main__":
    main()
