"""Training against a critique: the model and the discriminator have optimizers of their own.

In a config, beside an `optimizer` of the model as usual::

    trainer = LazyCall(AdversarialTrainer)(
        discriminator_optimizer=LazyCall(torch.optim.Adam)(
            params=LazyCall(discriminator_parameters)(model="${optimizer.params.model}"),
            lr=1e-4,
            betas=(0.5, 0.999),
        ),
    )
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from fvcore.common.param_scheduler import ParamScheduler
from torch import nn

from roca_nocs.modeling.nocs_gan.critique import Critique
from roca_nocs.modeling.nocs_gan.objectives import AdversarialBatch

from .trainer import Trainer

__all__ = ["AdversarialTrainer", "discriminator_parameters", "generator_parameters"]

_PICTURED_REGIONS = 8


def _find_critique(model: nn.Module) -> Critique:
    found = [module for module in model.modules() if isinstance(module, Critique)]
    if len(found) != 1:
        raise ValueError(
            f"adversarial training needs a model with one Critique, this one has {len(found)}"
        )
    return found[0]


def discriminator_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the discriminator in `model`, for an optimizer of its own.

    Raises:
        ValueError: the model has no critique, or several.
    """
    return [*_find_critique(model).discriminator.parameters()]


def generator_parameters(
    model: nn.Module, *, adversarial: str, betas: tuple[float, float]
) -> list[dict[str, Any]]:
    """Groups for Adam over what is trained of `model`, which excludes the discriminator.

    Args:
        model: the whole model.
        adversarial: beginning of the names of the parameters that work against the discriminator.
        betas: of these; DCGAN needs a first one of 0.5. The others have those of the optimizer.

    Returns:
        One or two groups, none of them empty.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    against = [p for name, p in trained.items() if name.startswith(adversarial)]
    others = [p for name, p in trained.items() if not name.startswith(adversarial)]
    groups = [{"params": others}, {"params": against, "betas": tuple(betas)}]
    return [group for group in groups if group["params"]]


class AdversarialTrainer(Trainer):
    """After each step of the model, steps of the discriminator on the maps that it was shown.

    Mixed precision, accumulation, clipping and averaging of the weights concern the model as
    without a discriminator. That sees the maps of all parts of a batch at once and learns in
    float32. Its gradients are averaged over the processes that have labelled regions; without any
    on all of them it makes no step. The checkpoint holds the state of both optimizers; the weights
    and statistics of the discriminator are part of the model.

    Stored as scalars: ``discriminator/`` ``loss_real``, ``loss_fake`` (and
    ``loss_gradient_penalty``), ``real_accuracy``, ``fake_accuracy`` (0.5 is healthy; 1 means that
    the discriminator has won), ``grad_norm``, all of them means over the steps of an iteration,
    and ``regions_real``, ``regions_fake``, counts on the main process.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable[Sequence[Any]],
        optimizer: torch.optim.Optimizer,
        *,
        discriminator_optimizer: torch.optim.Optimizer,
        steps_per_batch: int = 1,
        discriminator_schedule: ParamScheduler | None = None,
        discriminator_clip_norm: float | None = None,
        picture_period: int = 0,
        **options: Any,
    ) -> None:
        """
        Args:
            model, data_loader, optimizer, options: see `Trainer`. The model holds one `Critique`.
            discriminator_optimizer: over its `discriminator_parameters`, exactly these.
            steps_per_batch: updates of the discriminator for each step of the model; an update is
                one or two steps of its optimizer, see `objectives`.
            discriminator_schedule: factor on the optimizer's learning rates, a function of the
                finished share of the training; None keeps them.
            discriminator_clip_norm: largest L2 norm of all its gradients together.
            picture_period: iterations between pictures of real and predicted maps; 0 for none.

        Raises:
            ValueError: the optimizers do not share out the parameters as they must.
        """
        super().__init__(model, data_loader, optimizer, **options)
        if steps_per_batch < 1:
            raise ValueError(f"steps_per_batch must be at least 1, got {steps_per_batch}")
        self.critique = _find_critique(model)
        _check_division(self.critique, optimizer, discriminator_optimizer)
        self.discriminator_optimizer = discriminator_optimizer
        self.steps_per_batch = steps_per_batch
        self.discriminator_schedule = discriminator_schedule
        self.discriminator_clip_norm = discriminator_clip_norm
        self.picture_period = picture_period
        self._base_rates = [group["lr"] for group in discriminator_optimizer.param_groups]

    def run_step(self) -> None:
        """Train the model on one batch, then the discriminator on its regions."""
        super().run_step()
        batch = self.critique.take_batch()
        real = 0 if batch is None else int(batch.labelled.sum())
        storage = get_event_storage()
        storage.put_scalar("discriminator/regions_real", real)
        storage.put_scalar("discriminator/regions_fake", 0 if batch is None else len(batch.classes))
        if any(comm.all_gather(real > 0)):
            self._train_discriminator(batch if real else None)
        if real and comm.is_main_process() and self.picture_period:
            if self.iter % self.picture_period == 0:
                storage.put_image("discriminator/real_above_fake", _picture(batch))

    def _train_discriminator(self, batch: AdversarialBatch | None) -> None:
        """All updates of one iteration; `None` where only other processes have labelled regions."""
        if self.discriminator_schedule is not None:
            factor = self.discriminator_schedule(self.iter / self.max_iter)
            for group, rate in zip(
                self.discriminator_optimizer.param_groups, self._base_rates, strict=True
            ):
                group["lr"] = rate * factor
        logged: dict[str, list[torch.Tensor]] = {}
        objective, discriminator = self.critique.objective, self.critique.discriminator
        with _trainable(discriminator):
            for _ in range(self.steps_per_batch):
                for losses, accuracies in objective.updates(discriminator, batch):
                    values = {name: loss.detach() for name, loss in losses.items()}
                    values["grad_norm"] = self._discriminator_step(losses)
                    for name, value in (values | accuracies).items():
                        logged.setdefault(name, []).append(value)
        self._write_discriminator(logged)

    def _discriminator_step(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """One step of its optimizer; returns the norm of the gradient before it is clipped."""
        parameters = [*self.critique.discriminator.parameters()]
        self.discriminator_optimizer.zero_grad()
        if losses:
            sum(losses.values()).backward()
        if comm.get_world_size() > 1:
            _average_gradients(parameters)
        limit = self.discriminator_clip_norm
        norm = nn.utils.clip_grad_norm_(parameters, math.inf if limit is None else limit)
        named = {f"discriminator/{name}": loss.detach() for name, loss in losses.items()}
        self._check_finite(named, norm, overflow_allowed=False)
        self.discriminator_optimizer.step()
        return norm

    def _write_discriminator(self, logged: dict[str, list[torch.Tensor]]) -> None:
        """Store means over steps and processes, on the main process."""
        means = torch.stack([torch.stack(values).mean() for values in logged.values()])
        gathered = comm.gather(dict(zip(logged, means.tolist(), strict=True)))
        for name in {name: None for each in gathered for name in each}:
            values = [each[name] for each in gathered if name in each]
            get_event_storage().put_scalar(f"discriminator/{name}", sum(values) / len(values))

    def state_dict(self) -> dict[str, Any]:
        """That of `Trainer`, and the discriminator's optimizer."""
        return {
            **super().state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue behind `state_dict`; parts that it lacks keep their state."""
        super().load_state_dict(state_dict)
        if "discriminator_optimizer" in state_dict:
            self.discriminator_optimizer.load_state_dict(state_dict["discriminator_optimizer"])


def _check_division(
    critique: Critique, optimizer: torch.optim.Optimizer, discriminator: torch.optim.Optimizer
) -> None:
    """The discriminator belongs to its optimizer as a whole, and nothing else does."""
    own = set(critique.parameters())
    in_model, in_discriminator = (
        {p for group in each.param_groups for p in group["params"]}
        for each in (optimizer, discriminator)
    )
    if wrong := len(own & in_model):
        raise ValueError(
            f"{wrong} parameters of the discriminator are in the model's optimizer, which would "
            "train it to be deceived: select parameters that require a gradient"
        )
    if foreign := len(in_discriminator - own):
        raise ValueError(
            f"{foreign} parameters in the discriminator's optimizer are not the discriminator's: "
            "select them by discriminator_parameters"
        )
    if missing := len(own - in_discriminator):
        raise ValueError(f"{missing} parameters of the discriminator are in no optimizer")


@contextlib.contextmanager
def _trainable(discriminator: nn.Module) -> Iterator[None]:
    discriminator.requires_grad_(True)
    try:
        yield
    finally:
        discriminator.requires_grad_(False)


def _average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Mean of each gradient over the processes that have one; none where no process has.

    Optimizers leave out parameters without gradient, such as those of a class that does not occur.
    """
    device = parameters[0].device
    counts = torch.tensor([float(p.grad is not None) for p in parameters], device=device)
    dist.all_reduce(counts)
    shared = [(p, n) for p, n in zip(parameters, counts.tolist(), strict=True) if n]
    if not shared:
        return
    flat = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p, _ in shared]
    )
    dist.all_reduce(flat)
    parts = flat.split([p.numel() for p, _ in shared])
    for (parameter, count), part in zip(shared, parts, strict=True):
        parameter.grad = (part / count).reshape(parameter.shape)


def _picture(batch: AdversarialBatch) -> torch.Tensor:
    """Real maps above predicted ones, (3, 2 S, regions S) in [0, 1]."""
    rows = batch.labelled.nonzero()[:_PICTURED_REGIONS, 0]
    above, below = (torch.cat([*maps[rows]], dim=2) for maps in (batch.real, batch.fake))
    return torch.cat([above, below], dim=1).cpu()
