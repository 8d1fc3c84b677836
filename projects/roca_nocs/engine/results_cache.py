"""Results of a NOCS model in training, kept on disk: a bounded sample of its maps and losses.

In a config::

    hooks = dict(cache=LazyCall(ResultsCache)(folder="output/results", iterations_per_epoch=300))
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from torch import nn

from roca_nocs.data.coco_json import read_json
from roca_nocs.data.synthetic.encoding import image_bytes
from roca_nocs.layers.coordinate_bins import decode_outputs
from roca_nocs.layers.region_samples import sample_regions
from roca_nocs.modeling.criteria.nocs_loss import NocsLoss

from .atomic_file import replace_file

__all__ = ["LOSSES_FILE", "ImageResults", "ResultsCache", "ResultsFolder"]

logger = logging.getLogger(__name__)

LOSSES_FILE = "losses.json"


@dataclass(frozen=True)
class ImageResults:
    """What a model found of N objects of an image, on the CPU and without a graph.

    Attributes:
        image_id: of the image.
        size: its height and width, as the model saw it.
        boxes: (N, 4) XYXY, pixels.
        labels: (N,) int64, classes.
        scores: (N,), probability that the model gives to the class.
        matched: (N,) int64, row of the ground truth that the object was matched with.
        coordinates: (N, 3, S, S) in [0, 1].
        losses: (N,), mean over axes and cells of the object.
    """

    image_id: Any
    size: tuple[int, int]
    boxes: torch.Tensor
    labels: torch.Tensor
    scores: torch.Tensor
    matched: torch.Tensor
    coordinates: torch.Tensor
    losses: torch.Tensor

    def images(self) -> Iterator[torch.Tensor]:
        """Each object alone in an image: (H, W, 3) uint8, red, green, blue = 255 q of x, y, z;
        black outside its box."""
        height, width = self.size
        for row, box in enumerate(self.boxes.tolist()):
            x0, y0, x1, y1 = map(round, box)
            x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, width), min(y1, height)
            image = torch.zeros(height, width, 3, dtype=torch.uint8)
            if x1 > x0 and y1 > y0:
                pixels = torch.cartesian_prod(torch.arange(y0, y1), torch.arange(x0, x1))
                regions = torch.full((len(pixels),), row)
                values = sample_regions(self.coordinates, self.boxes, regions, pixels)
                values = (255 * values).round().clamp(0, 255).to(torch.uint8)
                image[y0:y1, x0:x1] = values.unflatten(0, (y1 - y0, x1 - x0))
            yield image


class ResultsFolder:
    """A folder with a PNG per object, ``{epoch:04d}_{image_id}_{k}.png``, and ``losses.json``
    with the loss of each file. The oldest objects give way to new ones."""

    def __init__(self, folder: str | Path, max_objects: int, *, resume: bool = False) -> None:
        """
        Args:
            folder: is made.
            max_objects: files that exist at the same time.
            resume: go on with a folder that exists.

        Raises:
            FileExistsError: the folder exists, and this is not a resumed training.
        """
        self.folder = Path(folder)
        self.max_objects = max_objects
        if self.folder.exists() and not resume:
            raise FileExistsError(
                f"{self.folder} exists: results of two trainings would mix. Remove it or name "
                "another folder."
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        losses = self.folder / LOSSES_FILE
        self.losses: dict[str, float] = read_json(losses) if losses.exists() else {}

    def add(self, epoch: int, results: Sequence[ImageResults]) -> None:
        """Write the objects of some images."""
        following: dict[str, int] = defaultdict(int)
        for name in self.losses:
            prefix, number = name.removesuffix(".png").rsplit("_", 1)
            following[prefix] = max(following[prefix], int(number) + 1)
        for result in results:
            prefix = f"{epoch:04d}_{result.image_id}"
            for image, loss in zip(result.images(), result.losses.tolist(), strict=True):
                name = f"{prefix}_{following[prefix]}.png"
                following[prefix] += 1
                # OpenCV writes blue first.
                with replace_file(self.folder / name) as file:
                    file.write(image_bytes(".png", image.numpy()[..., ::-1]))
                self.losses[name] = loss
        for name in [*self.losses][: max(len(self.losses) - self.max_objects, 0)]:
            (self.folder / name).unlink(missing_ok=True)
            del self.losses[name]
        with replace_file(self.folder / LOSSES_FILE) as file:
            file.write(json.dumps(self.losses, indent=0).encode("utf-8"))


class ResultsCache(HookBase):
    """Keeps results of some training images; the training does not notice.

    Watches the model through forward hooks, which change no value and draw no random number, in
    every ``period``-th iteration; its own computations have no graph. At most ``max_images``
    images of an iteration are held in memory, and ``max_objects`` files on the disk. The main
    process keeps the images of its own share.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        iterations_per_epoch: int,
        period: int = 100,
        max_images: int = 4,
        max_objects: int = 10000,
    ) -> None:
        """
        Args:
            folder: must not exist when a training begins.
            iterations_per_epoch: for the names of the files.
            period: iterations between two that are kept.
            max_images: of an iteration.
            max_objects: of all iterations together.
        """
        self._folder_name = folder
        self._iterations_per_epoch = iterations_per_epoch
        self._period = period
        self._max_images = max_images
        self._max_objects = max_objects
        self._folder: ResultsFolder | None = None
        self._handles: list[Any] = []
        self._seen: dict[str, Any] = {}
        self._results: list[ImageResults] = []
        self._watching = False

    def before_train(self) -> None:
        """Make the folder and watch the model."""
        if not comm.is_main_process():
            return
        resume = self.trainer.start_iter > 0
        self._folder = ResultsFolder(self._folder_name, self._max_objects, resume=resume)
        model = self.trainer.model
        model = getattr(model, "module", model)
        criteria = [each for each in model.modules() if isinstance(each, NocsLoss)]
        if len(criteria) != 1:
            raise ValueError(
                f"ResultsCache needs a model with one NocsLoss, this one has {len(criteria)}"
            )
        self._handles = [
            criteria[0].register_forward_hook(self._on_loss, with_kwargs=True),
            model.roi_heads.box_predictor.register_forward_hook(self._on_boxes),
            model.roi_heads.register_forward_hook(self._on_regions),
            model.register_forward_hook(self._on_model),
        ]

    def before_step(self) -> None:
        """Decide whether this iteration is kept."""
        self._watching = self.trainer.iter % self._period == 0

    def after_step(self) -> None:
        """Write what the iteration gave."""
        self._watching = False
        results, self._results = self._results, []
        if self._folder is not None and results:
            self._folder.add(self.trainer.iter // self._iterations_per_epoch, results)

    def after_train(self) -> None:
        """Leave the model alone."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    @torch.no_grad()
    def _on_loss(
        self, loss: NocsLoss, args: tuple[Any, ...], kwargs: dict[str, Any], _: Any
    ) -> None:
        if self._watching and "losses" not in self._seen:
            self._seen.update(_object_losses(loss, *args, **kwargs))

    def _on_boxes(self, predictor: nn.Module, _: Any, output: Any) -> None:
        if self._watching and "scores" not in self._seen:
            self._seen["scores"] = output[0].detach().float().softmax(dim=1)

    def _on_regions(self, heads: nn.Module, _: Any, output: Any) -> None:
        if self._watching and "regions" not in self._seen:
            self._seen["regions"] = (output[0], heads.num_classes)

    def _on_model(self, model: nn.Module, args: tuple[Any, ...], _: Any) -> None:
        seen, self._seen = self._seen, {}
        room = self._max_images - len(self._results)
        if self._watching and room > 0 and "losses" in seen:
            self._results += _image_results(seen, args[0])[:room]


def _object_losses(
    loss: NocsLoss,
    pred: torch.Tensor,
    coordinates: torch.Tensor,
    mask: torch.Tensor,
    classes: torch.Tensor,
    labelled: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Decoded coordinates (R, 3, S, S) and losses (R,) of regions; see ``NocsLoss.forward``."""
    values, offsets = loss.of_cells(pred, coordinates, mask, classes)
    if offsets is not None:
        values = values + offsets
    sums = (values * mask[:, None]).flatten(1).sum(dim=1)
    cells = 3 * mask.flatten(1).sum(dim=1).clamp(min=1)
    decoded = decode_outputs(pred, loss.bin_rule)
    return {"losses": sums / cells, "coordinates": decoded, "labelled": labelled}


def _image_results(seen: dict[str, Any], inputs: Sequence[dict[str, Any]]) -> list[ImageResults]:
    """Regions with labelled objects, image by image."""
    proposals, num_classes = seen["regions"]
    foreground = [(each.gt_classes >= 0) & (each.gt_classes != num_classes) for each in proposals]
    counts = [int(each.sum()) for each in foreground]
    if sum(counts) != len(seen["losses"]):
        raise RuntimeError(
            f"the NOCS loss got {len(seen['losses'])} regions, but {sum(counts)} sampled ones show "
            "an object: ResultsCache does not know which are which"
        )
    scores = seen["scores"].split([len(each) for each in proposals])
    columns = zip(
        *(seen[name].split(counts) for name in ("losses", "coordinates", "labelled")), strict=True
    )
    results = []
    for regions, chosen, score, (losses, coordinates, labelled), record in zip(
        proposals, foreground, scores, columns, inputs, strict=True
    ):
        regions, score = regions[chosen], score[chosen]
        labels = regions.gt_classes
        truth = record["instances"].gt_boxes.tensor.to(labels.device)
        same = (regions.gt_boxes.tensor[:, None] == truth).all(dim=2)
        fields = {
            "boxes": regions.proposal_boxes.tensor,
            "labels": labels,
            "scores": score.gather(1, labels[:, None])[:, 0],
            "matched": same.long().argmax(dim=1) if len(truth) else labels.new_zeros(len(labels)),
            "coordinates": coordinates,
            "losses": losses,
        }
        kept = {name: value[labelled].detach().cpu() for name, value in fields.items()}
        if len(kept["losses"]):
            size = tuple(record["image"].shape[1:])
            results.append(ImageResults(record.get("image_id"), size, **kept))
    return results
