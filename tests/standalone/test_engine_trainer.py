"""The training loop and the two trainers."""

import itertools
import math
import weakref

import pytest
import torch
from detectron2.engine import HookBase, SimpleTrainer, TrainerBase, hooks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import nn


class Recorder(HookBase):
    """Writes down what is called and the trainer's and the storage's iteration."""

    def __init__(self, calls: list) -> None:
        self.calls = calls

    def _record(self, name: str) -> None:
        self.calls.append((name, self.trainer.iter, self.trainer.storage.iter))

    def before_train(self):
        self._record("before_train")

    def after_train(self):
        self._record("after_train")

    def before_step(self):
        self._record("before_step")

    def after_backward(self):
        self._record("after_backward")

    def after_step(self):
        self._record("after_step")


class CountingTrainer(TrainerBase):
    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.fail_at = fail_at

    def run_step(self):
        get_event_storage().put_scalar("seen", self.iter)
        if self.iter == self.fail_at:
            raise RuntimeError("step failed")


class Model(nn.Module):
    """``loss_a = weight * x``, ``loss_b = 1`` (with a gradient of zero)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return {"loss_a": self.weight * x, "loss_b": self.weight * 0 + 1.0}


def make_trainer(model=None, data=1.0, lr=0.5, **options) -> SimpleTrainer:
    model = Model() if model is None else model
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return SimpleTrainer(model, itertools.repeat(torch.tensor(data)), optimizer, **options)


def history(trainer: TrainerBase, name: str) -> list[tuple[float, int]]:
    return [tuple(entry) for entry in trainer.storage.history(name).values()]


# --- The loop -----------------------------------------------------------------------------


def test_order_of_hook_calls():
    calls = []
    trainer = CountingTrainer()
    trainer.register_hooks([Recorder(calls)])
    trainer.train(3, 5)
    assert calls == [
        ("before_train", 3, 3),
        ("before_step", 3, 3),
        ("after_step", 3, 3),
        ("before_step", 4, 4),
        ("after_step", 4, 4),
        ("after_train", 5, 5),
    ]
    assert (trainer.start_iter, trainer.max_iter, trainer.iter) == (3, 5, 5)
    assert history(trainer, "seen") == [(3.0, 3), (4.0, 4)]


def test_hooks_run_in_order_and_none_is_left_out():
    first, second = [], []
    trainer = CountingTrainer()
    trainer.register_hooks([Recorder(first), None])
    trainer.register_hooks([hooks.CallbackHook(after_step=lambda t: second.append(len(first)))])
    trainer.train(0, 1)
    assert second == [3]  # the recorder had seen before_train, before_step and after_step


def test_only_hooks_can_be_registered():
    with pytest.raises((TypeError, AssertionError)):
        CountingTrainer().register_hooks([print])


def test_hook_does_not_keep_the_trainer_alive():
    trainer = CountingTrainer()
    hook = Recorder([])
    trainer.register_hooks([hook])
    reference = weakref.ref(trainer)
    del trainer
    assert reference() is None


def test_after_train_is_called_when_a_step_fails(caplog):
    calls = []
    trainer = CountingTrainer(fail_at=1)
    trainer.register_hooks([Recorder(calls)])
    with pytest.raises(RuntimeError, match="step failed"):
        trainer.train(0, 5)
    assert calls[-1] == ("after_train", 1, 1)
    assert "Exception during training" in caplog.text


@pytest.mark.standalone_only
def test_nothing_to_train_leaves_the_iteration_alone():
    trainer = CountingTrainer()
    trainer.train(7, 7)
    assert trainer.iter == 7


def test_run_step_must_be_given():
    with pytest.raises(NotImplementedError):
        TrainerBase().train(0, 1)


def test_storage_is_closed_after_training():
    make_trainer().train(0, 1)
    with pytest.raises(AssertionError, match="EventStorage"):
        get_event_storage()


class Stateful(HookBase):
    def __init__(self, value):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state_dict):
        self.value = state_dict["value"]


class OtherStateful(Stateful):
    pass


def test_state_of_hooks_by_class_name():
    trainer = CountingTrainer()
    assert trainer.state_dict() == {"iteration": 0}
    trainer.register_hooks([Stateful(1), Stateful(2), Recorder([])])
    trainer.iter = 11
    state = trainer.state_dict()
    assert state == {"iteration": 11, "hooks": {"Stateful": {"value": 1}}}

    restored = CountingTrainer()
    hook = Stateful(None)
    restored.register_hooks([OtherStateful("kept"), hook])
    restored.load_state_dict(state)
    assert (restored.iter, hook.value) == (11, 1)


def test_state_of_an_unknown_hook_is_reported(caplog):
    trainer = CountingTrainer()
    trainer.load_state_dict({"iteration": 4, "hooks": {"Vanished": {"value": 1}}})
    assert trainer.iter == 4
    assert "Cannot find the hook 'Vanished'" in caplog.text


# --- SimpleTrainer ------------------------------------------------------------------------


def test_steps_follow_the_gradient():
    trainer = make_trainer(data=3.0)
    trainer.train(0, 2)
    # The gradient is 3, the rate 0.5: 2 -> 0.5 -> -1.
    assert trainer.model.weight.item() == pytest.approx(-1.0)


@pytest.mark.parametrize("options", [{}, {"zero_grad_before_forward": True}])
def test_gradients_do_not_pile_up(options):
    trainer = make_trainer(**options)
    trainer.train(0, 3)
    assert trainer.model.weight.grad.item() == pytest.approx(1.0)


def test_after_backward_is_called_between_gradient_and_update():
    seen = []

    class Look(HookBase):
        def after_backward(self):
            model = self.trainer.model
            seen.append((model.weight.grad.item(), model.weight.item()))

    trainer = make_trainer()
    trainer.register_hooks([Look()])
    trainer.train(0, 1)
    assert seen == [(1.0, 2.0)]


@pytest.mark.parametrize("options", [{}, {"async_write_metrics": True}])
def test_losses_are_stored(options):
    trainer = make_trainer(**options)
    trainer.train(0, 3)
    assert history(trainer, "loss_a") == [(2.0, 0), (1.5, 1), (1.0, 2)]
    assert history(trainer, "loss_b") == [(1.0, 0), (1.0, 1), (1.0, 2)]
    assert history(trainer, "total_loss") == [(3.0, 0), (2.5, 1), (2.0, 2)]
    assert [iteration for _, iteration in history(trainer, "data_time")] == [0, 1, 2]
    assert [iteration for _, iteration in history(trainer, "rank_data_time")] == [0, 1, 2]


def test_losses_are_gathered_periodically():
    trainer = make_trainer(gather_metric_period=2)
    trainer.train(0, 5)
    assert history(trainer, "total_loss") == [(2.5, 1), (1.5, 3)]


def test_a_single_loss_is_called_total_loss():
    class OneLoss(Model):
        def forward(self, x):
            return self.weight * x

    trainer = make_trainer(OneLoss())
    trainer.train(0, 1)
    assert history(trainer, "total_loss") == [(2.0, 0)]
    assert "loss_a" not in trainer.storage.histories()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("options", [{}, {"zero_grad_before_forward": True}])
def test_non_finite_loss_stops_training(bad, options):
    trainer = make_trainer(data=bad, **options)
    with pytest.raises(FloatingPointError, match=r"Loss became infinite or NaN at iteration=0"):
        trainer.train(0, 3)


@pytest.mark.standalone_only
def test_non_finite_loss_stops_training_with_late_metrics():
    trainer = make_trainer(data=math.nan, async_write_metrics=True)
    with pytest.raises(FloatingPointError, match="iteration=0"):
        trainer.train(0, 3)


@pytest.mark.standalone_only
def test_training_can_be_repeated_with_late_metrics():
    trainer = make_trainer(async_write_metrics=True)
    trainer.train(0, 1)
    trainer.train(1, 2)
    assert history(trainer, "total_loss") == [(2.5, 1)]


@pytest.mark.standalone_only
@pytest.mark.parametrize("output", [{}, None, [1.0]])
def test_model_output_that_is_no_loss(output):
    class Strange(Model):
        def forward(self, x):
            return output

    with pytest.raises(TypeError, match="dictionary of losses"):
        make_trainer(Strange()).train(0, 1)


def test_metrics_are_averaged_and_the_slowest_loader_counts(monkeypatch):
    trainer = make_trainer()

    def gather(mine, dst=0, group=None):
        # The other process has twice the losses and a data time of 9 s, in whichever layout.
        if isinstance(mine, dict):
            return [mine, {**{k: 2 * v for k, v in mine.items()}, "data_time": 9.0}]
        losses, _ = mine
        return [mine, ({k: 2 * v for k, v in losses.items()}, 9.0)]

    monkeypatch.setattr(comm, "gather", gather)
    with EventStorage() as storage:
        trainer._write_metrics({"a": torch.tensor(2.0), "b": torch.tensor(4.0)}, 1.0, "val_")
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest == {
        "a": 3.0,
        "b": 6.0,
        "val_total_loss": 9.0,
        "data_time": 9.0,
        "rank_data_time": 1.0,
    }


def test_model_must_stay_in_training_mode():
    trainer = make_trainer()
    assert trainer.model.training
    trainer.model.eval()
    with pytest.raises(AssertionError, match="changed to eval mode"):
        trainer.train(0, 1)


def test_data_iterator_is_made_once_and_late():
    made = []

    class Loader:
        def __iter__(self):
            made.append(1)
            return itertools.repeat(torch.tensor(1.0))

    model = Model()
    trainer = SimpleTrainer(model, Loader(), torch.optim.SGD(model.parameters(), 0.1))
    assert made == []
    trainer.train(0, 3)
    trainer.train(3, 5)
    assert made == [1]


def test_reset_data_loader():
    trainer = make_trainer(lr=1.0)
    trainer.train(0, 1)  # 2 -> 1
    trainer.reset_data_loader(lambda: itertools.repeat(torch.tensor(10.0)))
    trainer.train(1, 2)  # 1 -> -9
    assert trainer.model.weight.item() == pytest.approx(-9.0)


def test_state_has_the_optimizer():
    trainer = make_trainer(lr=0.25)
    trainer.train(0, 2)
    state = trainer.state_dict()
    assert set(state) == {"iteration", "optimizer"}
    restored = make_trainer(lr=99.0)
    restored.load_state_dict(state)
    assert restored.iter == 2
    assert restored.optimizer.param_groups[0]["lr"] == 0.25
