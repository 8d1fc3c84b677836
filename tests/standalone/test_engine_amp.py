"""The mixed-precision trainer."""

import itertools

import pytest
import torch
from detectron2.engine import AMPTrainer
from torch import nn


class Model(nn.Module):
    """``loss_a = weight * x``, ``loss_b = 1`` (with a gradient of zero)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return {"loss_a": self.weight * x, "loss_b": self.weight * 0 + 1.0}


@pytest.mark.skipif(torch.cuda.is_available(), reason="checks the message on a machine without GPU")
@pytest.mark.filterwarnings("ignore")
def test_amp_needs_cuda():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    trainer = AMPTrainer(model, itertools.repeat(torch.tensor(1.0)), optimizer)
    with pytest.raises(AssertionError, match="CUDA is required for AMP training"):
        trainer.train(0, 1)


@pytest.mark.standalone_only
def test_amp_trainer_is_made_without_a_deprecation_warning():
    model = Model()  # warnings are errors in this suite
    trainer = AMPTrainer(
        model, [], torch.optim.SGD(model.parameters(), 0.1), async_write_metrics=True
    )
    assert trainer.async_write_metrics
    assert set(trainer.state_dict()) == {"iteration", "optimizer", "grad_scaler"}


@pytest.mark.filterwarnings("ignore")
def test_amp_state_has_the_scaler():
    model = Model()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    trainer = AMPTrainer(model, [], optimizer, grad_scaler=scaler)
    state = trainer.state_dict()
    assert state["grad_scaler"]["scale"] == 8.0
    restored = AMPTrainer(model, [], optimizer, grad_scaler=torch.amp.GradScaler("cpu"))
    restored.load_state_dict(state)
    assert restored.grad_scaler.get_scale() == 8.0


@pytest.mark.filterwarnings("ignore")
def test_amp_refuses_several_devices_in_one_process():
    model = nn.DataParallel(Model())
    with pytest.raises((ValueError, AssertionError), match="single-process multi-device"):
        AMPTrainer(model, [], torch.optim.SGD(model.parameters(), 0.1))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_amp_step_on_cuda(precision):
    seen = []

    class Matrix(nn.Linear):
        def forward(self, x):
            output = super().forward(x)
            seen.append(output.dtype)
            return {"loss": output.float().sum()}

    model = Matrix(8, 8).cuda()
    before = model.weight.detach().clone()
    data = itertools.repeat(torch.ones(2, 8, device="cuda"))
    trainer = AMPTrainer(
        model,
        data,
        torch.optim.SGD(model.parameters(), lr=0.5),
        grad_scaler=torch.amp.GradScaler("cuda", init_scale=4.0),
        precision=precision,
        log_grad_scaler=True,
    )
    trainer.train(0, 1)
    assert seen == [precision]
    # Each weight has the gradient 2 (two rows of ones), whatever the scale.
    torch.testing.assert_close(model.weight.data, before - 1.0)
    assert trainer.storage.history("[metric]grad_scaler").values() == [(4.0, 0)]
