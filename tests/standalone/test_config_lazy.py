"""LazyConfig: load, save, override, print."""

import ast
import builtins
import itertools
import pickle
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest
from detectron2.config import LazyCall, LazyConfig, instantiate
from detectron2.layers import ShapeSpec
from detectron2.utils.testing import reload_lazy_config
from hydra.errors import OverrideParseException
from omegaconf import DictConfig, OmegaConf

MODELS = """\
from itertools import count
from detectron2.config import LazyCall as L
from .common.base import base, name as base_name
base.a = "changed"
from .common.again import seen
counter = L(count)(start=1, step=base.b)
text = base_name
_private = {"hidden": 1}
numbers = [1, 2]
"""


@pytest.fixture
def config_dir(tmp_path: Path) -> Path:
    """A folder of config files that import one another; there is no __init__.py in it."""
    (tmp_path / "common").mkdir()
    (tmp_path / "model.py").write_text(MODELS)
    (tmp_path / "common/base.py").write_text(
        'name = "base"\nbase = {"a": 1, "b": {"c": 2}.get("c")}'
    )
    (tmp_path / "common/again.py").write_text(
        'from .base import base\nfrom ..top import top\nseen = {"a": base.a, "top": top.t}'
    )
    (tmp_path / "top.py").write_text('top = dict(t="top of the tree")')
    return tmp_path


def write(folder: Path, text: str, name: str = "config.py") -> str:
    (folder / name).write_text(text)
    return str(folder / name)


# ---- load: python files


def test_load_keeps_only_public_configs(config_dir):
    cfg = LazyConfig.load(str(config_dir / "model.py"))
    assert isinstance(cfg, DictConfig)
    assert set(cfg) == {"base", "seen", "counter"}
    assert cfg.counter._target_ is itertools.count
    assert next(instantiate(cfg.counter)) == 1


def test_relative_imports_execute_the_file_anew(config_dir):
    cfg = LazyConfig.load(str(config_dir / "model.py"))
    assert cfg.base.a == "changed"
    assert cfg.seen == {"a": 1, "top": "top of the tree"}
    cfg.base.a = "changed again"
    assert LazyConfig.load(str(config_dir / "model.py")).base.a == "changed"


def test_imported_dicts_are_configs_inside_the_file(config_dir):
    file = write(config_dir, "from .common.base import base\nkind = {'k': type(base).__name__}")
    assert LazyConfig.load(file).kind.k == "DictConfig"


def test_relative_file_name(config_dir, monkeypatch):
    monkeypatch.chdir(config_dir)
    assert LazyConfig.load("model.py", "seen").top == "top of the tree"


@pytest.mark.standalone_only
def test_import_from_above_the_working_directory(config_dir, monkeypatch):
    monkeypatch.chdir(config_dir / "common")
    assert LazyConfig.load("again.py", "seen").top == "top of the tree"


def test_load_selected_keys(config_dir):
    file = str(config_dir / "model.py")
    assert LazyConfig.load(file, "text") == "base"
    base, numbers = LazyConfig.load(file, ("base", "numbers"))
    assert isinstance(base, DictConfig)
    assert numbers == [1, 2]
    assert LazyConfig.load(file, "_private").hidden == 1
    with pytest.raises(KeyError, match="nothing"):
        LazyConfig.load(file, "nothing")


def test_file_is_known_inside_the_config(tmp_path):
    file = write(tmp_path, "where = {'file': __file__}")
    assert LazyConfig.load(file).where.file == file


def test_load_rel_goes_from_the_calling_file(config_dir):
    text = "from detectron2.config import LazyConfig as C\nx = C.load_rel('common/base.py', 'base')"
    assert LazyConfig.load(write(config_dir, text)).x.a == 1


def test_absolute_imports_are_ordinary(tmp_path):
    file = write(
        tmp_path, "import os.path\nimport json as j\nx = {'s': os.path.sep, 'd': j.dumps(1)}"
    )
    assert LazyConfig.load(file).x == {"s": "/", "d": "1"}


@pytest.mark.parametrize("name", ["config.json", "config", "config.pyc"])
def test_suffix_must_be_known(tmp_path, name):
    with pytest.raises(ValueError, match=r"has to be a python or yaml file"):
        LazyConfig.load(str(tmp_path / name))


def test_syntax_error_names_the_file(tmp_path):
    with pytest.raises(SyntaxError, match=r"broken\.py"):
        LazyConfig.load(write(tmp_path, "x = = 1", "broken.py"))


@pytest.mark.parametrize("statement", ["from . import common", "from .common import base"])
def test_import_of_directories(config_dir, statement):
    with pytest.raises(ImportError, match="elative import of directories is not allowed within"):
        LazyConfig.load(write(config_dir, statement))


def test_import_of_missing_file(config_dir):
    with pytest.raises(ImportError, match="does not exist"):
        LazyConfig.load(write(config_dir, "from .common.absent import x"))


def test_import_is_restored_after_loading(config_dir):
    original = builtins.__import__
    LazyConfig.load(str(config_dir / "model.py"))
    assert builtins.__import__ is original


@pytest.mark.standalone_only
@pytest.mark.parametrize("text", ["1 / 0", "from .absent import x", "from . import x"])
def test_import_is_untouched_by_a_failing_config(tmp_path, text):
    original = builtins.__import__
    with pytest.raises((ZeroDivisionError, ImportError)):
        LazyConfig.load(write(tmp_path, text))
    assert builtins.__import__ is original


@pytest.mark.standalone_only
def test_other_threads_import_as_usual_while_a_config_loads(tmp_path):
    seen = []
    text = "import sys\nsys.modules['__main__']._probe()\nx = {}"
    import __main__

    def probe():
        thread = threading.Thread(target=lambda: seen.append(builtins.__import__))
        thread.start()
        thread.join()

    original = builtins.__import__
    __main__._probe = probe
    try:
        LazyConfig.load(write(tmp_path, text))
    finally:
        del __main__._probe
    assert seen == [original]


@pytest.mark.standalone_only
def test_star_import_and_missing_name(config_dir):
    file = write(config_dir, "from .common.base import *\nseen = {'a': base.a, 'n': name}")
    assert LazyConfig.load(file).seen == {"a": 1, "n": "base"}
    with pytest.raises(ImportError, match="cannot import name 'other'"):
        LazyConfig.load(write(config_dir, "from .common.base import other"))


# ---- yaml


def test_load_yaml_with_keys(tmp_path):
    file = write(tmp_path, "a: {b: [1, 2]}\nc: 3\n", "config.yml")
    assert LazyConfig.load(file) == {"a": {"b": [1, 2]}, "c": 3}
    assert LazyConfig.load(file, "c") == 3
    assert LazyConfig.load(file, ("a", "c")) == ({"b": [1, 2]}, 3)


YAML_WITH_OBJECT = """\
_target_: builtins.dict
model:
  _target_: detectron2.layers.ShapeSpec
  channels: 8
spec: !!python/object:detectron2.layers.shape_spec.ShapeSpec {channels: 3, height: null,
  stride: null, width: 7}
steps: '${model.channels}'
"""


def test_load_yaml_with_a_shape_spec(tmp_path):
    cfg = LazyConfig.load(write(tmp_path, YAML_WITH_OBJECT, "config.yaml"))
    assert instantiate(cfg) == {
        "model": ShapeSpec(channels=8),
        "spec": ShapeSpec(channels=3, width=7),
        "steps": 8,
    }


def test_saved_text(tmp_path):
    cfg = DictConfig(
        {
            "call": LazyCall(itertools.count)(start="${n}", step=[1, 2.5]),
            "n": None,
            "spec": ShapeSpec(channels=3),
            "text": "größe",
        },
        flags={"allow_objects": True},
    )
    LazyConfig.save(cfg, str(tmp_path / "out.yaml"))
    assert (tmp_path / "out.yaml").read_text() == (
        "call:\n"
        "  _target_: itertools.count\n"
        "  start: ${n}\n"
        "  step: [1, 2.5]\n"
        "n: null\n"
        "spec: !!python/object:detectron2.layers.shape_spec.ShapeSpec {channels: 3, height: null, "
        "stride: null, width: null}\n"
        "text: größe\n"
    )
    assert not (tmp_path / "out.yaml.pkl").exists()
    assert cfg.call._target_ is itertools.count  # the argument was not changed


def test_saved_target_is_the_shortest_path(tmp_path):
    cfg = LazyCall(instantiate)(cfg=3)
    assert reload_lazy_config(cfg)._target_ == "detectron2.config.instantiate"


def test_round_trip(config_dir):
    cfg = LazyConfig.load(str(config_dir / "model.py"))
    again = reload_lazy_config(cfg)
    assert again.counter._target_ == "itertools.count"
    again.counter._target_ = itertools.count
    assert again == cfg


def test_round_trip_of_a_dataclass_value():
    cfg = reload_lazy_config(LazyCall(dict_of)(spec=ShapeSpec(channels=1, width=3)))
    assert instantiate(cfg) == {"spec": ShapeSpec(channels=1, width=3)}


def dict_of(**kwargs):
    """A function, because ``dict`` cannot be a target."""
    return kwargs


def test_lambda_is_saved_as_a_pickle(tmp_path, caplog):
    cfg = DictConfig({"f": lambda x: x + 1, "n": 2}, flags={"allow_objects": True})
    LazyConfig.save(cfg, str(tmp_path / "out.yaml"))
    assert "n: 2" in (tmp_path / "out.yaml").read_text()
    with (tmp_path / "out.yaml.pkl").open("rb") as file:
        again = pickle.load(file)
    assert again.f(1) == 2
    assert "cannot be loaded" in caplog.text


def test_save_does_not_raise(tmp_path, caplog):
    LazyConfig.save(DictConfig({"a": 1}), str(tmp_path / "no_such_folder" / "out.yaml"))
    assert "Unable to serialize the config to yaml" in caplog.text


@pytest.mark.standalone_only
def test_target_without_a_path_is_saved_as_a_pickle(tmp_path):
    offset = 5

    def local(x):
        return x + offset

    LazyConfig.save(LazyCall(local)(x=1), str(tmp_path / "out.yaml"))
    with (tmp_path / "out.yaml.pkl").open("rb") as file:
        assert instantiate(pickle.load(file)) == 6


@pytest.mark.standalone_only
def test_unresolvable_interpolation_is_saved(tmp_path):
    cfg = DictConfig({"a": "${missing}", "b": {"_target_": dict_of}}, flags={"allow_objects": True})
    LazyConfig.save(cfg, str(tmp_path / "out.yaml"))
    assert "a: ${missing}" in (tmp_path / "out.yaml").read_text()
    assert not (tmp_path / "out.yaml.pkl").exists()


# ---- overrides


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("a.b=3", "a.b", 3),
        ("new.x.y=hi", "new.x.y", "hi"),
        ("l=[3,4]", "l", [3, 4]),
        ("l.0=9", "l", [9, 2]),
        ("a.z=null", "a.z", None),
        ("a.s='q q'", "a.s", "q q"),
        ('a.s="123"', "a.s", "123"),
        ("++a.t=1.5", "a.t", 1.5),
        ("a={c: true}", "a", {"b": 1, "c": True}),
    ],
)
def test_override(override, key, expected):
    cfg = OmegaConf.create({"a": {"b": 1}, "l": [1, 2]})
    assert LazyConfig.apply_overrides(cfg, [override]) is cfg
    assert OmegaConf.select(cfg, key) == expected


def test_overrides_below_a_value():
    cfg = OmegaConf.create({"a": {"b": 1}})
    with pytest.raises(KeyError, match=r"a\.b is not a config, but has type .*int"):
        LazyConfig.apply_overrides(cfg, ["a.b.c=1"])


def test_override_errors():
    cfg = OmegaConf.create({"a": 1})
    with pytest.raises(NotImplementedError, match="deletion"):
        LazyConfig.apply_overrides(cfg, ["~a"])
    with pytest.raises(OverrideParseException):
        LazyConfig.apply_overrides(cfg, ["a"])
    assert LazyConfig.apply_overrides(cfg, []) == {"a": 1}


def test_overridden_call_is_instantiated():
    cfg = DictConfig({"call": LazyCall(dict_of)(a=1)}, flags={"allow_objects": True})
    LazyConfig.apply_overrides(cfg, ["call.b=2"])
    assert instantiate(cfg.call) == {"a": 1, "b": 2}


@pytest.mark.standalone_only
def test_sweeps_are_refused_and_nothing_is_changed():
    cfg = OmegaConf.create({"a": 1, "b": 1})
    with pytest.raises(NotImplementedError, match="sweep"):
        LazyConfig.apply_overrides(cfg, ["b=2", "a=1,2"])
    assert cfg == {"a": 1, "b": 1}


# ---- to_py


def test_to_py():
    cfg = DictConfig(
        {
            "d": {"b": 2, "a": "x"},
            "call": LazyCall(itertools.count)(start={"k": 1}, step=LazyCall(Counter)(z="${d.b}")),
            "items": ["a", 1, 3.5],
        },
        flags={"allow_objects": True},
    )
    expected = (
        'cfg.call = itertools.count(start={"k": 1}, step=collections.Counter(z=2))\n'
        'cfg.d.a = "x"\n'
        "cfg.d.b = 2\n"
        'cfg.items = ["a", 1, 3.5]\n'
    )
    # The layout depends on whether black is installed.
    assert ast.dump(ast.parse(LazyConfig.to_py(cfg))) == ast.dump(ast.parse(expected))
    assert LazyConfig.to_py(cfg, prefix="c.").startswith("c.call = ")


@pytest.mark.standalone_only
def test_to_py_accepts_string_targets():
    cfg = OmegaConf.create({"call": {"_target_": "collections.Counter", "a": 1}, "empty": {}})
    assert LazyConfig.to_py(cfg) == "cfg.call = collections.Counter(a=1)\ncfg.empty = {}\n"


@pytest.mark.standalone_only
def test_to_py_renders_functions_and_whole_calls_by_name():
    assert LazyConfig.to_py(LazyCall(itertools.count)(start=len)) == (
        "cfg = itertools.count(start=builtins.len)\n"
    )


@pytest.mark.standalone_only
def test_to_py_without_black(monkeypatch):
    monkeypatch.setitem(sys.modules, "black", None)
    assert LazyConfig.to_py(OmegaConf.create({"a": "x"})) == "cfg.a = 'x'\n"
