"""FutureDETR: instances of the present and the future, from images or clips of rasters."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from detectron2.layers import move_device_like
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import ImageList
from torch import nn
from torch.utils.checkpoint import checkpoint

from roca_nocs.geometry.bev import BevGrid, relative_pose, warp_bev
from roca_nocs.modeling.criteria.clip_loss import ClipCriterion
from roca_nocs.modeling.criteria.clip_matching import FrameTargets
from roca_nocs.modeling.future.clip_batch import (
    ClipBatch,
    ClipTargets,
    collate_clips,
    collate_targets,
)
from roca_nocs.modeling.future.clip_results import ClipResults
from roca_nocs.modeling.future.coverage import cells_ahead
from roca_nocs.modeling.future.image_targets import image_targets, valid_area
from roca_nocs.modeling.future.motion_training import train_motion
from roca_nocs.modeling.future.rigid_rollout import RigidRollout, check_rigid
from roca_nocs.modeling.future.rollout import FutureRollout, Step, decode_rows
from roca_nocs.modeling.future.stream import Stream
from roca_nocs.modeling.future.supervision import Supervision
from roca_nocs.modeling.tracking.memory_fusion import MemoryFusion, warp_maps
from roca_nocs.modeling.tracking.propagation import TrackPropagation
from roca_nocs.modeling.tracking.runtime_tracker import RuntimeTracker
from roca_nocs.modeling.tracking.track_state import (
    PaddedLayout,
    TrackState,
    concatenate,
    detect_queries,
)
from roca_nocs.modeling.transformer.deformable_transformer import InitialQueries
from roca_nocs.modeling.transformer.future_detector import Encoded, FutureDetector
from roca_nocs.modeling.transformer.mask_outputs import image_instances

__all__ = ["FutureDETR"]

# The levels of the memory of the frame before, and the vehicle's poses in it.
_Before = tuple[tuple[torch.Tensor, ...], torch.Tensor]

_FUSIONS = ("streaming", "stack", "memory")
_MASK_PARTS = ("bbox_attention", "mask_head", "mask_skips", "semantic_head")


@META_ARCH_REGISTRY.register()
class FutureDETR(nn.Module):
    """A deformable DETR whose queries and memory travel through time.

    Inputs with ``clip`` are clips of rasters in the bird's-eye view:

    - ``clip`` (T, C_in, H, W) float32, frames in their own ego frames, the last one the present;
      ``valid_mask`` (H, W) bool, True at usable cells, or absent: other cells are not attended to
      and have no loss, while boxes stay relative to the whole raster; ``grid``, a
      :class:`~roca_nocs.geometry.bev.BevGrid`; ``ego_pose`` (at least T, 3) float64 (x, y, yaw) in
      the world.
    - For training ``frames``, a list of T dicts, and ``future``, a list of at least F + 1 dicts in
      the present frame, with ``boxes`` (N, 4) cxcywh in [0, 1], ``labels`` and ``ids`` (N,) int64
      and, in ``future``, ``masks`` (N, H, W) bool and from step 1 on ``flow`` (2, H, W), the
      backward flow in cells (column, row), 255 where unknown; ``semantic`` (F + 1, H, W) int64 for
      a model with a semantic head; ``covered`` (F + 1, H, W) bool, where the labels of maps count,
      or absent for everywhere; for a rigid rollout ``agents``, see
      :class:`~roca_nocs.modeling.future.motion_targets.MotionTargets`.

    Inference returns a dict for each clip, see
    :class:`~roca_nocs.modeling.future.clip_results.ClipResults`; :meth:`track` does so frame by
    frame.

    Inputs with ``image`` are single images with ``instances`` as detectron2 has them; inference
    then returns ``instances`` with boxes, masks, scores and classes.

    Training returns weighted losses: ``loss_<name>`` of the present, with ``_p{k}`` of the k-th
    frame before, ``_f{k}`` of the k-th after it, and ``_aux{l}`` of an earlier decoder layer.
    """

    def __init__(
        self,
        *,
        detector: FutureDetector,
        criterion: ClipCriterion,
        propagation: TrackPropagation | None = None,
        rollout: FutureRollout | RigidRollout | None = None,
        fusion: MemoryFusion | None = None,
        tracker: RuntimeTracker | None = None,
        results: ClipResults | None = None,
        temporal_fusion: str = "streaming",
        num_frames: int | None = None,
        num_future: int = 0,
        future_births: bool = True,
        freeze_detector: bool = False,
        train_motion_only: bool = False,
        use_checkpoint: bool = False,
        pixel_mean: Sequence[float] = (123.675, 116.28, 103.53),
        pixel_std: Sequence[float] = (58.395, 57.12, 57.375),
        input_format: str = "RGB",
        detections_per_image: int = 100,
    ) -> None:
        """
        Args:
            detector: the network of a single frame.
            criterion: of frames and steps.
            propagation: of tracks to the next frame; needed for clips of more than one frame.
            rollout: of the future; needed for ``num_future`` above 0.
            fusion: of the memory of the frame before; needed for ``temporal_fusion="memory"``.
            tracker: births and deaths at inference; None for the published thresholds.
            results: from queries to instance maps; None for the usual thresholds.
            temporal_fusion: what travels between frames besides queries: nothing with
                ``"streaming"``, the encoder's memory with ``"memory"``; ``"stack"`` is one frame of
                the aligned rasters of all, as channels.
            num_frames: T, the last ones of a clip; None for all.
            num_future: F.
            future_births: objects may appear in the future.
            freeze_detector: train the heads of masks and semantics and the rollout only.
            train_motion_only: train a rigid rollout alone, from annotated boxes, without encoding.
            use_checkpoint: recompute the encoder of each frame in the backward pass.
            pixel_mean, pixel_std: of the channels; a single number for all.
            input_format: ``"RGB"`` or ``"BGR"`` of images.
            detections_per_image: pairs of query and class of an image.

        Raises:
            ValueError: parts that do not fit each other.
        """
        super().__init__()
        if temporal_fusion not in _FUSIONS:
            raise ValueError(f"temporal_fusion must be one of {_FUSIONS}, got {temporal_fusion!r}")
        if (fusion is not None) != (temporal_fusion == "memory"):
            raise ValueError(
                "temporal_fusion='memory' needs a MemoryFusion as fusion (see "
                "configs/future_detr/bev_clips_memory.py), the others none: temporal_fusion is "
                f"{temporal_fusion!r}, fusion is {type(fusion).__name__}"
            )
        if num_future and rollout is None:
            raise ValueError(f"num_future={num_future} needs a rollout")
        if detector.two_stage and propagation is not None:
            raise ValueError(
                "queries of a two-stage detector cannot be tracked: use two_stage=False"
            )
        check_rigid(rollout, births=future_births, alone=train_motion_only)
        if isinstance(rollout, FutureRollout):
            rollout.attach_skips(detector.skip_channels)
        self.detector = detector
        self.criterion = criterion
        self.propagation = propagation
        self.rollout = rollout
        self.fusion = fusion
        self.tracker = tracker or RuntimeTracker()
        self.results = results or ClipResults()
        self.temporal_fusion = temporal_fusion
        self.num_frames = num_frames
        self.num_future = num_future
        self.future_births = future_births
        self.train_motion_only = train_motion_only
        self.use_checkpoint = use_checkpoint
        self.input_format = input_format
        self.detections_per_image = detections_per_image
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            tensor = torch.tensor(list(values), dtype=torch.float32).view(-1, 1, 1)
            self.register_buffer(name, tensor, False)
        if freeze_detector:
            self._freeze_detector()
        if train_motion_only:
            detector.requires_grad_(False)

    def _freeze_detector(self) -> None:
        for name, parameter in self.detector.named_parameters():
            if name.split(".")[0] not in _MASK_PARTS:
                parameter.requires_grad_(False)
        for part in (self.propagation, self.fusion):
            if part is not None:
                part.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """See the class.

        Raises:
            KeyError: a sample lacks a field.
            ValueError: samples that do not fit each other or the model.
        """
        if "clip" in batched_inputs[0]:
            clips = collate_clips(batched_inputs, self.num_frames, self.device)
            if not self.training:
                return self._predict(clips, None)[0]
            targets = collate_targets(
                batched_inputs,
                len(clips.frames),
                self.num_future,
                self.device,
                masks=self.detector.mask_type is not None and not self.train_motion_only,
                semantic=self.detector.semantic_head is not None and not self.train_motion_only,
                motion=isinstance(self.rollout, RigidRollout),
            )
            return self._train(clips, targets)
        return self._image_mode(batched_inputs)

    def _frames(self, clips: ClipBatch) -> list[torch.Tensor]:
        """Normalised rasters (B, channels, H, W) of the frames that are encoded."""
        frames = [(frame - self.pixel_mean) / self.pixel_std for frame in clips.frames]
        if self.temporal_fusion != "stack":
            return frames
        aligned = [
            warp_bev(frame, relative_pose(clips.poses[:, age], clips.poses[:, -1]), clips.grid)
            for age, frame in enumerate(frames[:-1])
        ]
        return [torch.cat([*aligned, frames[-1]], dim=1)]

    def _encode(
        self, clips: ClipBatch, frame: torch.Tensor, pose: torch.Tensor, before: _Before | None
    ) -> Encoded:
        padding = None if clips.valid is None else ~clips.valid
        fuse = None
        if self.fusion is not None and before is not None:
            memory, old_pose = before
            motion = relative_pose(old_pose, pose)
            aligned = [warp_maps(level, motion, clips.grid) for level in memory]
            fuse = partial(self.fusion, previous=aligned)
        # Cells of a raster keep their places, whichever of them are unknown.
        encode = partial(self.detector.encode, whole=True)
        if self.use_checkpoint and self.training:
            return checkpoint(encode, frame, padding, fuse, use_reentrant=False)
        return encode(frame, padding, fuse)

    def _decode(
        self, encoded: Encoded, initial: InitialQueries, tracks: TrackState | None = None
    ) -> tuple[TrackState, Step, PaddedLayout]:
        """Detect queries and tracks of a frame, decoded."""
        state = detect_queries(initial.query_embed, initial.reference, self.detector.num_classes)
        if tracks is not None:
            state = concatenate(state, tracks)
        layout = PaddedLayout.of(state.clip, len(initial.query_embed))
        step = decode_rows(self.detector, encoded, layout, state.query, state.reference)
        return state.decoded(step.hs[-1], step.boxes[-1], step.logits[-1]), step, layout

    def _propagate(
        self,
        state: TrackState,
        pose: torch.Tensor,
        next_pose: torch.Tensor,
        grid: BevGrid,
        wanted: FrameTargets | None = None,
    ) -> TrackState:
        if self.propagation is None:
            raise ValueError("clips of more than one frame need propagation")
        next_targets = (None, None) if wanted is None else (wanted.ids, wanted.clip)
        return self.propagation(state, pose, next_pose, grid, *next_targets)

    def _future(self, present: Step, state: TrackState, layout: PaddedLayout) -> list[Step]:
        """The present and all future steps."""
        if self.rollout is None or self.num_future == 0:
            return [present]
        future = self.rollout(self.detector, present, state.query, layout, self.num_future)
        return [present, *future]

    def _train(self, clips: ClipBatch, targets: ClipTargets) -> dict[str, torch.Tensor]:
        supervision = Supervision(self.criterion, self.detector, clips.valid)
        tracks, before = None, None
        frames = self._frames(clips)
        if self.train_motion_only:
            assert isinstance(self.rollout, RigidRollout)
            train_motion(supervision, self.rollout, frames[-1], targets)
            return self._finish(supervision)
        for age, frame in zip(reversed(range(len(frames))), frames, strict=True):
            pose = clips.poses[:, -1 - age]
            encoded = self._encode(clips, frame, pose, before)
            initial = self.detector.initial_queries(encoded)
            state, step, layout = self._decode(encoded, initial, tracks)
            if age:
                state, _ = supervision.frame(f"_p{age}", state, step, targets.observed[-1 - age])
                wanted = targets.observed[-age]
                tracks = self._propagate(state, pose, clips.poses[:, -age], clips.grid, wanted)
                before = (encoded.levels, pose)
        steps = self._future(step, state, layout)
        supervision.steps(state, steps, targets, births=self.future_births)
        supervision.proposals(initial, targets.future[0])
        return self._finish(supervision)

    def _finish(self, supervision: Supervision) -> dict[str, torch.Tensor]:
        losses = supervision.sums.losses(self.device)
        # Distributed training needs a gradient of every parameter in every iteration.
        unused = sum(p.sum() for p in self.parameters() if p.requires_grad)
        return losses | {"loss_class": losses["loss_class"] + 0.0 * unused}

    def track(
        self, batched_inputs: list[dict[str, Any]], stream: Stream | None = None
    ) -> tuple[list[dict[str, Any]], Stream]:
        """Clips that may go on: a drive frame by frame gives what the whole clip gives.

        Args:
            batched_inputs: of the class, with ``clip`` and without labels; all frames are used, and
                one is enough.
            stream: of the same clips after the frames before; None at their beginning.

        Returns:
            the results of each clip at its last frame, and what to give with the next frames.

        Raises:
            ValueError: the model is in training, or the stream has another number of clips.
        """
        if self.training:
            raise ValueError("tracks are followed by a model in evaluation mode: call eval()")
        clips = collate_clips(batched_inputs, None, self.device)
        if stream is not None and len(stream.next_id) != clips.num_clips:
            raise ValueError(f"{clips.num_clips} clips, the stream is of {len(stream.next_id)}")
        return self._predict(clips, stream)

    @torch.no_grad()
    def _predict(
        self, clips: ClipBatch, stream: Stream | None
    ) -> tuple[list[dict[str, Any]], Stream]:
        frames = self._frames(clips)
        earlier = None if stream is None else stream.pose
        for pose, frame in zip(clips.poses[:, -len(frames) :].unbind(dim=1), frames, strict=True):
            stream, step, layout = self._track_frame(clips, frame, pose, stream)
        assert stream is not None
        steps = self._future(step, stream.state, layout)
        found = self.results(
            self.detector,
            stream.state,
            steps,
            stream.next_id,
            clips.grid,
            births=self.future_births,
            covered=cells_ahead(clips.poses, earlier, len(steps) - 1, clips.grid),
        )
        return found, stream

    def _track_frame(
        self, clips: ClipBatch, frame: torch.Tensor, pose: torch.Tensor, stream: Stream | None
    ) -> tuple[Stream, Step, PaddedLayout]:
        """One frame (B, channels, H, W) at the poses (B, 3), with births and deaths of tracks."""
        tracks, before = None, None
        next_id = torch.zeros(clips.num_clips, dtype=torch.int64, device=self.device)
        if stream is not None:
            tracks = self._propagate(stream.state, stream.pose, pose, clips.grid)
            before, next_id = (stream.memory, stream.pose), stream.next_id
        encoded = self._encode(clips, frame, pose, before)
        state, step, layout = self._decode(encoded, self.detector.initial_queries(encoded), tracks)
        ids, time, next_id = self.tracker.update(
            state.ids, state.score, state.disappear_time, state.clip, next_id
        )
        state = state.replace(ids=ids, disappear_time=time)
        return Stream(state, next_id, encoded.levels, pose), step, layout

    def _image_mode(self, samples: list[dict[str, Any]]) -> Any:
        images = [move_device_like(sample["image"], self.pixel_mean) for sample in samples]
        backbone = self.detector.backbone
        batch = ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            backbone.size_divisibility,
            padding_constraints=backbone.padding_constraints,
        )
        valid = valid_area(batch)
        encoded = self.detector.encode(batch.tensor, ~valid)
        if self.training:
            return self._train_images(samples, encoded, valid)
        initial = self.detector.initial_queries(encoded)
        decoded = self.detector.decode(encoded, initial.query_embed, initial.reference)
        found = image_instances(
            self.detector,
            encoded,
            decoded,
            padded_size=(batch.tensor.shape[-2], batch.tensor.shape[-1]),
            image_sizes=batch.image_sizes,
            output_sizes=[
                (sample.get("height", size[0]), sample.get("width", size[1]))
                for sample, size in zip(samples, batch.image_sizes, strict=True)
            ],
            count=self.detections_per_image,
        )
        return [{"instances": instances} for instances in found]

    def _train_images(
        self, samples: list[dict[str, Any]], encoded: Encoded, valid: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """The losses of a batch of images, clips of one frame without a future."""
        supervision = Supervision(self.criterion, self.detector, valid)
        targets = image_targets(
            [sample["instances"] for sample in samples],
            (valid.shape[-2], valid.shape[-1]),
            self.device,
            masks=self.detector.mask_type is not None,
        )
        initial = self.detector.initial_queries(encoded)
        state, step, _ = self._decode(encoded, initial)
        supervision.steps(state, [step], ClipTargets((), (targets,), (), None), births=False)
        supervision.proposals(initial, targets)
        return self._finish(supervision)
