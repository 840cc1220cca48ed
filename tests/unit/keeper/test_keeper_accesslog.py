"""The access log: one JSON object a line, whatever a request holds."""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
import threading
import types

import pytest
from gunicorn.config import Config

from sitekeeper.accesslog import PROBE_HEADER, JsonLogger, write
from sitekeeper.board import Board, Cell
from tests.polling import PATIENCE_SECONDS

TOOK = datetime.timedelta(seconds=1, microseconds=234_567)
SECRET = "of this master"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "access.log"


@pytest.fixture
def logger(path, monkeypatch):
    """Gunicorn's logger as the configuration sets it up, in a worker with a row on a board."""
    config = Config()
    config.set("accesslog", str(path))
    monkeypatch.setattr(JsonLogger, "probe_secret", SECRET)
    monkeypatch.setattr(JsonLogger, "release", "v1-0123")
    logger = JsonLogger(config)
    # Without pytest's own handler, which has no file.
    shared, logger.access_log = logger.access_log, logging.Logger("access")
    (ours,) = (handler for handler in shared.handlers if isinstance(handler, logging.FileHandler))
    logger.access_log.addHandler(ours)
    board = Board(1)
    logger.row = board.free_row()
    logger.row[Cell.PID] = os.getpid()
    logger.board = board
    yield logger
    shared.removeHandler(ours)
    ours.close()


def answer(status="200 OK", sent=2, headers_sent=True):
    return types.SimpleNamespace(status=status, sent=sent, headers_sent=headers_sent, headers=[])


def environ(**more):
    return {
        "REMOTE_ADDR": "127.0.0.1",
        "REQUEST_METHOD": "GET",
        "RAW_URI": "/a?b=c",
        "HTTP_USER_AGENT": "curl",
        "HTTP_X_REQUEST_ID": "ab12cd34",
        **more,
    }


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_says_everything_about_a_request(logger, path):
    before = datetime.datetime.now(datetime.timezone.utc)
    logger.access(answer(), None, environ(), TOOK)
    (line,) = lines(path)
    assert datetime.datetime.fromisoformat(line.pop("time")) - before < datetime.timedelta(seconds=5)
    assert line == {
        "remote": "127.0.0.1",
        "method": "GET",
        "path": "/a?b=c",
        "status": 200,
        "bytes": 2,
        "milliseconds": 1234.6,
        "agent": "curl",
        "request_id": "ab12cd34",
        "pid": os.getpid(),
        "release": "v1-0123",
    }


@pytest.mark.parametrize(
    ("peer", "forwarded", "remote"),
    [
        ("", "203.0.113.9", "203.0.113.9"),
        ("", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("", None, ""),
        ("192.0.2.7", "203.0.113.9", "192.0.2.7"),
    ],
)
def test_behind_the_front_the_visitor_is_whom_the_front_saw(logger, path, peer, forwarded, remote):
    more = {} if forwarded is None else {"HTTP_X_FORWARDED_FOR": forwarded}
    logger.access(answer(), None, environ(REMOTE_ADDR=peer, **more), TOOK)
    assert lines(path)[0]["remote"] == remote


@pytest.mark.parametrize("nasty", ["a\nb", 'a"b', "a\\", "\u2028", "\x00", "é", '{"a": 1}\r\n'])
def test_nothing_breaks_out_of_its_line(logger, path, nasty):
    logger.access(answer(), None, environ(RAW_URI=nasty, HTTP_USER_AGENT=nasty), TOOK)
    text = path.read_text()
    assert text.count("\n") == 1
    assert (json.loads(text)["path"], json.loads(text)["agent"]) == (nasty, nasty)


def test_the_watchdog_s_own_requests_are_no_visitors(logger, path):
    logger.access(answer(), None, environ(**{PROBE_HEADER: SECRET}), TOOK)
    assert path.read_text() == ""
    assert sum(logger.board.answers()) == 0


def test_who_only_guesses_the_probe_s_header_is_one(logger, path):
    logger.access(answer(), None, environ(**{PROBE_HEADER: "guess"}), TOOK)
    assert len(lines(path)) == 1


def test_without_a_secret_nobody_is_the_watchdog(logger, path, monkeypatch):
    monkeypatch.setattr(JsonLogger, "probe_secret", "")
    logger.access(answer(), None, environ(**{PROBE_HEADER: ""}), TOOK)
    assert len(lines(path)) == 1


def test_answers_are_counted_by_their_class(logger):
    for status in ("200 OK", "204 No Content", "404 Not Found", "500 Internal Server Error"):
        logger.access(answer(status), None, environ(), TOOK)
    assert logger.board.answers() == [0, 2, 0, 1, 1]


def test_an_app_that_never_says_a_status_is_seen_and_not_counted(logger, path):
    logger.access(answer(None), None, environ(), TOOK)
    assert lines(path)[0]["status"] == 0
    assert sum(logger.board.answers()) == 0


def failed_with(error, logger, *words):
    """Log a request while its exception is on its way, as Gunicorn does."""
    try:
        raise error
    except type(error):
        logger.access(*words, TOOK)


@pytest.mark.parametrize(
    ("status", "sent", "error", "logged"),
    [
        pytest.param(None, False, RuntimeError("x"), False, id="failed before it had a status"),
        pytest.param("200 OK", False, RuntimeError("x"), False, id="failed before it sent anything"),
        pytest.param(None, False, ConnectionResetError(104, "x"), False, id="its database went away"),
        pytest.param("200 OK", False, FileNotFoundError(2, "x"), False, id="its file was missing"),
        pytest.param("200 OK", True, RuntimeError("x"), True, id="failed in the middle"),
        pytest.param("200 OK", False, BrokenPipeError(32, "x"), True, id="the visitor went away"),
    ],
)
def test_a_request_that_the_worker_will_answer_is_logged_with_that_answer(logger, path, status, sent, error, logged):
    failed_with(error, logger, answer(status, headers_sent=sent), None, environ())
    assert len(lines(path)) == int(logged)
    assert sum(logger.board.answers()) == int(logged)


def test_a_visitor_s_mistake_is_logged(logger, path):
    bare = {name: value for name, value in environ().items() if not name.startswith("HTTP_")}
    failed_with(ValueError("no header"), logger, answer("400 Bad Request", headers_sent=False), None, bare)
    assert lines(path)[0]["status"] == 400


def test_lines_of_many_threads_stay_whole(logger, path):
    def work():
        for _ in range(100):
            logger.access(answer(), None, environ(HTTP_USER_AGENT="x" * 5000), TOOK)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(path)) == 400
    assert logger.board.answers()[1] == 400


def test_a_line_is_written_in_one_piece():
    # Each write is a message of its own here. In a file, another worker's could come between two.
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ours, theirs:
        write(logging.StreamHandler(ours), "a line")
        theirs.setblocking(False)
        assert theirs.recv(100) == b"a line\n"
        with pytest.raises(BlockingIOError):
            theirs.recv(100)


def test_after_a_rotation_the_new_file_is_written(logger, path):
    logger.access(answer(), None, environ(RAW_URI="/old"), TOOK)
    path.rename(path.with_suffix(".1"))
    logger.reopen_files()
    logger.access(answer(), None, environ(RAW_URI="/new"), TOOK)
    assert [line["path"] for line in lines(path)] == ["/new"]


def test_a_full_disk_fails_no_request(monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with open("/dev/full", "w") as full:  # noqa: PTH123
        write(logging.StreamHandler(full), "lost")


def test_a_handler_without_a_file_is_left_alone():
    write(logging.NullHandler(), "nowhere")


def test_a_line_waits_while_the_file_is_opened_anew(logger, path):
    # What Gunicorn does after a rotation: under the handler's lock the stream is closed, is None, and is opened.
    (handler,) = logger.access_log.handlers
    writer = threading.Thread(target=logger.access, args=(answer(), None, environ(), TOOK))
    handler.acquire()
    try:
        handler.close()
        assert handler.stream is None
        writer.start()
        writer.join(0.3)
        assert writer.is_alive(), "it waits"
        handler.stream = handler._open()
    finally:
        handler.release()
    writer.join(PATIENCE_SECONDS)
    assert len(lines(path)) == 1
