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
        level: the logging level of successful syncs; failures are logged as warnings.
        user: whether the id of `req.user` is logged too.
        address: whether the client's address is logged too.

    Example:
        >>> from bbio import Backend
        >>> class Todos(Backend):
        ...     middleware = [Logger()]
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        level: int = logging.INFO,
        *,
        user: bool = False,
        address: bool = False,
    ) -> None:
        self._logger = logger or logging.getLogger("bbio.access")
        self._level = level
        self._user = user
        self._address = address

    @use(bulk=True)
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
        text = "backend=%s method=%s id=%.64r channel=%.64r duration=%.3fms outcome=%s"
        if self._user:
            fields["user"] = _user_id(req.user)
            text += " user=%.64r"
        if self._address:
            fields["address"] = None if req.socket is None else req.socket.remote
            text += " address=%.64r"
        self._logger.log(level, text, *fields.values(), extra=fields)


def _user_id(user: Any) -> Any:
    """Return the id of a user, and no other fact about them."""
    if isinstance(user, (str, int)):
        return user
    return user.get("id") if isinstance(user, dict) else getattr(user, "id", None)


def _model_id(req: Request, result: Any) -> Any:
    attribute = req.backend.id_attribute
    for model in (req.model, result):
        if isinstance(model, dict) and attribute in model:
            return model[attribute]
    return None
