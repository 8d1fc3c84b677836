"""Parameter groups, gradient clipping and optimizers built from a yacs config."""

import pytest
import torch
from detectron2.solver.build import (
    _expand_param_groups,
    build_optimizer,
    get_default_optimizer_params,
    maybe_add_gradient_clipping,
    reduce_param_groups,
)
from fvcore.common.config import CfgNode
from omegaconf import OmegaConf
from torch import nn


class Net(nn.Module):
    """Eight parameters: two linear layers and two normalisation layers."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        self.head = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def names_of(model: nn.Module, group: dict) -> list[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(parameter)] for parameter in group["params"]]


def settings_of(model: nn.Module, groups: list[dict]) -> dict[str, dict]:
    """Hyper-parameters by parameter name."""
    return {
        name: {key: value for key, value in group.items() if key != "params"}
        for group in groups
        for name in names_of(model, group)
    }


def test_defaults_give_one_group_in_model_order():
    model = Net()
    groups = get_default_optimizer_params(model)
    assert len(groups) == 1
    assert set(groups[0]) == {"params"}
    assert names_of(model, groups[0]) == [name for name, _ in model.named_parameters()]


def test_base_values_are_on_every_group():
    (group,) = get_default_optimizer_params(Net(), base_lr=0.1, weight_decay=0.5)
    assert group["lr"] == 0.1
    assert group["weight_decay"] == 0.5


def test_frozen_parameters_are_left_out_and_shared_ones_occur_once():
    model = Net()
    model.backbone.requires_grad_(False)
    model.alias = model.head[0]
    (group,) = get_default_optimizer_params(model)
    assert len(group["params"]) == len({id(parameter) for parameter in group["params"]}) == 4


def test_model_without_trainable_parameters_gives_no_group():
    assert get_default_optimizer_params(nn.ReLU()) == []


def test_norm_decay_splits_into_two_groups_in_order_of_appearance():
    model = Net()
    groups = get_default_optimizer_params(model, weight_decay=0.1, weight_decay_norm=0.0)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert names_of(model, groups[0]) == [
        "backbone.0.weight",
        "backbone.0.bias",
        "head.0.weight",
        "head.0.bias",
    ]


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm1d(2),
        nn.BatchNorm2d(2),
        nn.BatchNorm3d(2),
        nn.SyncBatchNorm(2),
        nn.GroupNorm(1, 2),
        nn.InstanceNorm1d(2, affine=True),
        nn.InstanceNorm2d(2, affine=True),
        nn.InstanceNorm3d(2, affine=True),
        nn.LayerNorm(2),
    ],
    ids=lambda norm: type(norm).__name__,
)
def test_norm_decay_covers_torch_norms(norm):
    (group,) = get_default_optimizer_params(nn.Sequential(norm), weight_decay_norm=0.25)
    assert group["weight_decay"] == 0.25
    assert len(group["params"]) == 2


def test_bias_options():
    model = Net()
    groups = get_default_optimizer_params(
        model, base_lr=1.0, weight_decay=0.1, bias_lr_factor=2.0, weight_decay_bias=0.0
    )
    settings = settings_of(model, groups)
    assert settings["head.0.weight"] == {"lr": 1.0, "weight_decay": 0.1}
    assert settings["head.0.bias"] == {"lr": 2.0, "weight_decay": 0.0}
    assert settings["head.1.bias"] == {"lr": 2.0, "weight_decay": 0.0}


def test_lr_factor_gets_full_names_and_bias_override_cancels_it():
    model = Net()
    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        bias_lr_factor=2.0,
        lr_factor_func=lambda name: 0.1 if name.startswith("backbone.") else 1.0,
    )
    settings = settings_of(model, groups)
    assert settings["backbone.0.weight"]["lr"] == 0.1
    assert settings["head.0.weight"]["lr"] == 1.0
    assert settings["backbone.0.bias"]["lr"] == 2.0


@pytest.mark.standalone_only
def test_lr_factor_gets_no_leading_dot_for_parameters_of_the_root():
    names = []
    get_default_optimizer_params(
        nn.Linear(1, 1), base_lr=1.0, lr_factor_func=lambda name: names.append(name) or 1.0
    )
    assert names == ["weight", "bias"]


def test_overrides_replace_what_was_computed():
    model = Net()
    groups = get_default_optimizer_params(
        model,
        base_lr=1.0,
        lr_factor_func=lambda name: 0.5,
        overrides={"weight": {"lr": 7.0, "momentum": 0.3}},
    )
    settings = settings_of(model, groups)
    assert settings["head.0.weight"] == {"lr": 7.0, "momentum": 0.3}
    assert settings["head.0.bias"] == {"lr": 0.5}


def test_overrides_from_a_config():
    overrides = OmegaConf.create({"bias": {"lr": 3.0}})
    settings = settings_of(
        model := Net(), get_default_optimizer_params(model, base_lr=1.0, overrides=overrides)
    )
    assert settings["head.0.bias"] == {"lr": 3.0}
    assert type(settings["head.0.bias"]["lr"]) is float


def test_conflicts_and_missing_base_lr_are_errors():
    model = Net()
    with pytest.raises(ValueError, match="bias_lr_factor requires base_lr"):
        get_default_optimizer_params(model, bias_lr_factor=2.0)
    with pytest.raises(ValueError, match="lr_factor_func requires base_lr"):
        get_default_optimizer_params(model, lr_factor_func=lambda name: 1.0)
    with pytest.raises(ValueError, match="Conflicting overrides for 'bias'"):
        get_default_optimizer_params(
            model, weight_decay_bias=0.0, overrides={"bias": {"weight_decay": 1.0}}
        )


@pytest.mark.standalone_only
def test_overrides_argument_is_not_changed():
    overrides = {"weight": {"lr": 3.0}}
    for _ in range(2):  # a changed argument would conflict in the second call
        get_default_optimizer_params(Net(), base_lr=1.0, weight_decay_bias=0.0, overrides=overrides)
    assert overrides == {"weight": {"lr": 3.0}}


def test_torch_accepts_the_groups():
    groups = get_default_optimizer_params(Net(), base_lr=0.1, weight_decay_norm=0.0)
    optimizer = torch.optim.SGD(groups, lr=5.0, weight_decay=0.3)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.1, 0.3), (0.1, 0)]


def test_expand_lets_later_groups_win():
    groups = _expand_param_groups(
        [
            {"params": ["a", "b"], "lr": 1.0, "weight_decay": 3.0},
            {"params": ["b", "c"], "lr": 2.0},
        ]
    )
    assert groups == [
        {"params": ["a"], "lr": 1.0, "weight_decay": 3.0},
        {"params": ["b"], "lr": 2.0, "weight_decay": 3.0},
        {"params": ["c"], "lr": 2.0},
    ]


def test_reduce_merges_equal_settings_only():
    groups = reduce_param_groups(
        [
            {"params": ["a"], "lr": 1.0},
            {"params": ["b"], "lr": 2.0},
            {"params": ["c", "d"], "lr": 1.0},
            {"params": ["e"], "lr": 1.0, "momentum": 0.9},
        ]
    )
    assert groups == [
        {"params": ["a", "c", "d"], "lr": 1.0},
        {"params": ["b"], "lr": 2.0},
        {"params": ["e"], "lr": 1.0, "momentum": 0.9},
    ]
    assert reduce_param_groups([]) == []


def test_reduce_keeps_parameter_names_in_step():
    groups = reduce_param_groups(
        [
            {"params": ["a", "b"], "param_names": ["A", "B"], "lr": 1.0},
            {"params": ["c"], "param_names": ["C"], "lr": 1.0},
        ]
    )
    assert groups == [{"params": ["a", "b", "c"], "param_names": ["A", "B", "C"], "lr": 1.0}]


@pytest.mark.standalone_only
def test_reduce_ignores_the_order_of_settings():
    groups = reduce_param_groups(
        [
            {"params": ["a"], "lr": 1.0, "momentum": 0.9},
            {"params": ["b"], "momentum": 0.9, "lr": 1.0},
        ]
    )
    assert [group["params"] for group in groups] == [["a", "b"]]


def solver_config(clip_type: str = "value", clip: bool = True) -> CfgNode:
    return CfgNode(
        {
            "SOLVER": {
                "BASE_LR": 1.0,
                "MOMENTUM": 0.0,
                "NESTEROV": False,
                "WEIGHT_DECAY": 0.0,
                "WEIGHT_DECAY_NORM": 0.0,
                "WEIGHT_DECAY_BIAS": None,
                "BIAS_LR_FACTOR": 1.0,
                "CLIP_GRADIENTS": {
                    "ENABLED": clip,
                    "CLIP_TYPE": clip_type,
                    "CLIP_VALUE": 1.0,
                    "NORM_TYPE": 2.0,
                },
            }
        }
    )


# A gradient of (3, 4) becomes (1, 1) by value and (0.6, 0.8) by its norm 5.
@pytest.mark.parametrize(
    ("clip_type", "expected"), [("value", [-1.0, -1.0]), ("norm", [-0.6, -0.8])]
)
def test_built_optimizer_clips_each_parameter(clip_type, expected):
    model = nn.Module()
    model.value = nn.Parameter(torch.zeros(2))
    optimizer = build_optimizer(solver_config(clip_type), model)
    assert isinstance(optimizer, torch.optim.SGD)
    (model.value * torch.tensor([3.0, 4.0])).sum().backward()
    optimizer.step()
    torch.testing.assert_close(model.value.data, torch.tensor(expected), atol=1e-5, rtol=0)


def test_clipping_off_returns_the_argument():
    assert maybe_add_gradient_clipping(solver_config(clip=False), torch.optim.SGD) is (
        torch.optim.SGD
    )


def test_clipping_of_a_class_gives_a_subclass():
    clipping = maybe_add_gradient_clipping(solver_config(), torch.optim.Adam)
    assert issubclass(clipping, torch.optim.Adam)
    assert clipping is not torch.optim.Adam
    assert clipping.__name__ == "AdamWithGradientClip"


@pytest.mark.standalone_only
def test_clipping_passes_over_parameters_without_gradient():
    used, unused = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    clipping = maybe_add_gradient_clipping(solver_config(), torch.optim.SGD)
    optimizer = clipping([used, unused], lr=1.0)
    (used * 5.0).sum().backward()
    optimizer.step()
    assert (used.item(), unused.item()) == (-1.0, 0.0)


@pytest.mark.standalone_only
def test_clipping_applies_to_gradients_of_a_closure():
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = maybe_add_gradient_clipping(solver_config(), torch.optim.SGD)([parameter], lr=1.0)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (parameter * 5.0 + 2.0).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 2.0
    assert parameter.item() == -1.0


def test_unknown_clip_type_is_an_error():
    with pytest.raises(ValueError, match="percentile"):
        maybe_add_gradient_clipping(solver_config("percentile"), torch.optim.SGD)
