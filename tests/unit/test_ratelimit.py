"""Log lines that clients cause: few in a second, and no tracebacks."""

import logging
import sys

import pytest

from bbio import ratelimit
from bbio.ratelimit import ENTRY_LENGTH, LINE_LENGTH, LINES_PER_SECOND, IndentingFormatter, RateLimitedLog


@pytest.fixture
def log(monkeypatch):
    """A rate-limited log, the lines written to it, and a way to let a second pass."""
    lines, now = [], [100.0]
    logger = logging.Logger("limited")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    monkeypatch.setattr(ratelimit.time, "monotonic", lambda: now[0])

    def wait():
        now[0] += 1

    return RateLimitedLog(logger), lines, wait


def test_so_many_lines_in_a_second(log):
    """What is more is counted, and told with the next line that is written, as a line of its own."""
    written, lines, wait = log
    for n in range(25):
        written.info("line %d", n)
    assert lines == [f"line {n}" for n in range(LINES_PER_SECOND)]
    wait()
    written.info("later")
    assert lines[LINES_PER_SECOND:] == ["15 more lines such as the next were left out", "later"]
    for n in range(25):
        written.info("line %d", n)
    assert len(lines) == 2 * LINES_PER_SECOND
    wait()
    written.info("still later")
    assert lines[-2:] == ["17 more lines such as the next were left out", "still later"]
    wait()
    written.info("at last")
    assert lines[-2:] == ["still later", "at last"]


def test_one_line_stays_one_line(log):
    """Whatever a client sends, and whatever its length."""
    written, lines, _ = log
    written.info("refused %s", "a\nFAKE \x1b[31m\u2028" + "y" * 1_000)
    assert lines[0].startswith("refused a\\nFAKE \\x1b[31m\\u2028yyy")
    assert len(lines[0]) < LINE_LENGTH + 20


def test_what_should_be_seen_is_a_warning(log):
    """What whoever runs the server may want to change."""
    written, lines, _ = log
    written.warning("100 %% of %s", "it")
    assert lines == ["100 % of it"]


def test_errors_are_written_whole_but_not_all_of_them(log):
    """A traceback says where to look; a thousand of the same say no more."""
    written, lines, wait = log
    for n in range(LINES_PER_SECOND + 5):
        written.error(ValueError("x"), "work of %s failed [%d]", "192.0.2.1", n, correlation_id=n)
    assert lines == [f"work of 192.0.2.1 failed [{n}]" for n in range(LINES_PER_SECOND)]
    wait()
    assert written.admits(logging.INFO)
    assert lines[-1] == "5 more lines such as the next were left out"


def test_no_text_makes_a_second_entry():
    """Neither of a message nor of an error's text, whatever ends a line somewhere."""
    formatter = IndentingFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError("a\nERROR forged\r\nERROR forged\u2028ERROR forged")
    except ValueError:
        record = logging.LogRecord("bbio", logging.ERROR, "", 0, "%s", ("b\nERROR forged",), sys.exc_info())
    lines = formatter.format(record).splitlines()
    assert len(lines) > 5
    assert [line for line in lines if not line.startswith("    ")] == ["ERROR b"]


def test_an_entry_has_a_bounded_length():
    """However long a message or a traceback is: its beginning and its end are there."""
    formatter = IndentingFormatter("%(levelname)s %(message)s")
    try:
        raise ValueError("x" * 10_000_000 + " the end")
    except ValueError:
        record = logging.LogRecord("bbio", logging.ERROR, "", 0, "%s", ("failed",), sys.exc_info())
    entry = formatter.format(record)
    assert len(entry) < ENTRY_LENGTH + 1_000
    assert entry.startswith("ERROR failed")
    assert "characters left out" in entry
    assert entry.endswith("the end")
