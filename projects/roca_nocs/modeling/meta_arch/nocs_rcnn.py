"""NOCS: a region-based detector that also predicts object coordinates, and poses from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Instances

from roca_nocs.geometry.box_fitting import BoxFit, fit_boxes, fit_boxes_of_known_size
from roca_nocs.geometry.roi_grid import cell_pixels, grid_rays
from roca_nocs.geometry.similarity import ALIGNMENT_RULES
from roca_nocs.layers.canvas import pad_maps
from roca_nocs.modeling.roi_heads.nocs_heads import NocsMaps

__all__ = ["NocsRCNN"]

_SEED = 0


@META_ARCH_REGISTRY.register()
class NocsRCNN(GeneralizedRCNN):
    """NOCS (Wang et al., CVPR 2019): a ``GeneralizedRCNN`` whose heads are ``NocsROIHeads``.

    Each input holds ``image`` (3, H, W). In training it also holds ``instances`` with ``gt_masks``
    and, for images that have object coordinates, ``nocs`` (3, H, W), coordinates minus 1/2; with a
    critique that uses it also ``depth`` (H, W) in metres (see
    ``roca_nocs.data.nocs_mapper.NocsMapper``). At inference poses need ``intrinsics`` (3, 3) in
    pixels of ``image``, and ``depth`` or the sizes of the classes.

    Training returns the losses. Inference returns, per image, ``instances`` at the record's
    ``height`` and ``width``: ``pred_boxes``, ``pred_classes``, ``scores``, ``pred_masks``
    (N, H, W) bool and

    * ``pred_nocs`` (N, 3, S, S) in [0, 1], on the grid of each box;
    * ``pred_rotations`` (N, 3, 3), ``pred_translations`` (N, 3) in metres, of the box's centre, and
      ``pred_scales`` (N, 3), the sides of the box along the model's axes in metres; model to camera
      frame (x right, y down, z forward);
    * ``pose_valid`` (N) bool and ``pose_reasons`` (N) int64, ``geometry.failures.FailureReason``:
      instances without a pose stay in the output.
    """

    def __init__(
        self,
        *,
        class_sizes: Callable[[], torch.Tensor] | None = None,
        mask_threshold: float = 0.5,
        size_quantile: float = 1.0,
        alignment_rule: str = "corrected",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            class_sizes: gives (C, 3), metres, the usual sides of the boxes of each class; they
                stand for those of the object where an image has no depth. Called at the first such
                image. None: no poses without depth.
            mask_threshold: probability from which a cell counts as the object's.
            size_quantile: see ``geometry.box_fitting.fit_boxes``.
            alignment_rule: of ``geometry.similarity.ALIGNMENT_RULES``; ``"nocs"`` reproduces the
                official alignment.
            kwargs: arguments of ``GeneralizedRCNN``.

        Raises:
            ValueError: the heads have no mask branch, or an unknown rule.
        """
        super().__init__(**kwargs)
        if not self.roi_heads.mask_on:
            raise ValueError("poses are fitted to the cells of masks: give the heads a mask branch")
        if alignment_rule not in ALIGNMENT_RULES:
            raise ValueError(
                f"alignment_rule is {alignment_rule!r}; expected one of {ALIGNMENT_RULES}"
            )
        self.alignment_rule = alignment_rule
        self.mask_threshold = mask_threshold
        self.size_quantile = size_quantile
        self._load_class_sizes = class_sizes
        self._class_sizes: torch.Tensor | None = None

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Any]]:
        """See the class.

        Raises:
            ValueError: an input of the training has no ``instances``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        for index, record in enumerate(batched_inputs):
            if "instances" not in record:
                raise ValueError(
                    f"input {index} ({record.get('file_name', 'no file_name')}) has no instances, "
                    "which training needs"
                )
        images = self.preprocess_image(batched_inputs)
        maps = self._maps(batched_inputs, tuple(images.tensor.shape[-2:]))
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, targets)
        _, head_losses = self.roi_heads(images, features, proposals, targets, maps=maps)
        return {**head_losses, **losses}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Instances]] | list[Instances]:
        """Detect objects and fit their boxes.

        Args:
            batched_inputs: see the class.
            detected_instances: per image ``pred_boxes`` and ``pred_classes`` in pixels of
                ``image``; then only the rest is predicted.
            do_postprocess: bring the instances to the size of the record; otherwise they are
                returned as the heads give them, masks as probabilities (N, 1, S, S).
        """
        results = super().inference(batched_inputs, detected_instances, do_postprocess=False)
        fit = self._fit(results, batched_inputs)
        values_of = {
            "pred_rotations": fit.rotation,
            "pred_translations": fit.translation,
            "pred_scales": fit.sizes,
            "pose_valid": fit.valid,
            "pose_reasons": fit.reasons,
        }
        for name, values in values_of.items():
            parts = values.split([len(each) for each in results])
            for each, part in zip(results, parts, strict=True):
                each.set(name, part)
        if not do_postprocess:
            return results
        return self._postprocess(results, batched_inputs, [each.image_size for each in results])

    def _maps(self, inputs: Sequence[dict[str, Any]], size: tuple[int, int]) -> NocsMaps:
        """Object coordinates and depth of the images that have them, on the canvas."""
        nocs = [x.get("nocs") for x in inputs]
        depth = self._depths(inputs)
        return NocsMaps(
            nocs=pad_maps(nocs, 3, size, device=self.device),
            labelled=torch.tensor([each is not None for each in nocs], device=self.device),
            depth=pad_maps(depth, 1, size, device=self.device),
            without_depth=sum(each is None for each in depth),
        )

    @staticmethod
    def _depths(inputs: Sequence[dict[str, Any]]) -> list[torch.Tensor | None]:
        """(1, H, W) of each image that has a depth map."""
        maps = (x.get("depth") for x in inputs)
        return [None if each is None else each[None] for each in maps]

    @torch.no_grad()
    def _fit(self, results: list[Instances], inputs: Sequence[dict[str, Any]]) -> BoxFit:
        """Boxes of the instances of all images, from the pixels nearest to the cells."""
        coordinates = torch.cat([each.pred_nocs for each in results])
        masks = torch.cat([each.pred_masks for each in results]).float()
        side = coordinates.shape[-1]
        if masks.shape[-1] != side and len(masks) > 0:
            masks = F.interpolate(masks, size=(side, side), mode="bilinear", align_corners=False)
        masks = masks.reshape(-1, side, side) >= self.mask_threshold

        images = torch.repeat_interleave(torch.tensor([len(each) for each in results]))
        images = images.to(self.device)
        sizes = torch.tensor([each.image_size for each in results], device=self.device)
        boxes = torch.cat([each.pred_boxes.tensor for each in results])
        x, y = cell_pixels(boxes, sizes[images], side).unbind(dim=1)

        eye = torch.eye(3)
        intrinsics = [torch.as_tensor(each.get("intrinsics", eye)).float() for each in inputs]
        grid = torch.stack([x, y], dim=1).float()
        rays = grid_rays(grid, torch.stack(intrinsics).to(self.device)[images])
        maps = self._depths(inputs)
        canvas = (int(sizes[:, 0].max()), int(sizes[:, 1].max()))
        depth = pad_maps(maps, 1, canvas, device=self.device)[images[:, None, None], 0, y, x]
        # Without a camera a depth leads to no point.
        known = torch.tensor(["intrinsics" in each for each in inputs], device=self.device)
        points = rays * (depth * known[images, None, None])[:, None]
        # Every call draws the same samples, so that an evaluation can be repeated.
        generator = torch.Generator().manual_seed(_SEED)
        fit = fit_boxes(
            coordinates,
            masks,
            points,
            size_quantile=self.size_quantile,
            rule=self.alignment_rule,
            generator=generator,
        )
        no_depth = torch.tensor([each is None for each in maps], device=self.device)
        rows = (no_depth & known)[images].nonzero()[:, 0]
        if self._load_class_sizes is None or len(rows) == 0:
            return fit
        classes = torch.cat([each.pred_classes for each in results])[rows]
        return _replace(
            fit,
            rows,
            fit_boxes_of_known_size(
                coordinates[rows],
                masks[rows],
                rays[rows],
                self._sizes_of_classes()[classes],
                generator=generator,
            ),
        )

    def _sizes_of_classes(self) -> torch.Tensor:
        """(C, 3)."""
        if self._class_sizes is None:
            assert self._load_class_sizes is not None
            self._class_sizes = self._load_class_sizes().float().to(self.device)
        return self._class_sizes


def _replace(fit: BoxFit, rows: torch.Tensor, others: BoxFit) -> BoxFit:
    """The boxes with those of some rows taken from ``others``."""
    values = {
        field.name: getattr(fit, field.name).index_copy(
            0, rows, getattr(others, field.name).to(getattr(fit, field.name).dtype)
        )
        for field in fields(fit)
    }
    return BoxFit(**values)
