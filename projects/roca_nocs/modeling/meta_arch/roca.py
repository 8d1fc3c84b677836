"""ROCA: a region-based detector that also predicts depth, 9-DoF poses and CAD models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList, Instances

from roca_nocs.layers.canvas import pad_maps
from roca_nocs.modeling.roi_heads.roca_heads import SceneInputs
from roca_nocs.structures import CadDatabase

__all__ = ["ROCA"]


@META_ARCH_REGISTRY.register()
class ROCA(GeneralizedRCNN):
    """ROCA (Gumeli et al., CVPR 2022): a ``GeneralizedRCNN`` whose heads are ``ROCAHeads``.

    Each input holds ``image`` (3, H, W) and ``intrinsics`` (3, 3) in pixels of that image, and at
    inference optionally ``scene_id``, which limits retrieval to the CAD models of that scene. In
    training it also holds ``instances``, ``instance`` (H, W) and ``depth`` (H, W) as
    ``roca_nocs.data.roca_mapper.RocaMapper`` makes them.

    Training returns the losses. Inference returns, per image,

    * ``instances`` at the record's ``height`` and ``width``: ``pred_boxes``, ``pred_classes``,
      ``scores``, ``pred_masks`` (N, H, W) bool, ``pred_translations`` (N, 3) metres,
      ``pred_rotations`` (N, 4) as w, x, y, z, ``pred_scales`` (N, 3) metres per model unit,
      ``has_alignment`` (N,) bool, ``pred_nocs`` (N, 3, G, G), ``pred_indices`` and, with wild
      retrieval, ``pred_wild_indices`` (N,): rows of the CAD database, -1 for none;
    * ``depth`` (H, W) float32 metres, at the size of ``image``;
    * ``cad_ids`` and, with wild retrieval, ``wild_cad_ids``: (synset, model id) or None of each
      instance.

    All poses are in the camera frame: x right, y down, z forward.
    """

    def __init__(
        self, *, cad_database: Callable[[], CadDatabase] | None = None, **kwargs: Any
    ) -> None:
        """
        Args:
            cad_database: gives the models to retrieve from; called at the first inference.
            kwargs: arguments of ``GeneralizedRCNN``.
        """
        super().__init__(**kwargs)
        self._load_database = cad_database
        self.cad_database: CadDatabase | None = None

    def set_cad_database(self, database: CadDatabase) -> None:
        """Retrieve from these CAD models from now on; from all of them if they list no scenes.

        Raises:
            ValueError: see ``AlignmentHead.set_database``.
        """
        retrieval_head = self.roi_heads.alignment_head.retrieval_head
        if retrieval_head is not None and not database.scenes:
            retrieval_head.wild = True
        self.roi_heads.alignment_head.set_database(database)
        self._load_database = None
        self.cad_database = database

    def forward(
        self, batched_inputs: list[dict[str, Any]]
    ) -> dict[str, torch.Tensor] | list[dict[str, Any]]:
        """See the class.

        Raises:
            ValueError: an input has no intrinsics, or in training no depth or instance map.
        """
        if not self.training:
            return self.inference(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        scene = self._scene_inputs(batched_inputs, images)
        targets = [x["instances"].to(self.device) for x in batched_inputs]
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, targets)
        _, head_losses = self.roi_heads(images, features, proposals, targets, scene=scene)
        return {**head_losses, **losses}

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> list[dict[str, Any]] | list[Instances]:
        """Detect and align.

        Args:
            batched_inputs: see the class.
            detected_instances: per image ``pred_boxes``, ``pred_classes`` and ``scores`` in pixels
                of ``image``; then only masks, depth and alignment are predicted.
            do_postprocess: bring the instances to the size of the record; otherwise they are
                returned alone, as the heads give them.
        """
        if self._load_database is not None:
            self.set_cad_database(self._load_database())
        images = self.preprocess_image(batched_inputs)
        scene = self._scene_inputs(batched_inputs, images)
        features = self.backbone(images.tensor)
        if detected_instances is None:
            proposals, _ = self.proposal_generator(images, features, None)
            results, depths = self.roi_heads(images, features, proposals, scene=scene)
        else:
            given = [x.to(self.device) for x in detected_instances]
            results, depths = self.roi_heads.align(images, features, given, scene)
        if not do_postprocess:
            return results
        return [
            self._output(instances, depth[:, :height, :width], record)
            for instances, depth, record, (height, width) in zip(
                results, depths, batched_inputs, images.image_sizes, strict=True
            )
        ]

    def _output(
        self, instances: Instances, depth: torch.Tensor, record: dict[str, Any]
    ) -> dict[str, Any]:
        height, width = instances.image_size
        instances = detector_postprocess(
            instances, record.get("height", height), record.get("width", width)
        )
        output = {
            "instances": instances,
            "depth": depth[0],
            "cad_ids": self._cad_ids(instances.pred_indices),
        }
        if instances.has("pred_wild_indices"):
            output["wild_cad_ids"] = self._cad_ids(instances.pred_wild_indices)
        return output

    def _cad_ids(self, rows: torch.Tensor) -> list[tuple[str, str] | None]:
        keys = self.cad_database.keys if self.cad_database is not None else ()
        return [keys[row] if row >= 0 else None for row in rows.tolist()]

    def _scene_inputs(self, inputs: Sequence[dict[str, Any]], images: ImageList) -> SceneInputs:
        for index, record in enumerate(inputs):
            needed = ("intrinsics", "depth", "instance") if self.training else ("intrinsics",)
            missing = [name for name in needed if record.get(name) is None]
            if missing:
                raise ValueError(
                    f"input {index} ({record.get('file_name', 'no file_name')}) has no "
                    f"{', '.join(missing)}: ROCA needs the (3, 3) intrinsics of every image, and "
                    "in training its depth and instance maps"
                )
        intrinsics = [torch.as_tensor(x["intrinsics"], dtype=torch.float32) for x in inputs]
        return SceneInputs(
            intrinsics=torch.stack(intrinsics).to(self.device),
            scene_ids=[x.get("scene_id") for x in inputs],
            depths=self._padded(inputs, "depth", images) if self.training else None,
            instance_maps=self._padded(inputs, "instance", images) if self.training else None,
        )

    def _padded(
        self, inputs: Sequence[dict[str, Any]], name: str, images: ImageList
    ) -> torch.Tensor:
        """Maps (H_i, W_i) as one batch (B, 1, H, W) on the canvas of the images."""
        maps = [x[name][None] for x in inputs]
        size = tuple(images.tensor.shape[-2:])
        return pad_maps(maps, 1, size, device=self.device, dtype=maps[0].dtype)
