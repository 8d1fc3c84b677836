"""The configurable decorator."""

import pytest
from detectron2.config import CfgNode, configurable
from omegaconf import DictConfig


class Simple:
    """from_config names no further arguments."""

    @configurable
    def __init__(self, a, b=2, c=3):
        """The doc of Simple."""
        self.values = (a, b, c)

    @classmethod
    def from_config(cls, cfg):
        return {"a": cfg.A, "b": cfg.B}


class Shaped(Simple):
    """from_config takes an argument that is passed on."""

    @configurable
    def __init__(self, shape, **kwargs):
        super().__init__(**kwargs)
        self.shape = shape

    @classmethod
    def from_config(cls, cfg, shape):
        return {"shape": shape * 2, **Simple.from_config(cfg)}


class Open(Simple):
    """from_config takes everything."""

    @classmethod
    def from_config(cls, cfg, **kwargs):
        return {"a": cfg.A, "b": len(kwargs)}


@pytest.fixture(params=[CfgNode, DictConfig])
def cfg(request):
    return request.param({"A": 10, "B": 20})


def test_explicit_arguments():
    assert Simple(1).values == (1, 2, 3)
    assert Simple(a=1, c=5).values == (1, 2, 5)
    assert Shaped("s", a=1).shape == "s"


def test_config_positional_and_by_keyword(cfg):
    assert Simple(cfg).values == (10, 20, 3)
    assert Simple(cfg=cfg).values == (10, 20, 3)


def test_keywords_override_the_config(cfg):
    assert Simple(cfg, b=7, c=8).values == (10, 7, 8)
    assert Simple(cfg=cfg, c=8).values == (10, 20, 8)


def test_arguments_of_from_config(cfg):
    shaped = Shaped(cfg, "x")
    assert (shaped.shape, shaped.values) == ("xx", (10, 20, 3))
    assert Shaped(cfg, shape="x", c=9).values == (10, 20, 9)


def test_from_config_with_variable_keywords_takes_all(cfg):
    assert Open(cfg, x=1, y=2).values == (10, 2, 3)


def test_surplus_arguments(cfg):
    with pytest.raises(TypeError):
        Simple(cfg, "positional")
    with pytest.raises(TypeError, match="unknown"):
        Simple(cfg, unknown=1)


def test_other_mappings_are_not_configs():
    assert Simple({"A": 1}).values == ({"A": 1}, 2, 3)


def test_dict_config_as_ordinary_argument_must_go_by_keyword():
    value = DictConfig({"A": 1, "B": 2})
    assert Simple(value).values == (1, 2, 3)  # the trap
    assert Simple(a=value).values == (value, 2, 3)


def test_signature_and_doc_are_kept():
    assert Simple.__init__.__doc__ == "The doc of Simple."
    assert Simple.__init__.__name__ == "__init__"


def test_missing_from_config():
    class Without:
        @configurable
        def __init__(self, a=1):
            pass

    with pytest.raises(AttributeError, match="must have a 'from_config' classmethod"):
        Without(a=1)


def test_from_config_must_be_a_classmethod():
    class Ordinary:
        @configurable
        def __init__(self, a=1):
            pass

        def from_config(self, cfg):
            return {}

    with pytest.raises(TypeError, match="must have a 'from_config' classmethod"):
        Ordinary(a=1)


def test_first_parameter_must_be_cfg(cfg):
    class Misnamed:
        @configurable
        def __init__(self, a=1):
            pass

        @classmethod
        def from_config(cls, config):
            return {}

    with pytest.raises(TypeError, match="must take 'cfg' as the first argument"):
        Misnamed(cfg)


def test_function(cfg):
    @configurable(from_config=lambda cfg, b: {"a": cfg.A, "b": b})
    def collect(a, b=2, c=3):
        return a, b, c

    assert collect(1) == (1, 2, 3)
    assert collect(cfg, b=5) == (10, 5, 3)
    assert collect(cfg, a=0, b=5, c=6) == (0, 5, 6)
    assert collect.from_config(cfg, 1) == {"a": 10, "b": 1}
    with pytest.raises(TypeError):
        collect(cfg)


def test_empty_parentheses(cfg):
    class Called:
        @configurable()
        def __init__(self, a):
            self.a = a

        @classmethod
        def from_config(cls, cfg):
            return {"a": cfg.A}

    assert Called(cfg).a == 10


@pytest.mark.standalone_only
def test_misuse_is_explained():
    with pytest.raises(TypeError, match="Incorrect use of @configurable"):

        @configurable
        def function(a):
            return a

    with pytest.raises(TypeError, match="must be a function"):
        configurable(from_config=Simple.from_config)


@pytest.mark.standalone_only
def test_dict_of_from_config_is_not_changed(cfg):
    shared = {"a": 1}

    @configurable(from_config=lambda cfg: shared)
    def collect(a, b=2):
        return a, b

    assert collect(cfg, b=3) == (1, 3)
    assert shared == {"a": 1}
