"""Retrieval heads: candidates, random choices, the cached data base, losses of odd batches."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence

import pytest
import torch

from roca_nocs.engine.ema import build_average
from roca_nocs.modeling.retrieval import NocEncoder, PointEncoder, VoxelDecoder, VoxelEncoder
from roca_nocs.modeling.roi_heads.retrieval_head import (
    EmbeddingRetrieval,
    FirstRetrieval,
    NearestPointRetrieval,
    RandomRetrieval,
    RetrievalHead,
)
from roca_nocs.modeling.roi_heads.retrieval_modes import build_retrieval_head
from roca_nocs.modeling.roi_heads.retrieval_query import RegionPoses
from roca_nocs.modeling.roi_heads.silhouette_retrieval import SilhouetteRetrieval
from roca_nocs.structures import CadDatabase

GRID = 4
UNLEARNED = ("random", "first", "nearest", "silhouette")
LEARNED = (
    "pointnet",
    "pointnet_image",
    "pointnet_pointnet+image",
    "resnet",
    "resnet_image",
    "resnet_resnet+image",
    "resnet_resnet+image+comp",
    "resnet_resnet+image+fullcomp",
)
PUBLISHED = "resnet_resnet+image+comp"


def make_database(
    categories: Sequence[int] = (0, 0, 0, 1),
    scenes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
) -> CadDatabase:
    """Random models; class 1 has a single one, class 2 none."""
    generator = torch.Generator().manual_seed(seed)
    count = len(categories)
    return CadDatabase(
        keys=tuple(("synset", str(row)) for row in range(count)),
        category_ids=torch.tensor(categories, dtype=torch.int64),
        symmetries=torch.zeros(count, dtype=torch.int64),
        voxels=torch.rand(count, 32, 32, 32, generator=generator) > 0.95,
        points=torch.rand(count, 16, 3, generator=generator) - 0.5,
        scenes={
            scene: torch.tensor(rows, dtype=torch.int64) for scene, rows in (scenes or {}).items()
        },
    )


def make_regions(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    nocs = torch.rand(count, 3, GRID, GRID, generator=generator) - 0.5
    masks = (torch.rand(count, 1, GRID, GRID, generator=generator) > 0.3).float()
    return nocs, masks, torch.randn(count, 512, generator=generator)


def make_poses(count: int) -> RegionPoses:
    """Objects of a metre, three metres in front of the camera, upright."""
    return RegionPoses(
        boxes=torch.tensor([[40.0, 40.0, 60.0, 60.0]]).repeat(count, 1),
        intrinsics=torch.tensor([[60.0, 0, 50], [0, 60, 50], [0, 0, 1]]).repeat(count, 1, 1),
        rotations=torch.diag(torch.tensor([1.0, -1.0, -1.0])).repeat(count, 1, 1),
        translations=torch.tensor([[0.0, 0.0, 3.0]]).repeat(count, 1),
        scales=torch.ones(count, 3),
    )


def retrieve(
    head: RetrievalHead, classes: Sequence[int], scenes: Sequence[str | None]
) -> tuple[list[int], list[int] | None]:
    regions = make_regions(len(classes))
    classes = torch.tensor(classes, dtype=torch.int64)
    poses = make_poses(len(classes))
    indices, wild = head.eval().inference(*regions, classes, scenes, poses=poses)
    assert indices.dtype == torch.int64
    return indices.tolist(), None if wild is None else wild.tolist()


@pytest.mark.parametrize("mode", [*UNLEARNED, *LEARNED])
def test_candidates_are_of_the_class_and_scene(mode: str) -> None:
    head = build_retrieval_head(mode, wild=True)
    head.set_database(make_database(scenes={"a": [1, 3], "b": [0]}))
    classes = [0, 0, 0, 1, 1, 2, 0]
    scenes = ["a", "b", "c", "a", "b", "a", None]
    indices, wild = retrieve(head, classes, scenes)
    assert indices == [1, 0, -1, 3, -1, -1, -1]
    assert all(row in (0, 1, 2) for row, label in zip(wild, classes, strict=True) if label == 0)
    assert [wild[3], wild[4], wild[5]] == [3, 3, -1]


@pytest.mark.parametrize("mode", [*UNLEARNED, *LEARNED])
def test_no_detections(mode: str) -> None:
    head = build_retrieval_head(mode, wild=True)
    head.set_database(make_database())
    assert retrieve(head, [], []) == ([], [])


@pytest.mark.parametrize("mode", ["first", PUBLISHED])
def test_no_models(mode: str) -> None:
    head = build_retrieval_head(mode, wild=True)
    assert retrieve(head, [0, 1], [None, None]) == ([-1, -1], [-1, -1])
    head.set_database(make_database(categories=()))
    assert retrieve(head, [0, 1], ["a", None]) == ([-1, -1], [-1, -1])


def test_wild_retrieval_needs_no_scenes() -> None:
    head = FirstRetrieval(wild=True)
    head.set_database(make_database())
    assert retrieve(head, [1, 0], [None, "unknown"]) == ([-1, -1], [3, 0])


@pytest.mark.parametrize("mode", [*UNLEARNED, PUBLISHED])
def test_scenes_alone(mode: str) -> None:
    head = build_retrieval_head(mode)
    with pytest.raises(ValueError, match="wild=True"):
        head.set_database(make_database())
    head.set_database(make_database(scenes={"a": [2, 2], "b": [3, 1], "empty": []}))
    scenes = ["a", "b", "b", "empty", "unknown", None]
    assert retrieve(head, [0, 0, 1, 0, 0, 0], scenes) == ([2, 1, 3, -1, -1, -1], None)
    assert retrieve(head, [0, 0], [None, "unknown"]) == ([-1, -1], None)
    assert retrieve(head, [], []) == ([], None)
    with pytest.raises(ValueError, match="2 detections need as many scenes, got 1"):
        retrieve(head, [0, 0], ["a"])


@pytest.mark.parametrize(
    "head_class", [RandomRetrieval, NearestPointRetrieval, SilhouetteRetrieval]
)
def test_random_choice(head_class: type[RetrievalHead]) -> None:
    """All candidates turn up, by the generator alone; regions with few points choose so too."""
    head = head_class(wild=True)
    head.set_database(make_database())
    nocs, masks, shape_code = make_regions(64)
    assert masks.flatten(1).sum(dim=1).max() < 21
    classes = torch.zeros(64, dtype=torch.int64)

    def draw(seed: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        scenes = [None] * 64
        regions = nocs, masks, shape_code, classes, scenes
        return head.inference(*regions, generator, make_poses(64))[1].tolist()

    assert draw(0) == draw(0) != draw(1)
    assert set(draw(0)) == {0, 1, 2}


def test_nearest_points() -> None:
    """Coordinates taken from a model lead to that model."""
    database = make_database(categories=(0,) * 5)
    nocs = database.points.transpose(1, 2).unflatten(2, (GRID, GRID))
    masks = torch.ones(5, 1, GRID, GRID)
    head = NearestPointRetrieval(min_points=16, wild=True)
    head.set_database(database)
    classes = torch.zeros(5, dtype=torch.int64)
    _, wild = head.inference(nocs, masks, torch.zeros(5, 512), classes, [None] * 5)
    assert wild.tolist() == [0, 1, 2, 3, 4]


def test_silhouettes() -> None:
    """A tall, a flat and a wide box are told apart, whatever the predicted coordinates."""
    sizes = torch.tensor([[0.2, 1.0, 0.2], [1.0, 0.1, 1.0], [1.0, 0.5, 0.5]])
    cloud = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    boxes = sizes[:, None] * cloud
    database = CadDatabase(
        keys=tuple(("synset", str(row)) for row in range(3)),
        category_ids=torch.zeros(3, dtype=torch.int64),
        symmetries=torch.zeros(3, dtype=torch.int64),
        points=boxes,
        scenes={"all": torch.arange(3), "flat": torch.tensor([1])},
    )
    head = SilhouetteRetrieval()
    head.set_database(database)
    poses = make_poses(3)
    half = 60 * sizes[:, :2] / 2 / 3
    poses = dataclasses.replace(poses, boxes=torch.cat([50 - half, 50 + half], dim=1))
    nothing = torch.zeros(3, 3, 8, 8), torch.ones(3, 1, 8, 8), torch.zeros(3, 0)
    classes = torch.zeros(3, dtype=torch.int64)
    indices, wild = head.inference(*nothing, classes, ["all"] * 3, poses=poses)
    assert (indices.tolist(), wild) == ([0, 1, 2], None)
    assert head.inference(*nothing, classes, ["flat"] * 3, poses=poses)[0].tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="needs the poses"):
        head.inference(*nothing, classes, ["all"] * 3)


@pytest.mark.parametrize(
    ("mode", "missing"),
    [("nearest", "points"), ("silhouette", "points"), ("resnet", "voxels")],
)
def test_data_base_lacks_what_is_needed(mode: str, missing: str) -> None:
    database = make_database()
    object.__setattr__(database, missing, None)
    with pytest.raises(ValueError, match=f"needs the {missing}"):
        build_retrieval_head(mode, wild=True).set_database(database)


def embed_all(head: EmbeddingRetrieval) -> torch.Tensor:
    """The embeddings that inference uses."""
    retrieve(head, [0], [None])
    models, _, mean = head._embeddings
    return models + mean


def count_calls(head: EmbeddingRetrieval) -> list[int]:
    """Sizes of the batches that the CAD network sees from now on."""
    sizes: list[int] = []
    head.cad_net.register_forward_pre_hook(lambda _, inputs: sizes.append(len(inputs[0])))
    return sizes


def test_data_base_is_embedded_once() -> None:
    head = build_retrieval_head("resnet_image", wild=True)
    head.set_database(make_database(categories=(0,) * 20))
    sizes = count_calls(head)
    first = embed_all(head)
    assert torch.equal(embed_all(head), first)
    assert sizes == [16, 4]
    with torch.no_grad():
        expected = head.cad_net(head._database.voxels[:, None].float())
    torch.testing.assert_close(first, expected)


@pytest.mark.parametrize("change", ["step", "load", "in place", "data base", "train"])
def test_data_base_is_embedded_anew(change: str) -> None:
    head = build_retrieval_head("resnet_image", wild=True)
    head.set_database(make_database())
    before = embed_all(head)
    weight = next(head.cad_net.parameters())
    if change == "step":
        optimizer = torch.optim.SGD(head.cad_net.parameters(), lr=0.1)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
    elif change == "load":
        head.load_state_dict(build_retrieval_head("resnet_image").state_dict())
    elif change == "in place":
        with torch.no_grad():
            weight.mul_(2)
    elif change == "train":
        head.train()
        weight.data.mul_(2)  # which no version counter sees
    else:
        head.set_database(make_database(seed=1))
    assert not torch.allclose(embed_all(head), before)


def test_moving_average_embeds_its_own_weights() -> None:
    head = build_retrieval_head("resnet_image", wild=True)
    head.set_database(make_database())
    average = build_average(head, 0.5)
    before = embed_all(average.module)
    with torch.no_grad():
        next(head.cad_net.parameters()).mul_(2)
    average.update_parameters(head)
    after = embed_all(average.module)
    fresh = copy.deepcopy(average.module)
    fresh.set_database(make_database())
    torch.testing.assert_close(after, embed_all(fresh))
    assert not torch.allclose(after, before)


def targets(mode: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    database = make_database(categories=(0,) * (2 * count))
    models = database.points if mode.startswith("pointnet") else database.voxels[:, None]
    return models[:count], models[count:]


@pytest.mark.parametrize("mode", LEARNED)
@pytest.mark.parametrize("count", [0, 2])
def test_losses(mode: str, count: int) -> None:
    head = build_retrieval_head(mode)
    regions = [each.requires_grad_() for each in make_regions(count)]
    losses = head.losses(*regions, *targets(mode, count))
    assert set(losses) == {"loss_triplet"} | ({"loss_noc_comp"} if "comp" in mode else set())
    total = sum(losses.values())
    assert (total == 0) == (count == 0)
    total.backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("mode", UNLEARNED)
def test_nothing_to_learn(mode: str) -> None:
    head = build_retrieval_head(mode)
    assert head.losses(*make_regions(2), *targets(mode, 2)) == {}
    assert not head.state_dict()


def test_at_most_so_many_regions_take_part() -> None:
    head = build_retrieval_head("resnet_image")
    regions, models = make_regions(5), targets("resnet", 5)
    head.max_regions = 2
    torch.manual_seed(0)
    chosen = torch.randperm(5)[:2]
    torch.manual_seed(0)
    loss = head.losses(*regions, *models)["loss_triplet"]
    expected = head.losses(*(each[chosen] for each in (*regions, *models)))["loss_triplet"]
    torch.testing.assert_close(loss, expected)


def test_points_that_are_not_valid_do_not_matter() -> None:
    encoder = PointEncoder()
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(2, 3, 6, generator=generator)
    valid = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])
    changed = torch.where(valid[:, None], points, 7.0)
    first, empty = encoder(points, valid)
    torch.testing.assert_close(first, encoder(points[:1, :, :4], valid[:1, :4])[0])
    torch.testing.assert_close(first, encoder(changed, valid)[0])
    assert empty.isfinite().all()


def test_losses_and_retrieval_stay_in_single_precision() -> None:
    head = build_retrieval_head(PUBLISHED, wild=True)
    head.set_database(make_database())
    regions, models = make_regions(3), targets("resnet", 3)
    expected = head.losses(*regions, *models)
    embeddings = embed_all(head)
    head.train()
    with torch.autocast("cpu", torch.bfloat16):
        for name, loss in head.losses(*regions, *models).items():
            assert loss.dtype == torch.float32
            torch.testing.assert_close(loss, expected[name])
        half = [regions[0].bfloat16(), regions[1], regions[2].bfloat16()]
        assert all(loss.isfinite() for loss in head.losses(*half, *models).values())
        assert torch.equal(embed_all(head), embeddings)


@pytest.mark.parametrize(
    "mode", ["", "resnets", "image", "resnet_comp", "pointnet_resnet", "resnet_pointnet", "a_b_c"]
)
def test_unknown_modes(mode: str) -> None:
    with pytest.raises(ValueError, match=f"no retrieval mode '{mode}'"):
        build_retrieval_head(mode)


def test_parts_that_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="not both"):
        NocEncoder(resnet=VoxelEncoder(), pointnet=PointEncoder())
    with pytest.raises(ValueError, match="give an encoder"):
        NocEncoder()
    with pytest.raises(ValueError, match="needs the voxel encoder"):
        NocEncoder(pointnet=PointEncoder(), comp=VoxelDecoder())
    with pytest.raises(ValueError, match="complete_sum needs"):
        NocEncoder(resnet=VoxelEncoder(), comp=VoxelDecoder(), complete_sum=True)
