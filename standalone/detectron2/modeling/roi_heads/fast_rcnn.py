"""Classification and box regression of proposals (Fast R-CNN, section 2).

Shapes: R proposals over all images, K classes, class K is background. Class-agnostic regression
has one box for all classes: wherever ``4K`` is written, it is 4.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec, batched_nms, cross_entropy, nonzero_tuple
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from ..box_regression import Box2BoxTransform, _dense_box_regression_loss

LOSS_NAMES = ("loss_cls", "loss_box_reg")


def fast_rcnn_inference(
    boxes: Sequence[torch.Tensor],
    scores: Sequence[torch.Tensor],
    image_shapes: Sequence[tuple[int, int]],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[list[Instances], list[torch.Tensor]]:
    """Turn class-wise boxes and scores into detections.

    Args:
        boxes: per image ``(R_i, 4K)``, XYXY in pixels of the network input.
        scores: per image ``(R_i, K + 1)`` probabilities, the last column is background.
        image_shapes: per image ``(height, width)``; boxes are clipped to it.
        score_thresh: only scores strictly above count.
        nms_thresh: detections of one class overlapping more than this suppress each other.
        topk_per_image: detections kept per image; negative: all.

    Returns:
        Per image ``pred_boxes``, ``scores`` and ``pred_classes``, best first, and the row of
        the proposal behind each detection. Rows holding a non-finite value are dropped first
        and do not count.
    """
    per_image = [
        fast_rcnn_inference_single_image(
            image_boxes, image_scores, image_shape, score_thresh, nms_thresh, topk_per_image
        )
        for image_boxes, image_scores, image_shape in zip(boxes, scores, image_shapes, strict=True)
    ]
    return [instances for instances, _ in per_image], [rows for _, rows in per_image]


def fast_rcnn_inference_single_image(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    image_shape: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk_per_image: int,
) -> tuple[Instances, torch.Tensor]:
    """One image of :func:`fast_rcnn_inference`."""
    finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores).all(dim=1)
    if not finite.all():
        boxes, scores = boxes[finite], scores[finite]
    scores = scores[:, :-1]
    boxes_per_row = boxes.shape[1] // 4
    clipped = Boxes(boxes.reshape(-1, 4))
    clipped.clip(image_shape)
    boxes = clipped.tensor.view(-1, boxes_per_row, 4)

    rows, classes = nonzero_tuple(scores > score_thresh)
    boxes = boxes[rows, 0] if boxes_per_row == 1 else boxes[rows, classes]
    scores = scores[rows, classes]
    keep = batched_nms(boxes, scores, classes, nms_thresh)
    if topk_per_image >= 0:
        keep = keep[:topk_per_image]
    detections = Instances(
        image_shape,
        pred_boxes=Boxes(boxes[keep]),
        scores=scores[keep],
        pred_classes=classes[keep],
    )
    return detections, rows[keep]


@torch.no_grad()
def _log_classification_stats(
    pred_logits: torch.Tensor, gt_classes: torch.Tensor, prefix: str = "fast_rcnn"
) -> None:
    """Log accuracies of logits ``(R, K + 1)`` against classes ``(R,)``; nothing for R = 0."""
    total = gt_classes.numel()
    if total == 0:
        return
    background = pred_logits.shape[1] - 1
    pred_classes = pred_logits.argmax(dim=1)
    correct = pred_classes == gt_classes
    foreground = (gt_classes >= 0) & (gt_classes < background)
    num_foreground, num_correct, num_correct_foreground, num_missed = torch.stack(
        [
            foreground.sum(),
            correct.sum(),
            (correct & foreground).sum(),
            (foreground & (pred_classes == background)).sum(),
        ]
    ).tolist()
    storage = get_event_storage()
    storage.put_scalar(f"{prefix}/cls_accuracy", num_correct / total)
    if num_foreground > 0:
        storage.put_scalar(f"{prefix}/fg_cls_accuracy", num_correct_foreground / num_foreground)
        storage.put_scalar(f"{prefix}/false_negative", num_missed / num_foreground)


class FastRCNNOutputLayers(nn.Module):
    """Two linear layers, their losses and the inference that follows."""

    @configurable
    def __init__(
        self,
        input_shape: ShapeSpec | int,
        *,
        box2box_transform: Box2BoxTransform,
        num_classes: int,
        test_score_thresh: float = 0.0,
        test_nms_thresh: float = 0.5,
        test_topk_per_image: int = 100,
        cls_agnostic_bbox_reg: bool = False,
        smooth_l1_beta: float = 0.0,
        box_reg_loss_type: str = "smooth_l1",
        loss_weight: float | Mapping[str, float] = 1.0,
        use_fed_loss: bool = False,
        use_sigmoid_ce: bool = False,
        get_fed_loss_cls_weights: Callable[[], torch.Tensor] | None = None,
        fed_loss_num_classes: int = 50,
    ) -> None:
        """
        Args:
            input_shape: shape of the features of one region, or their number.
            box2box_transform: turns deltas into boxes and back.
            num_classes: K, without background.
            test_score_thresh: see :func:`fast_rcnn_inference`, as the next two.
            test_nms_thresh: overlap for suppression.
            test_topk_per_image: detections per image.
            cls_agnostic_bbox_reg: regress one box instead of one per class.
            smooth_l1_beta: switch between L2 and L1, 0 is L1.
            box_reg_loss_type: ``smooth_l1``, ``giou``, ``diou`` or ``ciou``.
            loss_weight: factor of both losses, or by loss name (absent names weigh 1).
            use_fed_loss: restrict the classification loss to the classes present and a random
                choice of others (federated loss); needs ``use_sigmoid_ce``.
            use_sigmoid_ce: K independent binary problems instead of one softmax.
            get_fed_loss_cls_weights: gives the sampling weight ``(K,)`` of each class.
            fed_loss_num_classes: classes in the federated loss.

        Raises:
            ValueError: the federated loss lacks what it needs.
        """
        super().__init__()
        if isinstance(input_shape, int):
            input_shape = ShapeSpec(channels=input_shape)
        features = input_shape.channels * (input_shape.width or 1) * (input_shape.height or 1)
        box_dim = len(box2box_transform.weights)
        num_boxes = 1 if cls_agnostic_bbox_reg else num_classes
        self.num_classes = num_classes
        self.cls_score = nn.Linear(features, num_classes + 1)
        self.bbox_pred = nn.Linear(features, num_boxes * box_dim)
        for layer, std in ((self.cls_score, 0.01), (self.bbox_pred, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

        self.box2box_transform = box2box_transform
        self.smooth_l1_beta = smooth_l1_beta
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_per_image = test_topk_per_image
        self.box_reg_loss_type = box_reg_loss_type
        if isinstance(loss_weight, Mapping):
            self.loss_weight = dict(loss_weight)
        else:
            self.loss_weight = dict.fromkeys(LOSS_NAMES, float(loss_weight))

        self.use_fed_loss = use_fed_loss
        self.use_sigmoid_ce = use_sigmoid_ce
        self.fed_loss_num_classes = fed_loss_num_classes
        if use_fed_loss:
            if not use_sigmoid_ce:
                raise ValueError("use_fed_loss=True needs use_sigmoid_ce=True")
            if get_fed_loss_cls_weights is None:
                raise ValueError("use_fed_loss=True needs get_fed_loss_cls_weights, got None")
            if fed_loss_num_classes > num_classes:
                raise ValueError(
                    f"fed_loss_num_classes={fed_loss_num_classes} exceeds the {num_classes} classes"
                )
            weights = get_fed_loss_cls_weights()
            if len(weights) != num_classes:
                raise ValueError(
                    f"get_fed_loss_cls_weights gave {len(weights)} weights for "
                    f"{num_classes} classes"
                )
            self.register_buffer("fed_loss_cls_weights", weights)

    @classmethod
    def from_config(cls, cfg: CfgNode, input_shape: ShapeSpec) -> dict[str, Any]:
        """Read ``cfg.MODEL.ROI_BOX_HEAD``, ``cfg.MODEL.ROI_HEADS`` and ``cfg.TEST``."""
        head = cfg.MODEL.ROI_BOX_HEAD
        return {
            "input_shape": input_shape,
            "box2box_transform": Box2BoxTransform(weights=head.BBOX_REG_WEIGHTS),
            "num_classes": cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            "test_score_thresh": cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST,
            "test_nms_thresh": cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST,
            "test_topk_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "cls_agnostic_bbox_reg": head.CLS_AGNOSTIC_BBOX_REG,
            "smooth_l1_beta": head.SMOOTH_L1_BETA,
            "box_reg_loss_type": head.BBOX_REG_LOSS_TYPE,
            "loss_weight": {"loss_box_reg": head.BBOX_REG_LOSS_WEIGHT},
        }

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Map features ``(R, ...)`` to logits ``(R, K + 1)`` and deltas ``(R, 4K)``."""
        x = x.flatten(start_dim=1)
        return self.cls_score(x), self.bbox_pred(x)

    def losses(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """Compute ``loss_cls`` and ``loss_box_reg``, weighted.

        Args:
            predictions: output of :meth:`forward` for the proposals of all images in order.
            proposals: per image ``proposal_boxes``, ``gt_classes`` and, if the image has
                objects, ``gt_boxes``.
        """
        logits, deltas = predictions
        if proposals:
            gt_classes = torch.cat([x.gt_classes for x in proposals])
            boxes = torch.cat([x.proposal_boxes.tensor for x in proposals])
            # Images without objects carry no gt_boxes; their proposals are all background.
            gt_boxes = torch.cat(
                [(x.gt_boxes if x.has("gt_boxes") else x.proposal_boxes).tensor for x in proposals]
            )
        else:
            gt_classes = torch.empty(0, dtype=torch.int64, device=logits.device)
            boxes = gt_boxes = torch.empty((0, 4), device=deltas.device)
        _log_classification_stats(logits, gt_classes)
        if self.use_sigmoid_ce:
            class_loss = self.sigmoid_cross_entropy_loss(logits, gt_classes)
        else:
            class_loss = cross_entropy(logits, gt_classes, reduction="mean")
        box_loss = self.box_reg_loss(boxes, gt_boxes, deltas, gt_classes)
        losses = dict(zip(LOSS_NAMES, (class_loss, box_loss), strict=True))
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def sigmoid_cross_entropy_loss(
        self, pred_class_logits: torch.Tensor, gt_classes: torch.Tensor
    ) -> torch.Tensor:
        """Binary cross-entropy of the K object classes, summed and divided by R.

        Args:
            pred_class_logits: ``(R, K + 1)``; the background column takes no part.
            gt_classes: ``(R,)``.
        """
        num_rows = len(gt_classes)
        if num_rows == 0:
            return pred_class_logits.sum() * 0
        target = F.one_hot(gt_classes, self.num_classes + 1)[:, :-1].to(pred_class_logits.dtype)
        loss = F.binary_cross_entropy_with_logits(
            pred_class_logits[:, :-1], target, reduction="none"
        )
        if self.use_fed_loss:
            loss = loss[:, self._federated_classes(gt_classes)]
        return loss.sum() / num_rows

    def _federated_classes(self, gt_classes: torch.Tensor) -> torch.Tensor:
        """Classes present among ``(R,)``, filled up at random by weight without repetition."""
        present = torch.unique(gt_classes)
        num_missing = self.fed_loss_num_classes - len(present)
        weights = torch.cat(
            [self.fed_loss_cls_weights.float(), self.fed_loss_cls_weights.new_zeros(1)]
        )
        weights[present] = 0
        if num_missing > 0:
            extra = torch.multinomial(weights, num_missing, replacement=False)
            present = torch.cat([present, extra])
        return present[present < self.num_classes]

    def box_reg_loss(
        self,
        proposal_boxes: torch.Tensor,
        gt_boxes: torch.Tensor,
        pred_deltas: torch.Tensor,
        gt_classes: torch.Tensor,
    ) -> torch.Tensor:
        """Regression loss of the foreground, divided by the number of all proposals.

        That divisor gives each foreground proposal the same weight however many there are.

        Args:
            proposal_boxes: ``(R, 4)``.
            gt_boxes: ``(R, 4)``.
            pred_deltas: ``(R, 4K)``.
            gt_classes: ``(R,)``.
        """
        box_dim = proposal_boxes.shape[1]
        rows = nonzero_tuple((gt_classes >= 0) & (gt_classes < self.num_classes))[0]
        if pred_deltas.shape[1] == box_dim:
            deltas = pred_deltas[rows]
        else:
            deltas = pred_deltas.unflatten(1, (self.num_classes, box_dim))[rows, gt_classes[rows]]
        loss = _dense_box_regression_loss(
            [proposal_boxes[rows]],
            self.box2box_transform,
            [deltas[None]],
            [gt_boxes[rows]],
            torch.ones((1, len(rows)), dtype=torch.bool, device=deltas.device),
            self.box_reg_loss_type,
            self.smooth_l1_beta,
        )
        return loss / max(gt_classes.numel(), 1)

    def inference(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[torch.Tensor]]:
        """Detections and the rows of their proposals, see :func:`fast_rcnn_inference`."""
        return fast_rcnn_inference(
            self.predict_boxes(predictions, proposals),
            self.predict_probs(predictions, proposals),
            [x.image_size for x in proposals],
            self.test_score_thresh,
            self.test_nms_thresh,
            self.test_topk_per_image,
        )

    def predict_boxes(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> tuple[torch.Tensor, ...]:
        """Boxes of all classes ``(R_i, 4K)`` per image, not clipped."""
        if not proposals:
            return ()
        boxes = torch.cat([x.proposal_boxes.tensor for x in proposals])
        decoded = self.box2box_transform.apply_deltas(predictions[1], boxes)
        return decoded.split([len(x) for x in proposals])

    def predict_boxes_for_gt_classes(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> tuple[torch.Tensor, ...]:
        """Boxes of the true class ``(R_i, 4)`` per image; background rows hold any class."""
        if not proposals:
            return ()
        boxes = torch.cat([x.proposal_boxes.tensor for x in proposals])
        decoded = self.box2box_transform.apply_deltas(predictions[1], boxes)
        decoded = decoded.unflatten(1, (-1, boxes.shape[1]))
        if decoded.shape[1] == 1:
            chosen = decoded[:, 0]
        else:
            classes = torch.cat([x.gt_classes for x in proposals]).clamp(0, self.num_classes - 1)
            chosen = decoded[torch.arange(len(classes), device=classes.device), classes]
        return chosen.split([len(x) for x in proposals])

    def predict_probs(
        self, predictions: tuple[torch.Tensor, torch.Tensor], proposals: list[Instances]
    ) -> tuple[torch.Tensor, ...]:
        """Probabilities ``(R_i, K + 1)`` per image."""
        logits = predictions[0]
        probs = logits.sigmoid() if self.use_sigmoid_ce else logits.softmax(dim=-1)
        return probs.split([len(x) for x in proposals])
