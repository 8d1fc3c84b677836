"""Registry, locate, and its inverse."""

import builtins
import collections
import sys

import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.utils.registry import Registry, _convert_target_to_string, locate


class Outer:
    class Inner:
        @classmethod
        def build(cls):
            return cls()

        @staticmethod
        def helper():
            return 1


def test_registry():
    registry = Registry("THINGS")

    @registry.register()
    class First:
        pass

    def second():
        pass

    registry.register(second)
    assert registry.get("First") is First
    assert registry.get("second") is second
    assert "First" in registry
    assert "third" not in registry
    assert dict(registry) == {"First": First, "second": second}
    with pytest.raises(AssertionError, match="already registered"):
        registry.register(second)
    with pytest.raises(KeyError, match="No object named 'third' found in 'THINGS' registry!"):
        registry.get("third")


@pytest.mark.parametrize(
    "target",
    [
        collections.OrderedDict,
        len,
        dict,
        torch.nn.Conv2d,
        torch.optim.SGD,
        torch.optim.lr_scheduler.StepLR,
        Outer,
        Outer.Inner,
        Outer.Inner.helper,
        instantiate,
        LazyConfig.load,
    ],
)
def test_name_and_back(target):
    assert locate(_convert_target_to_string(target)) is target


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (instantiate, "detectron2.config.instantiate"),
        (LazyConfig, "detectron2.config.LazyConfig"),
        (LazyConfig.load, "detectron2.config.LazyConfig.load"),
        (len, "builtins.len"),
        (collections.Counter, "collections.Counter"),
    ],
)
def test_shortest_name(target, name):
    assert _convert_target_to_string(target) == name


def test_names_that_nobody_uses_as_qualname():
    assert locate("torch.optim.sgd.SGD") is torch.optim.SGD
    assert locate("os.path") is sys.modules["os.path"]
    assert locate("builtins.len") is len
    assert locate("len") is len


@pytest.mark.parametrize(
    "name",
    [
        "no_such_module_here",
        "no_such_module_here.x.y",
        "collections.NoSuchClass",
        "collections.Counter.absent",
        f"{__name__}.Outer.Absent",
    ],
)
def test_unknown_name(name):
    with pytest.raises(ImportError, match=name.split(".")[-1]):
        locate(name)


@pytest.mark.standalone_only
@pytest.mark.parametrize("name", ["", ".", "a..b", "1x.y", "collections."])
def test_malformed_name(name):
    with pytest.raises(ImportError, match="Cannot locate object"):
        locate(name)


@pytest.mark.standalone_only
def test_module_hidden_by_a_function_of_its_name():
    assert locate("detectron2.config.instantiate") is instantiate
    assert locate("detectron2.config.instantiate.instantiate") is instantiate


@pytest.mark.standalone_only
def test_broken_module_says_what_it_needs(tmp_path, monkeypatch):
    (tmp_path / "half_broken.py").write_text("import not_installed_at_all\nx = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"'half_broken' needs the module 'not_installed_at_all'"):
        locate("half_broken.x")


@pytest.mark.standalone_only
def test_class_methods_are_found_again():
    name = _convert_target_to_string(Outer.Inner.build)
    assert name == f"{__name__}.Outer.Inner.build"
    assert locate(name)().__class__ is Outer.Inner


def test_objects_without_a_name():
    with pytest.raises(AttributeError):
        _convert_target_to_string(object())
    assert not hasattr(builtins, "Outer")
