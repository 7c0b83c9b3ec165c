"""Log lines that clients cause: short, and so many in a second at most: nobody fills the log from outside."""

from __future__ import annotations

import logging
import time
from contextvars import ContextVar

LINES_PER_SECOND = 10
LINE_LENGTH = 400
# Characters of an entry with all its lines: its beginning and its end are kept.
ENTRY_LENGTH = 16_000

# The address of the client whose HTTP request is being handled.
peer: ContextVar[str] = ContextVar("bbio.peer", default="")


def one_line(text: str) -> str:
    """A text without what could begin a line of its own or hide one, cut to the length of a line."""
    text = text[:LINE_LENGTH]
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class RateLimitedLog:
    """Writes what clients cause to a log; what is too much is counted and told in one line.

    Parameters:
        logger: where the lines go.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._second = 0.0
        self._written = 0
        self._left_out = 0

    def info(self, text: str, *args: object) -> None:
        """Write what clients do."""
        self._write(logging.INFO, text, args)

    def warning(self, text: str, *args: object) -> None:
        """Write what clients meet that whoever runs the server may want to change."""
        self._write(logging.WARNING, text, args)

    def error(self, err: BaseException, text: str, *args: object, **extra: object) -> None:
        """Write an error that is not a client's fault, with its traceback: clients can cause it again and again.

        Parameters:
            err: the error.
            text: what has failed, with its arguments.
            extra: attributes of the record.
        """
        if self.admits(logging.ERROR):
            self._logger.error(text, *args, exc_info=err, extra=extra)

    def admits(self, level: int) -> bool:
        """Return whether one more line may be written now; else it is counted."""
        now = time.monotonic()
        if now - self._second >= 1.0:
            self._second, self._written = now, 0
            if self._left_out:
                self._logger.log(level, "%d more lines such as the next were left out", self._left_out)
                self._written, self._left_out = 1, 0
        if self._written >= LINES_PER_SECOND:
            self._left_out += 1
            return False
        self._written += 1
        return True

    def _write(self, level: int, text: str, args: tuple[object, ...]) -> None:
        if self.admits(level):
            self._logger.log(level, "%s", one_line(text % args))


class IndentingFormatter(logging.Formatter):
    """Indents all but the first line of what is logged: what a client has sent never looks like an entry of its own.

    An entry has `ENTRY_LENGTH` characters at most, its traceback too: of a longer one the middle is left out.

    Example:
        >>> record = logging.LogRecord("bbio", 30, "", 0, "no %s", ("milk\\nbbio ERROR forged",), None)
        >>> print(IndentingFormatter("%(name)s %(levelname)s %(message)s").format(record))
        bbio WARNING no milk
            bbio ERROR forged
    """

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        if len(text) > ENTRY_LENGTH:
            half = ENTRY_LENGTH // 2
            text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
        return "\n    ".join(text.splitlines())
