"""KITTI evaluation of the validation split: all frames at once against a loop over pairs."""

from __future__ import annotations

import math

import numpy as np
from timing import compare

from roca_nocs.evaluation.kitti_ap import (
    CLASSES,
    DIFFICULTIES,
    MAX_OCCLUSION,
    MAX_TRUNCATION,
    METRICS,
    MIN_HEIGHT,
    MIN_OVERLAP,
    NEIGHBOURS,
    NUM_SLOTS,
    kitti_precision,
    recall_thresholds,
)
from roca_nocs.evaluation.kitti_overlaps import DONT_CARE, KittiObjects

# As many as the validation split has; the loop is timed on a share of them.
NUM_FRAMES, NUM_LOOP_FRAMES = 3769, 150
TYPES = ("car", "pedestrian", "cyclist", "van", "person_sitting", "truck", DONT_CARE)
SHARES = (0.53, 0.1, 0.03, 0.06, 0.01, 0.02, 0.25)
DIMENSIONS = {"pedestrian": (0.66, 1.76, 0.84), "cyclist": (0.6, 1.74, 1.76)}
MEAN_ANNOTATIONS, MEAN_FALSE = 10, 15

Polygon = list[tuple[float, float]]


def scenes(num_frames: int, seed: int = 0) -> tuple[KittiObjects, KittiObjects]:
    """Detections and annotations: most objects are found, some twice, others are invented."""
    rng = np.random.default_rng(seed)
    gt = random_objects(rng, rng.poisson(MEAN_ANNOTATIONS, num_frames), SHARES)
    found = np.flatnonzero((gt.types != DONT_CARE) & (rng.random(len(gt)) < 0.9))
    found = np.concatenate([found, found[rng.random(len(found)) < 0.3]])
    size = len(found)
    seen = KittiObjects(
        images=gt.images[found],
        types=gt.types[found],
        boxes=gt.boxes[found] + rng.normal(0, 3, (size, 4)),
        scores=rng.uniform(0.2, 1, size),
        centers=gt.centers[found] + rng.normal(0, 0.2, (size, 3)),
        dimensions=gt.dimensions[found] * rng.normal(1, 0.05, (size, 3)),
        rotation_y=gt.rotation_y[found] + rng.normal(0, 0.1, size),
        alphas=gt.alphas[found] + rng.normal(0, 0.1, size),
        truncation=np.full(size, -1.0),
        occlusion=np.full(size, -1),
    )
    false = random_objects(rng, rng.poisson(MEAN_FALSE, num_frames), (0.7, 0.2, 0.1))
    pred = {
        name: np.concatenate([getattr(seen, name), getattr(false, name)])
        for name in KittiObjects.__dataclass_fields__
    }
    order = np.argsort(pred["images"], kind="stable")
    return KittiObjects(**{name: values[order] for name, values in pred.items()}), gt


def random_objects(
    rng: np.random.Generator, counts: np.ndarray, shares: tuple[float, ...]
) -> KittiObjects:
    """Upright boxes on a plane 1.65 m below the camera, as many per frame as given."""
    size = int(counts.sum())
    types = np.array(TYPES)[: len(shares)][rng.choice(len(shares), size, p=shares)]
    dimensions = np.array([DIMENSIONS.get(name, (1.63, 1.53, 3.88)) for name in types])
    depth = rng.uniform(5, 60, size)
    x = rng.uniform(-0.7, 0.7, size) * depth
    center = np.stack([x, 1.65 - dimensions[:, 1] / 2, depth], axis=1)
    u, v = 721.5 * center[:, 0] / depth + 609.6, 721.5 * center[:, 1] / depth + 172.9
    half = 721.5 * np.stack([dimensions[:, 2], dimensions[:, 1]], axis=1) / depth[:, None] / 2
    middle = np.stack([u, v], axis=1)
    rotation_y = rng.choice([-np.pi / 2, np.pi / 2, 0], size) + rng.normal(0, 0.1, size)
    return KittiObjects(
        images=np.repeat(np.arange(len(counts)), counts),
        types=types,
        boxes=np.concatenate([middle - half, middle + half], axis=1),
        scores=rng.uniform(0.01, 0.5, size),
        centers=center,
        dimensions=dimensions,
        rotation_y=rotation_y,
        alphas=rotation_y - np.arctan2(x, depth),
        truncation=rng.choice([0.0, 0.2, 0.4], size, p=[0.8, 0.1, 0.1]),
        occlusion=rng.integers(0, 4, size),
    )


class Frame:
    """One image with the overlaps of all its pairs, computed one at a time."""

    def __init__(self, pred: KittiObjects, gt: KittiObjects, number: int) -> None:
        self.pred = np.flatnonzero(pred.images == number).tolist()
        self.gt = np.flatnonzero(gt.images == number).tolist()
        self.scores = pred.scores[self.pred].tolist()
        self.pred_alphas = pred.alphas[self.pred].tolist()
        self.gt_alphas = gt.alphas[self.gt].tolist()
        # Metric -> annotation -> detection -> overlap.
        self.overlaps: dict[str, list[list[float]]] = {"2d": [], "bev": [], "3d": []}
        self.covered = [0.0] * len(self.pred)
        for g in self.gt:
            row: dict[str, list[float]] = {"2d": [], "bev": [], "3d": []}
            for place, d in enumerate(self.pred):
                shared, area, other_area = image_areas(pred.boxes[d], gt.boxes[g])
                if gt.types[g] == DONT_CARE:
                    self.covered[place] = max(self.covered[place], shared / area)
                row["2d"].append(shared / (area + other_area - shared))
                bev, volume = space_overlaps(pred, d, gt, g)
                row["bev"].append(bev)
                row["3d"].append(volume)
            for metric, values in row.items():
                self.overlaps[metric].append(values)

    def states(
        self, pred: KittiObjects, gt: KittiObjects, name: str, difficulty: int
    ) -> tuple[list[int], list[int]]:
        """Of detections and annotations: 0 counts, 1 is ignored, -1 plays no part."""
        pred_states, gt_states = [], []
        for d in self.pred:
            if int(abs(pred.boxes[d, 3] - pred.boxes[d, 1])) < MIN_HEIGHT[difficulty]:
                pred_states.append(1)
            else:
                pred_states.append(0 if pred.types[d] == name else -1)
        for g in self.gt:
            hard = (
                gt.occlusion[g] > MAX_OCCLUSION[difficulty]
                or gt.truncation[g] > MAX_TRUNCATION[difficulty]
                or abs(gt.boxes[g, 3] - gt.boxes[g, 1]) < MIN_HEIGHT[difficulty]
            )
            if gt.types[g] == name:
                gt_states.append(int(hard))
            else:
                gt_states.append(1 if gt.types[g] == NEIGHBOURS.get(name) else -1)
        return pred_states, gt_states

    def hits(self, states: tuple[list[int], list[int]], metric: str, limit: float) -> list[float]:
        """First pass: scores of the detections that found an annotation."""
        pred_states, gt_states = states
        taken: set[int] = set()
        found = []
        for g, gt_state in enumerate(gt_states):
            if gt_state == -1:
                continue
            best = -1
            for d, state in enumerate(pred_states):
                if state == -1 or d in taken or self.overlaps[metric][g][d] <= limit:
                    continue
                if best < 0 or self.scores[d] > self.scores[best]:
                    best = d
            if best >= 0:
                taken.add(best)
                if gt_state == 0 and pred_states[best] == 0:
                    found.append(self.scores[best])
        return found

    def counts(
        self, states: tuple[list[int], list[int]], metric: str, limit: float, threshold: float
    ) -> tuple[int, float, int]:
        """Second pass: hits, sum of their similarities, false detections."""
        pred_states, gt_states = states
        taken: set[int] = set()
        hits, similarity = 0, 0.0
        for g, gt_state in enumerate(gt_states):
            if gt_state == -1:
                continue
            best = -1
            for d, state in enumerate(pred_states):
                overlap = self.overlaps[metric][g][d]
                if state == -1 or d in taken or self.scores[d] < threshold or overlap <= limit:
                    continue
                if state == 0:
                    if (
                        best < 0
                        or pred_states[best] == 1
                        or overlap > self.overlaps[metric][g][best]
                    ):
                        best = d
                elif best < 0:
                    best = d
            if best >= 0:
                taken.add(best)
                if gt_state == 0 and pred_states[best] == 0:
                    hits += 1
                    similarity += (1 + math.cos(self.gt_alphas[g] - self.pred_alphas[best])) / 2
        false = 0
        for d, state in enumerate(pred_states):
            if state == 0 and d not in taken and self.scores[d] >= threshold:
                false += not (metric == "2d" and self.covered[d] > limit)
        return hits, similarity, false


def image_areas(box: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Shared area and the areas of two boxes XYXY."""
    width = max(min(box[2], other[2]) - max(box[0], other[0]), 0)
    height = max(min(box[3], other[3]) - max(box[1], other[1]), 0)
    area, other_area = ((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
    return width * height, area, other_area


def space_overlaps(pred: KittiObjects, d: int, gt: KittiObjects, g: int) -> tuple[float, float]:
    """IoU from above and in space of two upright boxes."""
    (width, height, length), (other_width, other_height, other_length) = (
        pred.dimensions[d],
        gt.dimensions[g],
    )
    offset = pred.centers[d] - gt.centers[g]
    reach = math.hypot(width, length) + math.hypot(other_width, other_length)
    if math.hypot(offset[0], offset[2]) > reach / 2:
        return 0.0, 0.0
    shared = polygon_area(
        clip(
            footprint(offset[0], offset[2], length, width, pred.rotation_y[d]),
            footprint(0.0, 0.0, other_length, other_width, gt.rotation_y[g]),
        )
    )
    area, other_area = width * length, other_width * other_length
    top = max(offset[1] - height / 2, -other_height / 2)
    volume = shared * max(min(offset[1] + height / 2, other_height / 2) - top, 0)
    whole = area * height + other_area * other_height - volume
    return shared / (area + other_area - shared), volume / whole


def footprint(x: float, z: float, length: float, width: float, yaw: float) -> Polygon:
    """Corners from above, in one sense of rotation."""
    cos, sin = math.cos(yaw) / 2, math.sin(yaw) / 2
    signs = ((1, 1), (1, -1), (-1, -1), (-1, 1))
    return [
        (x + a * length * cos + b * width * sin, z - a * length * sin + b * width * cos)
        for a, b in signs
    ]


def clip(polygon: Polygon, window: Polygon) -> Polygon:
    """The part of a convex polygon in another one, edge by edge (Sutherland and Hodgman)."""
    for (x1, y1), (x2, y2) in zip(window, window[1:] + window[:1], strict=True):
        heights = [(x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) for x, y in polygon]
        kept: Polygon = []
        for i, (x, y) in enumerate(polygon):
            if (heights[i - 1] > 0) != (heights[i] > 0):
                share = heights[i - 1] / (heights[i - 1] - heights[i])
                other_x, other_y = polygon[i - 1]
                kept.append((other_x + share * (x - other_x), other_y + share * (y - other_y)))
            if heights[i] <= 0:
                kept.append((x, y))
        polygon = kept
    return polygon


def polygon_area(polygon: Polygon) -> float:
    """By the shoelace formula."""
    pairs = zip(polygon, polygon[1:] + polygon[:1], strict=True)
    return abs(sum(x1 * y2 - x2 * y1 for (x1, y1), (x2, y2) in pairs)) / 2


def precision_by_pairs(pred: KittiObjects, gt: KittiObjects) -> dict[str, np.ndarray]:
    """The protocol frame by frame, comparing two objects at a time."""
    last = max(pred.images.max(initial=-1), gt.images.max(initial=-1))
    frames = [Frame(pred, gt, number) for number in range(last + 1)]
    slots = {metric: np.zeros((len(CLASSES), len(DIFFICULTIES), NUM_SLOTS)) for metric in METRICS}
    for place in np.ndindex(len(CLASSES), len(DIFFICULTIES)):
        name = CLASSES[place[0]].lower()
        states = [frame.states(pred, gt, name, place[1]) for frame in frames]
        count = sum(state == 0 for _, gt_states in states for state in gt_states)
        for metric in METRICS:
            if metric == "aos":
                continue
            kind, limit = metric.split("_")[0], MIN_OVERLAP[name][metric.endswith("loose")]
            each = list(zip(frames, states, strict=True))
            hits = [score for frame, own in each for score in frame.hits(own, kind, limit)]
            thresholds = recall_thresholds(np.array(hits), count).tolist()
            for slot, threshold in enumerate(thresholds):
                counts = [frame.counts(own, kind, limit, threshold) for frame, own in each]
                right, alike, false = (sum(part) for part in zip(*counts, strict=True))
                slots[metric][place][slot] = right / max(right + false, 1)
                if metric == "2d":
                    slots["aos"][place][slot] = alike / max(right + false, 1)
    return {
        metric: np.maximum.accumulate(values[..., ::-1], axis=-1)[..., ::-1]
        for metric, values in slots.items()
    }


def main() -> None:
    part = scenes(NUM_LOOP_FRAMES)
    expected, found = precision_by_pairs(*part), kitti_precision(*part).precision
    if not all(np.allclose(found[metric], expected[metric], atol=1e-9) for metric in METRICS):
        raise SystemExit("the two formulations of the protocol disagree")
    compare(
        f"KITTI evaluation, {NUM_LOOP_FRAMES} frames with {len(part[0])} detections and "
        f"{len(part[1])} annotations, all classes and metrics, vs a loop over pairs",
        lambda: precision_by_pairs(*part),
        lambda: kitti_precision(*part),
    )
    everything = scenes(NUM_FRAMES)
    compare(
        f"KITTI evaluation, {NUM_FRAMES} frames with {len(everything[0])} detections and "
        f"{len(everything[1])} annotations, vs {NUM_LOOP_FRAMES} of these frames in a loop",
        lambda: precision_by_pairs(*part),
        lambda: kitti_precision(*everything),
    )


if __name__ == "__main__":
    main()
