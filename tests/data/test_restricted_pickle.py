"""Only arrays and containers come out of a pickle; everything else is refused by name."""

import collections
import pickle
from pathlib import Path

import numpy as np
import pytest

from roca_nocs.data.restricted_pickle import load_restricted_pickle

CONTENT = {
    "array": np.arange(12, dtype=np.float32).reshape(3, 4),
    "fortran": np.asfortranarray(np.eye(3)),
    "scalar": np.float64(2.5),
    "text": np.array(["chair", "table"]),
    "nested": [(1, "x"), {"k": None}, {3, 4}, frozenset({5}), b"bytes", 1.5, True],
    "ordered": collections.OrderedDict(a=1),
}


class Evil:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments) -> None:
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_reads_arrays_and_containers_of_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "content.pkl"
    path.write_bytes(pickle.dumps(CONTENT, protocol=protocol))
    read = load_restricted_pickle(path)
    assert list(read) == list(CONTENT)
    for name in ("array", "fortran", "scalar", "text"):
        np.testing.assert_array_equal(read[name], CONTENT[name])
        assert np.asarray(read[name]).dtype == np.asarray(CONTENT[name]).dtype
    assert read["nested"] == CONTENT["nested"]
    assert read["ordered"] == CONTENT["ordered"]


def test_reads_the_module_names_of_numpy_1(tmp_path: Path) -> None:
    path = tmp_path / "old.pkl"
    content = pickle.dumps(np.arange(3), protocol=2)
    assert b"numpy._core" in content
    path.write_bytes(content.replace(b"numpy._core", b"numpy.core"))
    np.testing.assert_array_equal(load_restricted_pickle(path), [0, 1, 2])


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (Evil(eval, "1 + 1"), "eval"),
        (Evil(Path, "x"), "Path"),
        (Evil(getattr, "x", "upper"), "getattr"),
        ([np.arange(2), {"deep": Evil(print, "run")}], "print"),
        (np.load, "numpy.load"),
    ],
)
@pytest.mark.parametrize("protocol", [2, 5])
def test_refuses_other_globals_and_names_file_and_global(
    tmp_path: Path, capsys: pytest.CaptureFixture, value: object, name: str, protocol: int
) -> None:
    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps(value, protocol=protocol))
    with pytest.raises(pickle.UnpicklingError, match="refused the global") as error:
        load_restricted_pickle(path)
    assert str(path) in str(error.value) and name in str(error.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps(CONTENT)[:-40]])
def test_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "damaged.pkl"
    path.write_bytes(content)
    with pytest.raises(pickle.UnpicklingError, match=r"damaged\.pkl"):
        load_restricted_pickle(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pkl"):
        load_restricted_pickle(tmp_path / "none.pkl")
