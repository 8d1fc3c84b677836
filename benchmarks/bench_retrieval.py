"""Retrieval of all detections at once against a loop over the detections."""

import torch
from timing import compare

from roca_nocs.modeling.roi_heads.retrieval_head import EmbeddingRetrieval
from roca_nocs.structures import CadDatabase

NUM_MODELS = 3000
NUM_SCENES = 300
NUM_CLASSES = 9
MODELS_PER_SCENE = 20
NUM_DETECTIONS = 100
POINTS_PER_MODEL = 86
EMBEDDING_SIZE = 3 * POINTS_PER_MODEL


class GivenModel(torch.nn.Module):
    """Takes the points of a model for its embedding."""

    def forward(self, points: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        return points.transpose(1, 2).flatten(1)


class GivenDetection(torch.nn.Module):
    """Takes the shape code for the embedding of a detection."""

    def forward(
        self, nocs: torch.Tensor, masks: torch.Tensor, shape_code: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        return shape_code, None


def make_head(*, wild: bool) -> EmbeddingRetrieval:
    """A head with random embeddings and no networks: what is timed is the choice alone."""
    generator = torch.Generator().manual_seed(0)

    def draw(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    head = EmbeddingRetrieval(cad_net=GivenModel(), noc_net=GivenDetection(), wild=wild).eval()
    head.set_database(
        CadDatabase(
            keys=tuple(("synset", str(row)) for row in range(NUM_MODELS)),
            category_ids=draw(NUM_CLASSES, NUM_MODELS),
            symmetries=torch.zeros(NUM_MODELS, dtype=torch.int64),
            points=torch.randn(NUM_MODELS, POINTS_PER_MODEL, 3, generator=generator),
            scenes={str(scene): draw(NUM_MODELS, MODELS_PER_SCENE) for scene in range(NUM_SCENES)},
        )
    )
    return head


def by_loop(
    head: EmbeddingRetrieval, codes: torch.Tensor, classes: torch.Tensor, scenes: list[str]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The same, detection by detection; the embedding of a model is given by its points."""
    database = head._database
    models = database.points.flatten(1)
    found: list[list[int]] = [[], []]
    for code, label, scene in zip(codes, classes, scenes, strict=True):
        in_scene = torch.zeros(len(models), dtype=torch.bool)
        in_scene[database.scenes[scene]] = True
        of_class = database.category_ids == label
        for result, wanted in zip(found, (of_class & in_scene, of_class), strict=True):
            if wanted is of_class and not head.wild:
                continue
            rows = wanted.nonzero()[:, 0]
            distances = (models[rows] - code).square().sum(dim=1)
            result.append(int(rows[distances.argmin()]) if len(rows) else -1)
    indices, wild = (torch.tensor(rows) for rows in found)
    return indices, wild if head.wild else None


@torch.no_grad()
def main() -> None:
    generator = torch.Generator().manual_seed(1)
    codes = torch.randn(NUM_DETECTIONS, EMBEDDING_SIZE, generator=generator)
    classes = torch.randint(NUM_CLASSES, (NUM_DETECTIONS,), generator=generator)
    scenes = [str(index // 10) for index in range(NUM_DETECTIONS)]  # ten detections an image
    nothing = torch.zeros(NUM_DETECTIONS, 0)
    for wild in (False, True):
        head = make_head(wild=wild)

        def at_once(head: EmbeddingRetrieval = head) -> object:
            return head.inference(nothing, nothing, codes, classes, scenes)

        def one_by_one(head: EmbeddingRetrieval = head) -> object:
            return by_loop(head, codes, classes, scenes)

        for ours, theirs in zip(at_once(), one_by_one(), strict=True):
            assert (ours is None and theirs is None) or torch.equal(ours, theirs)
        where = "in scenes and wild" if wild else "in scenes"
        compare(
            f"retrieval {where}, {NUM_DETECTIONS} detections, {NUM_MODELS} models, vs loop",
            one_by_one,
            at_once,
        )


if __name__ == "__main__":
    main()
