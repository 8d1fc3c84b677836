"""Logger set-up, throttled messages, tables."""

import logging
import uuid

import pytest
from detectron2.utils import logger as logger_module
from detectron2.utils.logger import (
    create_small_table,
    log_every_n,
    log_every_n_seconds,
    log_first_n,
    setup_logger,
)


@pytest.fixture
def name():
    """The name of a logger nobody has used; its handlers are removed afterwards."""
    name = f"logger{uuid.uuid4().hex}"
    yield name
    logging.getLogger(name).handlers.clear()


@pytest.fixture
def messages(caplog):
    """A function that gives the (logger name, message) of what was logged in the test."""
    caplog.set_level(logging.DEBUG)
    return lambda: [(record.name, record.getMessage()) for record in caplog.records]


def test_file_and_stdout(name, tmp_path, capsys):
    logger = setup_logger(str(tmp_path / "new"), name=name, color=False)
    assert logger is logging.getLogger(name)
    assert logger.level == logging.DEBUG
    assert not logger.propagate
    logging.getLogger(f"{name}.part").warning("careful")
    text = (tmp_path / "new/log.txt").read_text()
    assert f"{name}.part WARNING: careful" in text
    assert capsys.readouterr().out == text


def test_second_identical_call_adds_nothing(name, tmp_path):
    setup_logger(str(tmp_path), name=name)
    setup_logger(str(tmp_path), name=name)
    logging.getLogger(name).info("once")
    assert (tmp_path / "log.txt").read_text().count("once") == 1


def test_two_loggers_share_a_file(name, tmp_path, capsys):
    file = tmp_path / "both.log"
    setup_logger(str(file), name=name + ".a", configure_stdout=False).info("first")
    setup_logger(str(file), name=name + ".b", configure_stdout=False).info("second")
    assert [line.split(": ")[-1] for line in file.read_text().splitlines()] == ["first", "second"]
    assert capsys.readouterr().out == ""


def test_other_ranks_write_only_their_file(name, tmp_path, capsys):
    setup_logger(str(tmp_path), 2, name=name).info("from rank 2")
    assert "from rank 2" in (tmp_path / "log.txt.rank2").read_text()
    assert not (tmp_path / "log.txt").exists()
    assert capsys.readouterr().out == ""


def test_abbreviation_in_coloured_output(name, capsys, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    setup_logger(name=name, abbrev_name="short")
    logging.getLogger(f"{name}.part").info("one")
    logging.getLogger(f"{name}.part").error("two")
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("short.part]: one")
    assert second.startswith("ERROR")
    assert second.endswith("short.part]: two")


@pytest.mark.standalone_only
def test_abbreviation_does_not_reach_other_handlers(name, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    setup_logger(str(tmp_path), name=name, abbrev_name="")
    logging.getLogger(f"{name}.part").info("text")
    assert capsys.readouterr().out.rstrip().endswith(" part]: text")
    assert f"{name}.part INFO: text" in (tmp_path / "log.txt").read_text()


def test_propagation(name, messages):
    setup_logger(name=name, enable_propagation=True, configure_stdout=False).info("heard")
    setup_logger(name=name + "2", configure_stdout=False).info("not heard")
    assert messages() == [(name, "heard")]


def test_log_first_n_by_caller(messages):
    for k in range(4):
        log_first_n(logging.INFO, f"message {k}", n=2)
    log_first_n(logging.INFO, "elsewhere", n=2)
    assert messages() == [(__name__, x) for x in ("message 0", "message 1", "elsewhere")]


def test_log_first_n_by_message(messages):
    log_first_n(logging.INFO, "same text of this test", key="message", name="chosen")
    log_first_n(logging.INFO, "same text of this test", key="message", name="chosen")
    assert messages() == [("chosen", "same text of this test")]


def test_log_first_n_by_both(messages):
    for text in ("a", "b", "a"):
        log_first_n(logging.INFO, text, key=("caller", "message"))
    log_first_n(logging.INFO, "a", key=("caller", "message"))
    assert messages() == [(__name__, x) for x in ("a", "b", "a")]


@pytest.mark.standalone_only
@pytest.mark.parametrize("key", ["line", (), ("caller", "x")])
def test_log_first_n_with_unknown_key(key):
    with pytest.raises(ValueError, match="key must be 'caller', 'message' or both"):
        log_first_n(logging.INFO, "x", key=key)


def test_log_every_n(messages):
    for k in range(7):
        log_every_n(logging.WARNING, f"{k}", n=3)
    assert messages() == [(__name__, x) for x in ("0", "3", "6")]


def test_log_every_n_seconds(messages, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(logger_module.time, "time", lambda: now[0])
    monkeypatch.setattr(logger_module.time, "monotonic", lambda: now[0])
    for now[0] in (100.0, 101.0, 104.0, 105.5, 110.5):
        log_every_n_seconds(logging.INFO, f"{now[0]}", n=5)
    assert messages() == [(__name__, x) for x in ("100.0", "105.5", "110.5")]


def test_create_small_table():
    assert create_small_table({"AP": 12.34567, "name": "x"}).splitlines() == [
        "|   AP   |  name  |",
        "|:------:|:------:|",
        "| 12.346 |   x    |",
    ]


@pytest.mark.standalone_only
def test_create_small_table_of_nothing():
    assert create_small_table({}) == ""
