"""Records to inputs of the ROCA model: scenes with poses and the CAD pairs of retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from detectron2.data import transforms as T

from roca_nocs.data.cad_databases import catalog_sources
from roca_nocs.data.images import describe
from roca_nocs.data.mappers import SceneMapper
from roca_nocs.data.retrieval_targets import load_retrieval_targets


class RocaMapper(SceneMapper):
    """:class:`SceneMapper` with poses and depth; with ``retrieval`` also CAD models.

    Adds to ``instances``

    * ``gt_pos_cads``: the shape of each object's CAD model;
    * ``gt_neg_cads``: that of another model of its class, drawn anew at every call from torch's
      global generator (of another class where the class has one model only);

    both (N, 1, 32, 32, 32) bool voxels with axes z, y, x, or (N, P, 3) float32 points in the model
    frame. At inference the result holds the image, ``intrinsics`` and what the record tells of the
    scene. The catalogue is read once per process and never pickled.
    """

    def __init__(
        self,
        is_train: bool,
        *,
        augmentations: Sequence[T.Augmentation | T.Transform],
        image_format: str = "RGB",
        scene_depth: bool = False,
        maps: Sequence[str] = (),
        retrieval: str | None = None,
        datasets: str | Sequence[str] = (),
    ) -> None:
        """
        Args:
            is_train, augmentations, image_format: see :class:`SceneMapper`.
            scene_depth: ``depth`` is that of all that the image shows; by default that of the
                annotated objects only, as published.
            maps: further ones, see :class:`SceneMapper`.
            retrieval: ``"voxels"`` or ``"points"`` that retrieval learns from, ``None`` for none.
            datasets: registered names whose catalogues hold the models; used in training only.

        Raises:
            ValueError: see :class:`SceneMapper`; the datasets have no catalogue, or one that is
                damaged or lacks such shapes.
        """
        super().__init__(
            is_train,
            augmentations=augmentations,
            image_format=image_format,
            maps=("depth_full" if scene_depth else "depth", *maps),
            poses=True,
        )
        self.retrieval = retrieval
        if is_train and retrieval is not None:
            self._sources = catalog_sources(datasets)
            # Read before workers are forked, so that all share this copy.
            load_retrieval_targets(self._sources, retrieval)

    def __call__(self, record: dict[str, Any]) -> dict[str, Any]:
        """See :class:`SceneMapper`; ``depth`` is there whatever it shows."""
        result = super().__call__(record)
        if self.is_train:
            result["depth"] = result.pop(self.maps[0])
        return result

    def _add_targets(self, result: dict[str, Any], record: dict[str, Any], scene: Any) -> None:
        super()._add_targets(result, record, scene)
        if self.retrieval is None:
            return
        instances = result["instances"]
        targets = load_retrieval_targets(self._sources, self.retrieval)
        try:
            rows = targets.rows(list(instances.gt_cads))
        except KeyError as error:
            (key,) = error.args
            raise ValueError(
                f"{describe(record)}: annotation {_annotation_of(record, key)}: 'model' is "
                f"{'/'.join(key)}, a CAD model that {targets.source} lacks"
            ) from None
        instances.gt_pos_cads = targets.shapes(rows)
        instances.gt_neg_cads = targets.shapes(targets.draw_negatives(rows))


def _annotation_of(record: dict[str, Any], key: tuple[str, str]) -> Any:
    """Id of the first annotation that names a CAD model, else its number in the record."""
    for number, annotation in enumerate(record["annotations"]):
        model = annotation["model"]
        if (model["catid_cad"], model["id_cad"]) == key:
            return annotation.get("annotation_id", f"number {number}")
    raise AssertionError(f"{key} comes from no annotation of {describe(record)}")
