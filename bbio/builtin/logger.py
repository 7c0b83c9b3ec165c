"""Logger: one line per sync."""

from __future__ import annotations

import logging
import time
from typing import Any

from bbio import Middleware, Request, SyncError, use
from bbio.requests import Next


class Logger(Middleware):
    """Logs every sync on `bbio.access`: backend, method, id, channel, duration in milliseconds, outcome.

    The same values are attributes of the log record, for structured logs.

    Parameters:
        logger: where to log, `bbio.access` by default.
        level: the level of successful syncs; failures are logged as warnings.

    Example:
        >>> from bbio import Backend
        >>> class Todos(Backend):
        ...     middleware = [Logger()]
    """

    def __init__(self, logger: logging.Logger | None = None, level: int = logging.INFO) -> None:
        self._logger = logger or logging.getLogger("bbio.access")
        self._level = level

    @use
    async def log(self, req: Request, next: Next) -> Any:
        begun = time.perf_counter()
        outcome = "cancelled"
        result: Any = None
        try:
            result = await next()
            outcome = "ok"
            return result
        except SyncError as err:
            outcome = type(err).__name__
            raise
        except Exception:
            outcome = "InternalError"
            raise
        finally:
            self._write(req, result, (time.perf_counter() - begun) * 1_000, outcome)

    def _write(self, req: Request, result: Any, duration: float, outcome: str) -> None:
        level = self._level if outcome == "ok" else logging.WARNING
        if not self._logger.isEnabledFor(level):
            return
        fields = {
            "backend": req.backend.name,
            "sync_method": req.method,
            "model_id": _model_id(req, result),
            "channel": req.channel,
            "duration_ms": round(duration, 3),
            "outcome": outcome,
        }
        self._logger.log(
            level,
            "backend=%s method=%s id=%.64r channel=%.64r duration=%.3fms outcome=%s",
            *fields.values(),
            extra=fields,
        )


def _model_id(req: Request, result: Any) -> Any:
    attribute = req.backend.id_attribute
    for model in (req.model, result):
        if isinstance(model, dict) and attribute in model:
            return model[attribute]
    return None
