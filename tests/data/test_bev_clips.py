"""Files of BEV clips, their reader, and the mapper with its augmentation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from roca_nocs.data.bev_augmentation import BevAugmentation, EgoMap
from roca_nocs.data.bev_clip import BevClip, clip_files, read_clip, read_meta
from roca_nocs.data.bev_fiery import fiery_sample
from roca_nocs.data.bev_labels import (
    IGNORE,
    centripetal_backward_flow,
    instance_ids,
    normalised_boxes,
    rigid_backward_flow,
)
from roca_nocs.data.bev_mapper import BevClipMapper
from roca_nocs.data.bev_raster import draw_boxes
from roca_nocs.data.coco_json import DatasetError
from roca_nocs.data.datasets.bev_clips import load_bev_clips
from roca_nocs.data.synthetic.traffic import traffic_clip, traffic_meta
from roca_nocs.geometry.bev import BevGrid, relative_pose, warp_bev
from roca_nocs.modeling.future.coverage import covered_cells

META = traffic_meta(64, 96)
NUM_CLIPS = 4


@pytest.fixture(scope="module")
def clips() -> list[BevClip]:
    return [traffic_clip(META, 3, "val", index) for index in range(NUM_CLIPS)]


def write(root: Path, clips: list[BevClip]) -> Path:
    for clip in clips:
        for name, content in clip_files(clip, META.classes).items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    (root / "meta.json").write_text(json.dumps(META.as_json()))
    (root / "splits").mkdir()
    (root / "splits" / "val.txt").write_text("".join(f"{clip.clip_id}\n" for clip in clips))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, clips: list[BevClip]) -> Path:
    return write(tmp_path_factory.mktemp("clips"), clips)


@pytest.fixture
def damaged(tmp_path: Path, clips: list[BevClip]) -> Path:
    return write(tmp_path, clips[:1])


def test_files_hold_the_whole_clip(root: Path, clips: list[BevClip]) -> None:
    assert read_meta(root) == META
    for clip in clips:
        read = read_clip(root, clip.clip_id, META)
        for name in ("raster", "segmentation", "instance", "visibility", "ego_pose", "timestamps"):
            np.testing.assert_array_equal(getattr(read, name), getattr(clip, name))
        assert read.tokens == clip.tokens
        for name in ("ids", "labels", "sizes", "poses", "velocities", "visibility"):
            ours, theirs = getattr(read.agents, name), getattr(clip.agents, name)
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        with np.load(root / "clips" / clip.clip_id / "labels.npz") as labels:
            assert labels["instance"].dtype == np.uint16
            assert labels["future_egomotion"].shape == (7, 6)


def test_records(root: Path) -> None:
    records = load_bev_clips(root, "val")
    assert [record["image_id"] for record in records] == list(range(NUM_CLIPS))
    assert records[0]["clip_id"] == "val-000000"
    assert (records[0]["height"], records[0]["width"]) == (64, 96)


def test_damage_is_told(damaged: Path, clips: list[BevClip]) -> None:
    folder = damaged / "clips" / clips[0].clip_id
    content = (folder / "labels.npz").read_bytes()
    (folder / "labels.npz").write_bytes(content[:200])
    with pytest.raises(DatasetError, match=r"labels\.npz: cannot be read"):
        read_clip(damaged, clips[0].clip_id, META)
    (folder / "labels.npz").write_bytes(content)
    with pytest.raises(DatasetError, match=r"'raster' has the shape .*meta\.json says"):
        read_clip(damaged, clips[0].clip_id, traffic_meta(96, 96))
    described = json.loads((folder / "clip.json").read_text())
    described["agents"]["1"]["states"][0]["x"] = "left"
    (folder / "clip.json").write_text(json.dumps(described))
    with pytest.raises(DatasetError, match="agent 1: 'x' is 'left'"):
        read_clip(damaged, clips[0].clip_id, META)
    del described["agents"]["1"]["class"]
    (folder / "clip.json").write_text(json.dumps(described))
    with pytest.raises(DatasetError, match="agent 1: the field 'class' is missing"):
        read_clip(damaged, clips[0].clip_id, META)
    (folder / "input.npz").unlink()
    with pytest.raises(DatasetError, match=r"input\.npz"):
        load_bev_clips(damaged, "val")
    (damaged / "splits" / "val.txt").write_text("a\nb\na\n")
    with pytest.raises(DatasetError, match="the clip a is listed twice"):
        load_bev_clips(damaged, "val")
    with pytest.raises(DatasetError, match=r"train\.txt: cannot be read"):
        load_bev_clips(damaged, "train")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "agent 1: 'y' is not finite: nan"),
        ("1.5", "agent 1: 'y' is '1.5'|agent 1: 'y' has the wrong length: '1.5'"),
        ([1.0, 2.0], "agent 1: 'y' has the wrong length"),
        (None, "agent 1: 'y' is .*None"),
    ],
)
def test_damaged_states_are_told(
    damaged: Path, clips: list[BevClip], value: object, message: str
) -> None:
    path = damaged / "clips" / clips[0].clip_id / "clip.json"
    described = json.loads(path.read_text())
    described["agents"]["1"]["states"][1]["y"] = value
    path.write_text(json.dumps(described))
    with pytest.raises(DatasetError, match=message):
        read_clip(damaged, clips[0].clip_id, META)
    del described["agents"]["1"]["states"][1]["y"]
    path.write_text(json.dumps(described))
    with pytest.raises(DatasetError, match="agent 1: the field 'y' is missing"):
        read_clip(damaged, clips[0].clip_id, META)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("version", 2, "version 2; this code reads 1"),
        ("resolution", 0.3, "no whole, positive numbers of cells"),
        ("x_bounds", [1.0], "'x_bounds' has the wrong length"),
        ("time_receptive_field", 0, "at least one observed frame"),
        ("classes", [{"id": 0}], "'classes' is not a list of"),
    ],
)
def test_senseless_description(damaged: Path, field: str, value: object, message: str) -> None:
    (damaged / "meta.json").write_text(json.dumps(META.as_json() | {field: value}))
    with pytest.raises(DatasetError, match=message):
        read_meta(damaged)


def test_sample(root: Path, clips: list[BevClip]) -> None:
    mapper = BevClipMapper()
    for record, clip in zip(load_bev_clips(root, "val"), clips, strict=True):
        sample = mapper(record)
        assert sample["clip"].shape == (3, 5, 64, 96) and sample["clip"].dtype == torch.float32
        assert 0 <= sample["clip"].min() and sample["clip"].max() == 1
        assert sample["grid"] == META.grid and sample["frame_dt"] == 0.5
        assert sample["ego_pose"].dtype == torch.float64 and sample["ego_pose"].shape == (7, 3)
        assert sample["instance"].dtype == torch.int32 and sample["instance"].shape == (5, 64, 96)
        assert (sample["semantic"] == (sample["instance"] > 0)).all()
        np.testing.assert_array_equal(sample["instance"][0], clip.instance[2])
        assert len(sample["frames"]) == 3 and len(sample["future"]) == 5
        assert "flow" not in sample["future"][0]
        for target in sample["frames"] + sample["future"]:
            count = len(target["ids"])
            assert target["boxes"].shape == (count, 4) and target["boxes"].dtype == torch.float32
            assert target["masks"].shape == (count, 64, 96) and target["masks"].dtype == torch.bool
            assert (target["labels"] == 0).all() and (target["ids"] > 0).all()
            assert target["masks"].flatten(1).any(dim=1).all()
        agents = sample["agents"]
        assert set(agents["ids"].tolist()) == set(sample["future"][0]["ids"].tolist())
        drawn = draw_boxes(
            agents["boxes"].numpy(),
            agents["ids"].numpy(),
            np.zeros(len(agents["ids"]), int),
            1,
            META.grid,
        )
        assert (drawn[0] == clip.instance[2]).mean() > 0.999


def test_flow_points_to_where_the_agent_was(root: Path) -> None:
    """Warping the ids of a step by the flow of the next gives the next ids, but for the border."""
    checked = 0
    for record in load_bev_clips(root, "val"):
        sample = BevClipMapper()(record)
        for step in range(1, 5):
            flow = sample["future"][step]["flow"].numpy()
            assert np.isfinite(flow).all()
            rows, columns = np.nonzero(flow[0] != IGNORE)
            before_row = np.round(rows + flow[1, rows, columns]).astype(int)
            before_column = np.round(columns + flow[0, rows, columns]).astype(int)
            inside = (before_row >= 0) & (before_row < 64)
            inside &= (before_column >= 0) & (before_column < 96)
            now = sample["instance"][step].numpy()[rows, columns][inside]
            before = sample["instance"][step - 1].numpy()[before_row[inside], before_column[inside]]
            known = np.isin(now, before)
            checked += known.sum()
            if known.any():
                assert (now == before)[known].mean() > 0.6
    assert checked > 200


def test_fewer_frames_and_none_of_the_future(root: Path) -> None:
    record = load_bev_clips(root, "val")[0]
    whole, part = BevClipMapper()(record), BevClipMapper(n_past=1, n_future=0)(record)
    assert torch.equal(part["clip"], whole["clip"][2:])
    assert len(part["frames"]) == len(part["future"]) == len(part["instance"]) == 1
    assert torch.equal(part["ego_pose"], whole["ego_pose"][2:3])
    with pytest.raises(ValueError, match="n_past=4 and n_future=4 were asked for"):
        BevClipMapper(n_past=4)(record)
    with pytest.raises(ValueError, match="expected at least 1, 0 and 1"):
        BevClipMapper(n_past=0)
    with pytest.raises(ValueError, match="warp_mode is 'none'"):
        BevClipMapper(warp_mode="none")
    with pytest.raises(ValueError, match="no augmentation"):
        BevClipMapper(warp_mode="fiery", augmentation=BevAugmentation())


def test_longer_clips_end_at_a_later_present(root: Path, clips: list[BevClip]) -> None:
    sample = BevClipMapper(n_past=5, n_future=0)(load_bev_clips(root, "val")[0])
    np.testing.assert_allclose(sample["ego_pose"], clips[0].ego_pose[:5])
    np.testing.assert_array_equal(sample["instance"][0], clips[0].instance[4])
    assert len(sample["frames"]) == 5 and len(sample["future"]) == 1


def test_random_intervals(root: Path, clips: list[BevClip]) -> None:
    """Drawn from torch's generator, as far as the clip is long; the future stays as it is."""
    record = load_bev_clips(root, "val")[0]
    times = {pose.tobytes(): number for number, pose in enumerate(clips[0].ego_pose)}

    def frames(**options: int) -> list[tuple[int, ...]]:
        torch.manual_seed(0)
        mapper = BevClipMapper(**options)
        drawn = [mapper(record)["ego_pose"].numpy() for _ in range(12)]
        return [tuple(times[pose.tobytes()] for pose in poses) for poses in drawn]

    assert set(frames(n_past=3, n_future=1, max_interval=2)) == {(0, 1, 2, 3), (0, 2, 4, 5)}
    assert set(frames(n_past=2, n_future=0, max_interval=3)) == {(1, 2), (0, 2), (0, 3)}
    assert set(frames(n_past=3, n_future=4, max_interval=2)) == {tuple(range(7))}
    repeated = [frames(n_past=2, n_future=0, max_interval=3) for _ in range(2)]
    assert repeated[0] == repeated[1]


def test_published_labels_keep_their_ids() -> None:
    mapper, grid = BevClipMapper(warp_mode="fiery"), BevGrid.centred(16, 16, 0.5)
    stored = torch.zeros(2, 16, 16, dtype=torch.int32)
    stored[:, 8, 8] = 2**24 - 1
    still, covered = mapper._in_present(stored, np.zeros((2, 3)), EgoMap(np.eye(2)), grid)
    assert np.array_equal(still, stored)
    assert covered.all()


@pytest.mark.parametrize("augmentation", [None, BevAugmentation()])
def test_labels_end_where_their_raster_ends(
    root: Path, augmentation: BevAugmentation | None
) -> None:
    """The vehicle drives on, and what it leaves behind is no longer covered."""
    torch.manual_seed(0)
    mapper = BevClipMapper(augmentation=augmentation)
    lost = 0
    for record in load_bev_clips(root, "val"):
        sample = mapper(record)
        covered = sample["covered"]
        assert covered.shape == sample["instance"].shape and covered.dtype == torch.bool
        assert not sample["instance"][~covered].any()
        poses = sample["ego_pose"][-len(covered) :]
        if augmentation is None:
            assert covered[0].all()
            assert torch.equal(covered, covered_cells(poses[None], sample["grid"])[0])
        lost += int((~covered[-1]).sum())
    assert lost > 0


def test_augmentation_moves_everything_alike(root: Path) -> None:
    torch.manual_seed(0)
    mapper = BevClipMapper(augmentation=BevAugmentation())
    seen = set()
    for record in load_bev_clips(root, "val") * 3:
        sample = mapper(record)
        # The raster's occupied, free and unknown shares still make up each cell.
        total = sample["clip"][:, :3].sum(dim=1)
        torch.testing.assert_close(total, torch.ones_like(total), atol=1e-4, rtol=0)
        agents = sample["agents"]
        drawn = draw_boxes(
            agents["boxes"].numpy(),
            agents["ids"].numpy(),
            np.zeros(len(agents["ids"]), int),
            1,
            META.grid,
        )[0]
        truth = sample["instance"][0].numpy()
        union = ((drawn > 0) | (truth > 0)).sum()
        if union > 50:
            assert ((drawn == truth) & (truth > 0)).sum() / union > 0.6
        # Observed frames aligned by the changed ego poses agree with the present on what stands.
        ego = sample["ego_pose"][:3]
        src_from_dst = relative_pose(ego, ego[-1:].expand_as(ego))
        roads = warp_bev(sample["clip"][:, 3:4], src_from_dst, META.grid)[:, 0]
        assert (roads[0] - roads[2]).abs()[16:48, 24:72].mean() < 0.06
        seen.add(tuple(sample["ego_pose"].flatten().tolist()))
    assert len(seen) == 3 * NUM_CLIPS


def test_ego_map() -> None:
    change = EgoMap.of(0.3, 1.2, True, False)
    assert change.scale == pytest.approx(1.2)
    points = np.array([[1.0, 2.0], [-3.0, 0.5]])
    np.testing.assert_allclose(change.sources(change.points(points)), points)
    poses = np.array([[1.0, 2.0, 0.4], [3.0, -1.0, -0.7]])
    changed = change.ego_poses(poses)
    # A point of one frame, changed, is seen at the changed place of the other.
    np.testing.assert_allclose(
        relative_pose(changed[1], np.array([*change.points(poses[0, :2]), 0.0]))[:2],
        change.points(relative_pose(poses[1], poses[0])[:2]),
        atol=1e-12,
    )


def test_flow_of_a_turning_agent() -> None:
    grid = BevGrid.centred(20, 20, 1.0)
    instance = np.zeros((2, 20, 20), np.int32)
    instance[1, 12, 10], instance[1, 3, 3] = 5, 9
    poses = np.full((2, 2, 3), np.nan)
    # Half a turn about the origin, where the agent has its centre: (2.5, 0.5) was at (-2.5, -0.5).
    poses[:, 0] = [[0.0, 0.0, 0.0], [0.0, 0.0, np.pi]]
    poses[1, 1] = [1.0, 1.0, 0.0]
    flow = rigid_backward_flow(instance, np.array([5, 9]), poses, grid)
    np.testing.assert_allclose(flow[1, :, 12, 10], [-1.0, -5.0], atol=1e-6)
    flow[1, :, 12, 10] = IGNORE
    assert (flow == IGNORE).all(), "background, the first frame, and unknown poses"
    unordered = rigid_backward_flow(instance, np.array([9, 5]), poses[:, ::-1], grid)
    np.testing.assert_allclose(unordered[1, :, 12, 10], [-1.0, -5.0], atol=1e-6)
    assert (rigid_backward_flow(instance, np.array([7]), poses[:, :1], grid) == IGNORE).all()


def test_centripetal_flow_and_boxes() -> None:
    instance = np.zeros((2, 8, 10), np.int32)
    instance[0, 2:5, 3:6] = 4
    instance[1, 4:6, 5] = 4
    flow = centripetal_backward_flow(instance)
    assert flow[1, :, 4, 5].tolist() == [-1.0, -1.0] and flow[1, :, 5, 5].tolist() == [-1.0, -2.0]
    assert (flow[0] == IGNORE).all() and (flow == IGNORE).sum() == 2 * 160 - 4
    np.testing.assert_allclose(
        normalised_boxes(instance == 4), [[0.45, 3.5 / 8, 0.3, 3 / 8], [0.55, 5 / 8, 0.1, 2 / 8]]
    )
    assert normalised_boxes(np.zeros((0, 8, 10), bool)).shape == (0, 4)
    wide = np.array([[0, 2**31 - 1, 7]], np.int32)
    assert instance_ids(wide).tolist() == [7, 2**31 - 1] and len(instance_ids(wide * 0)) == 0


def test_sample_with_the_published_names(clips: list[BevClip]) -> None:
    moved = 0
    for clip in clips:
        exact = fiery_sample(clip, META.grid)
        published = fiery_sample(clip, META.grid, "fiery")
        assert exact["offset"].shape == exact["flow"].shape == (7, 2, 64, 96)
        assert exact["centerness"].shape == exact["segmentation"].shape == (7, 1, 64, 96)
        assert exact["centerness"].min() >= 0 and exact["centerness"].max() <= 1
        assert ((exact["attribute"] > 0) == (exact["segmentation"] > 0)).all()
        # The flow of a standing agent points to its own centre: the warp takes the ego motion out.
        still = clip.agents.ids[np.ptp(clip.agents.poses[..., :2], axis=0).max(axis=-1) < 1e-9]
        parked = np.isin(clip.instance[:-1], still)[:, None].repeat(2, axis=1)
        for sample in (exact, published):
            flow = sample["flow"][:-1].numpy()[parked]
            flow = flow[flow != IGNORE]
            moved += len(flow)
            assert (np.abs(flow) <= 1).mean() > 0.9 if len(flow) else True
        assert published["sample_token"] == list(clip.tokens)
        assert exact["z_position"].shape == (7, 1, 64, 96) and not exact["z_position"].any()
        assert exact["input"].shape == (7, 5, 64, 96) and exact["input"].max() == 1
        assert exact["valid_mask"].shape == (64, 96) and exact["valid_mask"].all()
        for frame, ids in enumerate(exact["instance_ids"]):
            assert set(ids.tolist()) == set(exact["instance"][frame].unique().tolist()) - {0}
            assert exact["boxes"][frame].shape == (len(ids), 4)
            assert exact["labels"][frame].tolist() == [0] * len(ids)
    assert moved > 100
    with pytest.raises(ValueError, match="warp_mode is 'other'"):
        fiery_sample(clips[0], META.grid, "other")
