"""Futures that are rigid motions of the present: how masks move, crops, losses, learning."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from modeling.tiny_future_detr import CHANNELS, SIZE, build_detector, build_future_detr, make_clip
from roca_nocs.modeling.future.rigid_rollout import RigidRollout, move_rigidly
from roca_nocs.modeling.future.rollout import Step, decode_rows
from roca_nocs.modeling.future.step_masks import masks_of_steps
from roca_nocs.modeling.meta_arch import FutureDETR
from roca_nocs.modeling.tracking.track_state import PaddedLayout
from roca_nocs.modeling.transformer.future_detector import FutureDetector

SMALL: dict[str, Any] = {"embed_dim": CHANNELS, "max_steps": 2, "width": 4, "hidden": 8}
DOT = {"mask_type": "dot", "mask_window": True}


def motion(x: float, y: float, angle: float = 0.0, size: tuple[int, int] = (8, 9)) -> torch.Tensor:
    """Of cells and radians."""
    return torch.tensor([[x / size[1], y / size[0], angle]])


@settings(max_examples=20)
@given(st.integers(-4, 4), st.integers(-4, 4), st.floats(0.2, 0.8), st.floats(0.2, 0.8))
def test_whole_cells_shift_masks(x: int, y: int, cx: float, cy: float) -> None:
    """Wherever the centre is; outside there is nothing."""
    logits = torch.randn(1, 8, 9)
    moved = move_rigidly(logits, torch.tensor([[cx, cy]]), motion(x, y))
    padded = F.pad(logits, (4, 4, 4, 4), value=-10.0)
    expected = padded[:, 4 - y : 12 - y, 4 - x : 13 - x]
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_quarter_turns_about_the_centre(turns: int) -> None:
    """From columns towards rows, which is clockwise on the screen."""
    logits = torch.randn(2, 8, 8)
    quarter = motion(0, 0, turns * math.pi / 2, (8, 8)).expand(2, 3)
    moved = move_rigidly(logits, torch.full((2, 2), 0.5), quarter)
    torch.testing.assert_close(moved, logits.rot90(-turns, (1, 2)), atol=1e-4, rtol=0)


@settings(max_examples=20)
@given(st.floats(-5, 5), st.floats(-5, 5), st.floats(-3, 3))
def test_there_and_back(x: float, y: float, angle: float) -> None:
    size = (48, 64)
    rows, columns = torch.meshgrid(torch.arange(48.0), torch.arange(64.0), indexing="ij")
    logits = 5 - 0.08 * ((rows - 20) ** 2 + 0.4 * (columns - 30) ** 2)[None]
    centre = torch.tensor([[30.5 / 64, 20.5 / 48]])
    forth = motion(x, y, angle, size)
    there = move_rigidly(logits, centre, forth)
    back = move_rigidly(there, centre + forth[:, :2], -forth)
    inside = logits > 0
    torch.testing.assert_close(back[inside], logits[inside], atol=0.15, rtol=0)


def test_motion_has_a_gradient_and_none_is_none() -> None:
    logits = torch.zeros(1, 9, 9)
    logits[:, 3:6, 2:7] = 5.0
    centre = torch.tensor([[0.5, 0.5]])
    moves = motion(0.4, 0, 0.1, (9, 9)).requires_grad_()
    target = torch.zeros(1, 9, 9)
    target[:, 3:6, 4:9] = 1.0
    F.binary_cross_entropy_with_logits(move_rigidly(logits, centre, moves), target).backward()
    assert moves.grad is not None and moves.grad[0, 0] < 0  # further in x
    nothing = move_rigidly(logits[:0], centre[:0], moves[:0])
    assert nothing.shape == (0, 9, 9)


def decoded(
    detector: FutureDetector, clips: int = 2, seed: int = 0
) -> tuple[Step, torch.Tensor, PaddedLayout]:
    generator = torch.Generator().manual_seed(seed)
    encoded = detector.encode(torch.rand(clips, 3, *SIZE, generator=generator), whole=True)
    initial = detector.initial_queries(encoded)
    layout = PaddedLayout.of(torch.arange(clips).repeat_interleave(detector.num_queries), clips)
    query, reference = initial.query_embed.flatten(0, 1), initial.reference.flatten(0, 1)
    return decode_rows(detector, encoded, layout, query, reference), query, layout


def test_new_rollouts_repeat_the_present() -> None:
    torch.manual_seed(0)
    detector = build_detector(**DOT).eval()
    rollout = RigidRollout(in_channels=3, crop=16, **SMALL).eval()
    with torch.no_grad():
        present, query, layout = decoded(detector)
        steps = [present, *rollout(detector, present, query, layout, 2)]
        now, *later = masks_of_steps(detector, steps, layout.clip)
        rows = torch.tensor([0, 7, 3])
        for step, read in zip(steps[1:], later, strict=True):
            assert step.encoded is None and step.flow is None
            assert torch.equal(step.logits[-1], present.logits[-1])
            torch.testing.assert_close(step.boxes[-1], present.boxes[-1])
            torch.testing.assert_close(read(rows), now(rows), atol=1e-4, rtol=1e-5)


def test_boxes_and_masks_move_together() -> None:
    torch.manual_seed(0)
    detector = build_detector(**DOT).eval()
    rollout = RigidRollout(in_channels=3, crop=16, **SMALL).eval()
    with torch.no_grad():
        # Second step: two cells right, one up; half the chance to exist.
        rollout.motion.bias[6:] = torch.tensor([0.4, -0.2, 0, 0, 0, -1.0])
        present, query, layout = decoded(detector)
        steps = [present, *rollout(detector, present, query, layout, 2)]
        now, _, then = masks_of_steps(detector, steps, layout.clip)
        rows = torch.arange(len(layout.clip))
        torch.testing.assert_close(
            then(rows)[:, :-1, 2:], now(rows)[:, 1:, :-2], atol=1e-3, rtol=1e-3
        )
    shift = (steps[2].boxes - present.boxes[-1:])[0]
    expected = torch.tensor([2 / SIZE[1], -1 / SIZE[0], 0, 0]).expand_as(shift)
    torch.testing.assert_close(shift, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(steps[2].logits[-1], present.logits[-1] - 1)


def test_crops_are_those_of_the_clip_and_the_place() -> None:
    rollout = RigidRollout(in_channels=1, crop=8, **SMALL)
    images = torch.arange(2 * 24 * 40, dtype=torch.float32).view(2, 1, 24, 40)
    rollout.convs = torch.nn.Flatten()
    crops = rollout._crops(images, torch.tensor([[10.0, 12.0], [20.0, 9.0]]), torch.tensor([1, 0]))
    first, second = crops.view(2, 8, 8)
    torch.testing.assert_close(first, images[1, 0, 8:16, 6:14])
    torch.testing.assert_close(second, images[0, 0, 5:13, 16:24])


def rigid_model(**options: Any) -> FutureDETR:
    return build_future_detr(
        temporal_fusion="stack",
        detector={"in_channels": 9, **DOT},
        rollout=RigidRollout(in_channels=9, crop=16, **SMALL),
        **({"future_births": False} | options),
    )


def test_clips_with_and_without_agents() -> None:
    model = rigid_model().train()
    born = make_clip([(5, range(1, 9)), (14, range(4, 9))], seed=1)
    gone = make_clip([(5, range(2)), (14, range(3))], seed=2)
    for batch in ([born, gone, make_clip([], seed=3)], [make_clip([])], [make_clip()]):
        model.zero_grad()
        losses = model(batch)
        sum(losses.values()).backward()
        assert {n for n in losses if n.startswith("loss_semantic")} == {"loss_semantic"}
        assert {f"loss_dice{s}" for s in ("", "_f1", "_f2")} <= set(losses)
        assert {"loss_motion_f1", "loss_motion_f2"} <= set(losses)
        assert not any("flow" in name or "consistency" in name for name in losses)
        assert all(loss.isfinite() for loss in losses.values())
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_results_are_gated_by_the_semantics_of_the_present_only() -> None:
    model = rigid_model().eval()
    model.results = type(model.results)(min_score=0.0, min_value=0.0, foreground_class=1)
    with torch.no_grad():
        (result,) = model([make_clip(labelled=False)])
        assert result["semantic"].shape == (1, *SIZE)
        assert result["instances"].shape == (3, *SIZE)
        assert not result["instances"][0][result["semantic"][0] != 1].any()
        model.detector.semantic_head.classes.bias[:] = torch.tensor([100.0, -100.0])
        (empty,) = model([make_clip(labelled=False)])
    assert not empty["instances"][0].any()
    torch.testing.assert_close(empty["instances"][1:], result["instances"][1:])


def test_bfloat16_keeps_places() -> None:
    model = rigid_model().eval()
    clip = make_clip(labelled=False)
    with torch.no_grad():
        (exact,) = model([clip])
        with torch.autocast("cpu", dtype=torch.bfloat16):
            (half,) = model([clip])
    assert half["boxes"].dtype == torch.float32
    torch.testing.assert_close(half["boxes"], exact["boxes"], atol=0.05, rtol=0.1)


def discs(centres: torch.Tensor) -> torch.Tensor:
    """(n, 64, 64) of (n, 2) centres in cells, three cells in radius."""
    x, y = ((torch.arange(64) + 0.5 - at[:, None]).square() for at in centres.T)
    return (y[:, :, None] + x[:, None] < 9).float()


def test_motion_is_learned_from_crops() -> None:
    """Discs of any speed, drawn at two observed times: the error falls to a small part."""
    torch.manual_seed(0)
    rollout = RigidRollout(
        in_channels=2, embed_dim=CHANNELS, max_steps=1, crop=32, width=8, hidden=32
    ).train()
    optimizer = torch.optim.AdamW(rollout.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(120):
        centres = 20 + 24 * torch.rand(32, 2, generator=generator)
        speed = 12 * torch.rand(32, 2, generator=generator) - 6
        boxes = torch.cat([centres / 64, torch.full((32, 2), 6 / 64)], dim=1)
        present = Step(
            encoded=None,
            hs=torch.zeros(1, 32, CHANNELS),
            logits=torch.zeros(1, 32, 1),
            boxes=boxes[None],
        )
        images = torch.stack([discs(centres - speed), discs(centres)], dim=1)
        (step,) = rollout.move(present, images, torch.arange(32), 1)
        error = (step.boxes[-1, :, :2] - boxes[:, :2]) * 64 - speed
        optimizer.zero_grad()
        error.abs().mean().backward()
        optimizer.step()
        errors.append(float(error.detach().abs().mean()))
    assert sum(errors[-10:]) < 0.4 * sum(errors[:10])


def test_motion_alone_is_trained_on_annotations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is encoded, only the rollout changes, and what moves is learned."""
    model = rigid_model(train_motion_only=True).train()
    model.rollout.motion.reset_parameters()
    batch = [make_clip(seed=1), make_clip([], seed=2), make_clip([(5, range(4))], seed=3)]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in model.rollout.parameters()}
    monkeypatch.setattr(model.detector, "encode", None)
    optimizer = torch.optim.Adam(trained, lr=1e-3)
    history = []
    for _ in range(30):
        losses = model(batch)
        assert float(losses["loss_bbox"]) == 0.0 and float(losses["loss_giou"]) < 1e-3
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append(float(losses["loss_motion_f2"].detach() + losses["loss_bbox_f2"].detach()))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    assert history[-1] < 0.7 * history[0]
    assert all(loss.isfinite() for loss in model([make_clip([])]).values())
    with pytest.raises(ValueError, match="needs a RigidRollout"):
        build_future_detr(train_motion_only=True)


def test_errors() -> None:
    with pytest.raises(ValueError, match="multiple of 8, got 20"):
        RigidRollout(in_channels=3, crop=20)
    with pytest.raises(ValueError, match="nothing appears"):
        rigid_model(future_births=True)
    model = rigid_model(num_future=3).eval()
    with pytest.raises(ValueError, match="3 future steps, the rollout has max_steps=2"):
        model([make_clip(labelled=False)])
