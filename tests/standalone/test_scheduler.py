"""Warm-up schedules and the learning-rate multiplier."""

import math

import pytest
import torch
from detectron2.solver import LRMultiplier, WarmupParamScheduler, build_lr_scheduler
from fvcore.common.config import CfgNode
from fvcore.common.param_scheduler import (
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn


def steps_schedule() -> MultiStepParamScheduler:
    return MultiStepParamScheduler(values=[1.0, 0.1], milestones=[6, 10])


def sgd(*rates: float) -> torch.optim.SGD:
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def learning_rates(optimizer, scheduler, num_iter: int) -> list[float]:
    """Rate of the first group in each iteration."""
    rates = []
    for _ in range(num_iter):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


# Ten iterations, drop to 0.1 at 6, warm-up over the first two from 0.1.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.1, 0.55, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        ({"warmup_method": "constant"}, [0.1, 0.1, 1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1]),
        ({"rescale_interval": True}, [0.1, 0.55, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1]),
    ],
)
def test_warmup_before_steps(options, expected):
    schedule = WarmupParamScheduler(steps_schedule(), 0.1, 0.2, **options)
    assert [schedule(k / 10) for k in range(10)] == pytest.approx(expected)


def test_linear_warmup_meets_the_schedule_where_it_takes_over():
    schedule = WarmupParamScheduler(CosineParamScheduler(1.0, 0.0), 0.0, 0.5)
    # The cosine is 0.5 half way, so the warm-up climbs to 0.5 and not to 1.
    assert [schedule(w) for w in (0.0, 0.25, 0.5)] == pytest.approx([0.0, 0.25, 0.5])


def test_rescaled_schedule_starts_anew_after_the_warmup():
    schedule = WarmupParamScheduler(LinearParamScheduler(1.0, 0.0), 0.0, 0.5, rescale_interval=True)
    assert [schedule(w) for w in (0.0, 0.25, 0.5, 0.75)] == pytest.approx([0.0, 0.5, 1.0, 0.5])


@given(where=st.floats(0.0, 0.99), factor=st.floats(0.0, 1.0))
def test_no_warmup_is_the_schedule_itself(where, factor):
    cosine = CosineParamScheduler(1.0, 0.0)
    assert WarmupParamScheduler(cosine, factor, 0.0)(where) == pytest.approx(cosine(where))


@given(
    factor=st.floats(0.0, 1.0),
    length=st.floats(0.05, 0.9),
    rescale=st.booleans(),
    where=st.floats(0.0, 0.99),
)
def test_warmup_of_a_constant_climbs_to_it_and_stays(factor, length, rescale, where):
    schedule = WarmupParamScheduler(
        ConstantParamScheduler(2.0), factor, length, rescale_interval=rescale
    )
    expected = 2.0 * min(1.0, factor + (1.0 - factor) * where / length)
    assert schedule(where) == pytest.approx(expected, abs=1e-4)


def test_unknown_warmup_method():
    with pytest.raises(ValueError, match=r"Unknown warmup method: .*burn_in"):
        WarmupParamScheduler(steps_schedule(), 0.1, 0.2, "burn_in")


def test_multiplier_scales_each_group():
    optimizer = sgd(5.0, 0.5)
    scheduler = LRMultiplier(optimizer, LinearParamScheduler(1.0, 0.0), max_iter=4)
    assert [group["lr"] for group in optimizer.param_groups] == [5.0, 0.5]
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([3.75, 0.375])


def test_multiplier_needs_a_param_scheduler():
    with pytest.raises(ValueError, match="ParamScheduler"):
        LRMultiplier(sgd(1.0), lambda where: 1.0, max_iter=4)


def test_state_holds_only_rates_and_iteration():
    optimizer = sgd(5.0)
    scheduler = LRMultiplier(optimizer, LinearParamScheduler(1.0, 0.0), max_iter=4)
    optimizer.step()
    scheduler.step()
    assert scheduler.state_dict() == {"base_lrs": [5.0], "last_epoch": 1}


def test_resuming_continues_the_schedule():
    schedule = WarmupParamScheduler(steps_schedule(), 0.1, 0.2)
    optimizer = sgd(1.0)
    whole = learning_rates(optimizer, LRMultiplier(optimizer, schedule, 10), 10)

    optimizer = sgd(1.0)
    scheduler = LRMultiplier(optimizer, schedule, 10)
    first = learning_rates(optimizer, scheduler, 4)
    saved = (optimizer.state_dict(), scheduler.state_dict())
    optimizer = sgd(99.0)
    scheduler = LRMultiplier(optimizer, schedule, 10)
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    assert first + learning_rates(optimizer, scheduler, 6) == pytest.approx(whole)


def test_last_iter_continues_from_the_optimizer_state():
    optimizer = sgd(2.0)
    LRMultiplier(optimizer, LinearParamScheduler(1.0, 0.0), max_iter=4)
    resumed = sgd(99.0)
    resumed.load_state_dict(optimizer.state_dict())
    LRMultiplier(resumed, LinearParamScheduler(1.0, 0.0), max_iter=4, last_iter=1)
    assert resumed.param_groups[0]["lr"] == pytest.approx(1.0)  # iteration 2 of 4
    with pytest.raises(KeyError, match="initial_lr"):
        LRMultiplier(sgd(1.0), LinearParamScheduler(1.0, 0.0), max_iter=4, last_iter=1)


def test_schedule_is_relative_to_max_iter():
    optimizer = sgd(1.0)
    scheduler = LRMultiplier(optimizer, LinearParamScheduler(1.0, 0.0), max_iter=10)
    learning_rates(optimizer, scheduler, 5)
    longer_optimizer = sgd(1.0)
    longer = LRMultiplier(longer_optimizer, LinearParamScheduler(1.0, 0.0), max_iter=20)
    longer.load_state_dict(scheduler.state_dict())
    assert scheduler.get_lr() == pytest.approx([0.5])
    assert longer.get_lr() == pytest.approx([0.75])


def config(**changes) -> CfgNode:
    solver = {
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "MAX_ITER": 10,
        "BASE_LR": 2.0,
        "BASE_LR_END": 0.0,
        "GAMMA": 0.1,
        "STEPS": (6,),
        "NUM_DECAYS": 1,
        "WARMUP_FACTOR": 0.1,
        "WARMUP_ITERS": 2,
        "WARMUP_METHOD": "linear",
        "RESCALE_INTERVAL": False,
    }
    return CfgNode({"SOLVER": {**solver, **changes}})


def rates_from_config(cfg: CfgNode) -> list[float]:
    optimizer = sgd(cfg.SOLVER.BASE_LR)
    return learning_rates(optimizer, build_lr_scheduler(cfg, optimizer), cfg.SOLVER.MAX_ITER - 1)


def test_config_multi_step():
    expected = [0.2, 1.1, 2, 2, 2, 2, 0.2, 0.2, 0.2]
    assert rates_from_config(config()) == pytest.approx(expected)


def test_config_ignores_steps_behind_the_end(caplog):
    expected = rates_from_config(config())
    with caplog.at_level("WARNING"):
        assert rates_from_config(config(STEPS=(6, 12))) == pytest.approx(expected)
    assert "values larger than SOLVER.MAX_ITER" in caplog.text


def test_config_cosine_ends_at_the_end_value():
    cfg = config(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=0.5, WARMUP_ITERS=0)
    expected = [0.5 + 1.5 * (1 + math.cos(math.pi * k / 10)) / 2 for k in range(9)]
    assert rates_from_config(cfg) == pytest.approx(expected)


def test_config_fixed_gamma():
    cfg = config(LR_SCHEDULER_NAME="WarmupStepWithFixedGammaLR", WARMUP_ITERS=0)
    assert rates_from_config(cfg) == pytest.approx([2.0] * 5 + [0.2] * 4)


def test_config_unknown_scheduler():
    with pytest.raises(ValueError, match="Unknown LR scheduler: Zigzag"):
        rates_from_config(config(LR_SCHEDULER_NAME="Zigzag"))
    with pytest.raises((ValueError, AssertionError)):
        rates_from_config(config(LR_SCHEDULER_NAME="WarmupCosineLR", BASE_LR_END=3.0))
