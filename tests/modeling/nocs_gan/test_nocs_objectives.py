"""Losses of discriminator and generator, and the weights of predicted maps."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from roca_nocs.modeling.criteria.step_schedule import StepSchedule
from roca_nocs.modeling.nocs_gan.discriminators import (
    ConvDiscriminator,
    DepthAwareDiscriminator,
    PerClassDiscriminators,
)
from roca_nocs.modeling.nocs_gan.objectives import (
    AdversarialBatch,
    BinaryCrossEntropy,
    Wasserstein,
)


class Linear(nn.Module):
    """Score = slope of the class * sum of the coordinates."""

    uses_depth = False

    def __init__(self, slopes: list[float], *, class_specific: bool) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor(slopes))
        self.class_specific = class_specific

    def forward(
        self, coordinates: torch.Tensor, classes: torch.Tensor, depth: torch.Tensor | None
    ) -> torch.Tensor:
        return self.slopes[classes] * coordinates.flatten(1).sum(dim=1)


def constant_maps(
    real: list[float], fake: list[float], classes: list[int], labelled: list[bool]
) -> AdversarialBatch:
    """Maps of 2 x 2 pixels whose coordinates sum up to these numbers."""

    def maps(sums: list[float]) -> torch.Tensor:
        return (torch.tensor(sums) / 12)[:, None, None, None].expand(-1, 3, 2, 2)

    return AdversarialBatch(
        maps(fake), maps(real), torch.tensor(labelled), torch.tensor(classes), None
    )


def random_batch(count: int, *, size: int = 28, depth: bool = False) -> AdversarialBatch:
    generator = torch.Generator().manual_seed(0)
    fake, real = (torch.rand(count, 3, size, size, generator=generator) for _ in range(2))
    return AdversarialBatch(
        fake,
        real,
        torch.arange(count) % 3 != 2,
        torch.arange(count) % 2,
        torch.rand(count, 1, size, size, generator=generator) if depth else None,
    )


def test_cross_entropy_by_hand() -> None:
    network = Linear([1.0], class_specific=False)
    batch = constant_maps([2.0, -1.0, 0.0], [1.0, -3.0, 2.0], [0, 0, 0], [True, True, False])
    updates = BinaryCrossEntropy().updates(network, batch)
    real, real_accuracy = next(updates)
    probability = torch.tensor([2.0, -1.0]).sigmoid()
    assert real["loss_real"].item() == pytest.approx(-probability.log().mean().item(), rel=1e-5)
    assert real_accuracy["real_accuracy"].item() == 0.5
    # The predicted maps are judged by the network that the first step has left.
    with torch.no_grad():
        network.slopes.fill_(2.0)
    fake, fake_accuracy = next(updates)
    probability = torch.tensor([2.0, -6.0, 4.0]).sigmoid()
    expected = -(1 - probability).log().mean().item()
    assert fake["loss_fake"].item() == pytest.approx(expected, rel=1e-4)
    assert fake_accuracy["fake_accuracy"].item() == pytest.approx(1 / 3)
    assert next(updates, None) is None
    scores = torch.tensor([0.0, 1.0])
    expected = -scores.sigmoid().log().mean().item()
    assert BinaryCrossEntropy().generator_loss(scores).item() == pytest.approx(expected)


def test_losses_of_certain_scores_are_finite() -> None:
    scores = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = BinaryCrossEntropy().generator_loss(scores)
    loss.backward()
    assert loss.item() == pytest.approx(5e3)
    torch.testing.assert_close(scores.grad, torch.tensor([-0.5, 0.0]))


def test_wasserstein_by_hand() -> None:
    network = Linear([2.0], class_specific=False)
    batch = constant_maps([1.0, 3.0, 0.0], [5.0, 6.0, 7.0], [0, 0, 0], [True, True, False])
    ((losses, accuracies),) = Wasserstein(gradient_penalty=5.0).updates(network, batch)
    # The cost of real maps is to fall, that of predicted ones to rise; all 12 slopes are 2.
    assert losses["loss_real"].item() == pytest.approx(4.0)
    assert losses["loss_fake"].item() == pytest.approx(-12.0)
    expected = 5.0 * (2 * 12**0.5 - 1) ** 2
    assert losses["loss_gradient_penalty"].item() == pytest.approx(expected, rel=1e-5)
    assert [value.item() for value in accuracies.values()] == [1.0, 1.0]
    sum(losses.values()).backward()
    slope = 2 * 5.0 * (2 * 12**0.5 - 1) * 12**0.5
    torch.testing.assert_close(network.slopes.grad, torch.tensor([2.0 - 6.0 + slope]))


def test_penalty_of_a_flat_network_is_finite() -> None:
    network = Linear([0.0], class_specific=False)
    batch = constant_maps([1.0], [4.0], [0], [True])
    ((losses, _),) = Wasserstein().updates(network, batch)
    sum(losses.values()).backward()
    assert losses["loss_gradient_penalty"].item() == pytest.approx(10.0)
    assert network.slopes.grad.isfinite().all()


def test_clipping_follows_the_step() -> None:
    network = Linear([0.5], class_specific=False)
    batch = constant_maps([1.0], [4.0], [0], [True])
    for known in (batch, None):  # also where another process had the regions
        with torch.no_grad():
            network.slopes.fill_(0.5)
        updates = Wasserstein(gradient_penalty=0, weight_clip=0.01).updates(network, known)
        losses, _ = next(updates)
        assert losses.keys() == (set() if known is None else {"loss_real", "loss_fake"})
        assert network.slopes.item() == 0.5
        assert next(updates, None) is None
        assert network.slopes.item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight_clip": 0.01}, "weight_clip=0.01 needs gradient_penalty=0, got 10.0"),
        ({"gradient_penalty": -1.0}, "at least 0 and weight_clip positive, got -1.0 and None"),
        ({"gradient_penalty": 0, "weight_clip": 0.0}, "positive, got 0 and 0.0"),
    ],
)
def test_wrong_options_of_wasserstein(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Wasserstein(**options)


def test_classes_balance_only_where_they_have_parameters() -> None:
    """Class 0: two real, two predicted; class 1: one and three; class 2: only predicted."""
    classes = [0, 0, 1, 1, 1, 2]
    labelled = [True, True, True, False, False, False]
    batch = constant_maps([3.0] * 6, [1.0, 2.0, 6.0, 3.0, 0.0, 9.0], classes, labelled)
    objective = Wasserstein(gradient_penalty=0)

    shared = Linear([1.0, 1.0, 1.0], class_specific=False)
    ((losses, _),) = objective.updates(shared, batch)
    assert losses["loss_fake"].item() == pytest.approx(-21 / 6)

    own = Linear([1.0, 1.0, 1.0], class_specific=True)
    ((losses, _),) = objective.updates(own, batch)
    # Two thirds of the real maps have class 0, a third has class 1.
    assert losses["loss_fake"].item() == pytest.approx(-(2 / 3 * 1.5 + 1 / 3 * 3.0))
    sum(losses.values()).backward()
    assert own.slopes.grad[2] == 0


def networks() -> list[nn.Module]:
    each = {"features": 4, "num_outputs": 1}
    return [
        ConvDiscriminator(**each),
        ConvDiscriminator(**each, with_depth=True),
        ConvDiscriminator(features=4, num_outputs=2, batch_norm=False),
        DepthAwareDiscriminator(features=4, context_size=5),
        PerClassDiscriminators([ConvDiscriminator(**each) for _ in range(2)]),
        PerClassDiscriminators([ConvDiscriminator(**each, with_depth=True) for _ in range(2)]),
    ]


@pytest.mark.parametrize("number", range(len(networks())))
@pytest.mark.parametrize(
    "objective",
    [BinaryCrossEntropy(), Wasserstein(), Wasserstein(gradient_penalty=0, weight_clip=0.01)],
    ids=["cross_entropy", "penalty", "clip"],
)
def test_every_network_plays_every_game(
    number: int, objective: BinaryCrossEntropy | Wasserstein
) -> None:
    """All parameters learn, and the discriminator gets better at telling the maps apart."""
    torch.manual_seed(0)
    network = networks()[number]
    batch = random_batch(6, depth=network.uses_depth)
    # Real maps are dark, predicted ones bright.
    batch = AdversarialBatch(
        0.5 + batch.fake / 2, batch.real / 2, batch.labelled, batch.classes, batch.depth
    )
    optimizer = torch.optim.RMSprop(network.parameters(), lr=3e-4)
    history = []
    for _ in range(6):
        total = 0.0
        for losses, _ in objective.updates(network, batch):
            optimizer.zero_grad()
            loss = sum(losses.values())
            loss.backward()
            assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
            optimizer.step()
            total += loss.item()
        history.append(total)
    # Clipping changes the scale of the scores once.
    assert history[-1] < history[1]
    # Each parameter has had a gradient in a step of its own.
    assert all("square_avg" in optimizer.state[p] for p in network.parameters())


def test_networks_of_classes_are_independent() -> None:
    """Scores in the order of the regions, each by its own network; absent classes do not learn."""
    torch.manual_seed(0)
    parts = [ConvDiscriminator(features=4, batch_norm=False) for _ in range(3)]
    network = PerClassDiscriminators(parts)
    batch = random_batch(5)
    classes = torch.tensor([2, 0, 2, 0, 0])
    scores = network(batch.fake, classes)
    for row, label in enumerate(classes.tolist()):
        alone = parts[label](batch.fake[row, None], classes[row, None])
        torch.testing.assert_close(scores[row, None], alone)
    scores.sum().backward()
    learns = [all(p.grad is not None for p in part.parameters()) for part in parts]
    assert learns == [True, False, True]
    with pytest.raises(ValueError, match="class id 3 has no discriminator, there are 3"):
        network(batch.fake, torch.tensor([0, 1, 2, 3, 0]))


def test_mistakes_are_named() -> None:
    maps, classes = torch.zeros(2, 3, 36, 36), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"17 to 32 pixels a side, got \(36, 36\)"):
        ConvDiscriminator(features=4)(maps, classes)
    with pytest.raises(ValueError, match="looks at the depth of the regions, but there is none"):
        ConvDiscriminator(features=4, with_depth=True)(maps[..., :28, :28], classes)
    with pytest.raises(ValueError, match=r"24 to 31 pixels a side, got \(36, 36\)"):
        DepthAwareDiscriminator(features=4)(maps, classes, maps[:, :1])


def test_schedule_switches_at_its_inflections() -> None:
    schedule = StepSchedule([0.25, 1.0, 2.0], [5000, 8000])
    values = [schedule(iteration) for iteration in (0, 4999, 5000, 7999, 8000, 10**6)]
    assert values == [0.25, 0.25, 1.0, 1.0, 2.0, 2.0]
    with pytest.raises(ValueError, match="rates must be one more than inflections"):
        StepSchedule([1.0], [10])
    with pytest.raises(ValueError, match=r"ascend, got \[20, 10\]"):
        StepSchedule([1.0, 2.0, 3.0], [20, 10])
