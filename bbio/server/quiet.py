"""Log lines that clients cause: short, and so many in a second at most: nobody fills the log from outside."""

from __future__ import annotations

import logging
import time

from aiohttp.http_exceptions import HttpProcessingError

LINES_PER_SECOND = 10


class QuietLog:
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
        now = time.monotonic()
        if now - self._second >= 1.0:
            if self._left_out:
                self._logger.info("%d more lines about clients were left out", self._left_out)
            self._second, self._written, self._left_out = now, 0, 0
        if self._written >= LINES_PER_SECOND:
            self._left_out += 1
            return
        self._written += 1
        self._logger.info(text, *args)


class NoHTTP(logging.Filter):
    """Takes from aiohttp's log the tracebacks of requests that are no HTTP at all."""

    def __init__(self, quiet: QuietLog) -> None:
        super().__init__()
        self._quiet = quiet

    def filter(self, record: logging.LogRecord) -> bool:
        err = record.exc_info[1] if record.exc_info else None
        if isinstance(err, HttpProcessingError):
            self._quiet.info("refused a request that is no HTTP: %.80r", err.message)
            return False
        return True
