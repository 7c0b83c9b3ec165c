"""Log lines that clients cause: few in a second, and no tracebacks."""

import logging

import pytest
from aiohttp.http_exceptions import BadHttpMessage

from bbio.server import quiet
from bbio.server.quiet import LINES_PER_SECOND, NoHTTP, QuietLog


@pytest.fixture
def log(monkeypatch):
    """A quiet log, the lines written to it, and a way to let a second pass."""
    lines, now = [], [100.0]
    logger = logging.Logger("quiet")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    monkeypatch.setattr(quiet.time, "monotonic", lambda: now[0])

    def wait():
        now[0] += 1

    return QuietLog(logger), lines, wait


def test_so_many_lines_in_a_second(log):
    """What is more is counted, and told with the next line that is written."""
    written, lines, wait = log
    for n in range(25):
        written.info("line %d", n)
    assert lines == [f"line {n}" for n in range(LINES_PER_SECOND)]
    wait()
    written.info("later")
    assert lines[LINES_PER_SECOND:] == ["15 more lines about clients were left out", "later"]
    wait()
    written.info("still later")
    assert lines[-1] == "still later"


def test_requests_that_are_no_http_are_no_errors(log):
    """One short line without a traceback; other errors of the HTTP server stay what they are."""
    written, lines, _ = log
    quietened = NoHTTP(written)

    def record(err):
        info = None if err is None else (type(err), err, None)
        return logging.LogRecord("aiohttp", logging.ERROR, "", 0, "Error handling request", (), info)

    assert not quietened.filter(record(BadHttpMessage("bad " * 500)))
    assert lines[0].startswith("refused a request that is no HTTP: ")
    assert len(lines[0]) < 200
    assert quietened.filter(record(ValueError("x")))
    assert quietened.filter(record(None))
    assert len(lines) == 1
