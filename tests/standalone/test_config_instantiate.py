"""LazyCall and instantiate."""

import collections
import dataclasses
import logging

import pytest
from detectron2.config import LazyCall, instantiate
from detectron2.layers import ShapeSpec
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ValidationError


class Part:
    """Remembers its arguments."""

    def __init__(self, size, children=(), options=None):
        self.size = size
        self.children = children
        self.options = options

    def __call__(self, extra):
        return self.size + extra


@dataclasses.dataclass
class Point:
    """A target that omegaconf would take for a schema."""

    x: int = 0
    y: int = 0


def test_lazy_call_describes_without_calling():
    cfg = LazyCall(Part)(size=3, children=[1, 2])
    assert isinstance(cfg, DictConfig)
    assert cfg._target_ is Part
    assert dict(cfg.items()).keys() == {"size", "children", "_target_"}


def test_lazy_call_result_can_be_edited():
    cfg = LazyCall(Part)(size=3)
    cfg.size = 4
    cfg.options = Part  # any object is allowed
    part = instantiate(cfg)
    assert (part.size, part.options) == (4, Part)


@pytest.mark.parametrize("target", [3, None, ["a"]])
def test_lazy_call_rejects_what_cannot_be_called(target):
    with pytest.raises(TypeError, match="must be a callable"):
        LazyCall(target)


def test_lazy_call_takes_keywords_only():
    with pytest.raises(TypeError):
        LazyCall(Part)(3)


def test_dataclass_target_is_stored_by_name():
    cfg = LazyCall(Point)(x=1)
    assert cfg._target_ == f"{__name__}.Point"
    assert instantiate(LazyCall(ShapeSpec)(channels=2)) == ShapeSpec(channels=2)


def test_builtin_container_is_no_target():
    with pytest.raises(ValidationError, match="Unsupported value type"):
        LazyCall(dict)(a=1)


def test_nested_calls_and_interpolation():
    cfg = LazyCall(Part)(
        size=3,
        children=[10],
        options=LazyCall(Part)(size="${..size}", children="${..children}"),
    )
    cfg.size = 7
    part = instantiate(cfg)
    assert isinstance(part.options, Part)
    assert part.options.size == 7
    assert part.options.children == [10]


def test_string_target():
    assert instantiate({"_target_": "collections.Counter", "a": 2}) == collections.Counter(a=2)
    assert instantiate(LazyCall("collections.Counter")(a=2)) == collections.Counter(a=2)


def test_target_may_itself_be_lazy():
    assert instantiate(LazyCall(LazyCall(Part)(size=3))(extra=4)) == 7


def test_lists():
    plain = instantiate([1, LazyCall(Part)(size=1)])
    assert type(plain) is list
    assert isinstance(plain[1], Part)
    configured = instantiate(LazyCall(Part)(size=0, children=[1, LazyCall(Part)(size=2)])).children
    assert isinstance(configured, ListConfig)
    assert not isinstance(configured, list)
    assert configured[0] == 1
    assert configured[1].size == 2
    assert instantiate([]) == []


def test_structured_config_becomes_its_dataclass():
    spec = ShapeSpec(channels=4, stride=2)
    part = instantiate(LazyCall(Part)(size=1, options=spec))
    assert type(part.options) is ShapeSpec
    assert part.options == spec
    assert instantiate(OmegaConf.structured(Point(x=3))) == Point(x=3)


@pytest.mark.parametrize("value", [5, "text", None, {"a": 1}, (1, 2), DictConfig({"a": 1})])
def test_other_values_are_returned_unchanged(value):
    assert instantiate(value) is value


def test_calls_inside_a_plain_dict_are_not_made():
    part = instantiate(LazyCall(Part)(size=1, options={"inner": LazyCall(Part)(size=2)}))
    assert isinstance(part.options.inner, DictConfig)
    assert part.options.inner.size == 2


def test_unknown_string_target():
    with pytest.raises(ImportError, match="no_such_module_here"):
        instantiate({"_target_": "no_such_module_here.thing"})


def test_target_that_is_not_callable():
    with pytest.raises(AssertionError, match="does not define a callable object"):
        instantiate({"_target_": "os.sep"})


def test_type_errors_of_the_call_are_logged_and_passed_on(caplog):
    with (
        caplog.at_level(logging.ERROR, logger="detectron2.config.instantiate"),
        pytest.raises(TypeError, match="colour"),
    ):
        instantiate(LazyCall(Part)(size=1, colour=2))
    assert f"Error when instantiating {__name__}.Part!" in caplog.text
