"""Scopes of requests: which records a client may have, as `@visible` says, and what of an answer is left to it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from msgspec import UNSET

from bbio.errors import StackError, SyncError, Unavailable
from bbio.identity import principal
from bbio.model.schema import Schema
from bbio.protocol import decode, encode
from bbio.ratelimit import RateLimitedLog
from bbio.requests import Found, Request
from bbio.stack.stack import Answer, Layer, Run
from bbio.view import NO_SCOPE, Filter, Scope, missing

logger = logging.getLogger("bbio")
scope_failures = RateLimitedLog(logger)


class Scopes:
    """The layers of `@visible` of one backend; it has none where everybody may have all records.

    Parameters:
        layers: the layers.
        schema: the schema of the models; None if they may be any JSON object.
        id_attribute: the name of the id in a model.
        names_viewers: whether a scope says whose it is.
    """

    __slots__ = ("_id_attribute", "_names_viewers", "_schema", "layers")

    def __init__(
        self,
        layers: Sequence[Layer] = (),
        schema: Schema | None = None,
        id_attribute: str = "id",
        names_viewers: bool = False,
    ) -> None:
        self.layers = layers
        self._schema = schema
        self._id_attribute = id_attribute
        self._names_viewers = names_viewers

    async def enter(self, req: Request) -> None:
        """Say in a request which records its client may have: as it was said when it began to listen, else anew."""
        if req.is_for_client:
            known = None if req.event == "listen" else getattr(req.socket, "scopes", {}).get(req.channel)
            req.scope = await self._ask(req) if known is None else known

    async def _ask(self, req: Request) -> Scope:
        said = []
        viewer = None
        if self._names_viewers and req.user is not None:
            with suppress(StackError):  # who has no id is in no record
                viewer = principal(req.user)
        for layer in self.layers:
            has_answered = False
            try:
                answer = layer.call(req)
                if layer.is_async or hasattr(answer, "__await__"):
                    answer = await answer
                has_answered = True
                said.append((Filter.read(answer, self._schema, self._id_attribute), layer.may_leave))
            except Exception as err:
                if isinstance(err, SyncError) and not has_answered:
                    raise  # it refuses, or cannot tell at the moment, as any layer may
                scope_failures.error(
                    err, "%s (%s) failed to say what a client may see: it sees nothing", layer.name, layer.where
                )
                return NO_SCOPE._replace(viewer=viewer)
        return Scope.of(said)._replace(viewer=viewer)

    def judge(self, req: Request, res: Run) -> None:
        """Leave in what layers have answered the records that the client may have; a store has looked at its own."""
        if req.scope is None:
            return
        # As it is by now: permissions may have changed since the request began.
        scope: Scope = getattr(req.socket, "scopes", {}).get(req.channel, req.scope)
        if isinstance(res.failure, SyncError):
            current = res.failure.values.get("current")
            if isinstance(current, dict) and not scope.sees(current):
                res.failure.values = {name: value for name, value in res.failure.values.items() if name != "current"}
        elif req.method == "read" and scope.records != req.scope.records:
            res.failure = Unavailable("permissions have changed while this was read; read it again", retry_after=0.0)
            res.result = res.body = None
        elif req.method == "read" and res.found is None:
            if isinstance(res.result, list):
                res.result = [record for record in res.result if self._sees(scope, record)]
            elif not self._sees(scope, res.result):
                res.failure, res.result = missing(self._id_attribute, req.id), None

    @staticmethod
    def _sees(scope: Scope, record: Any) -> bool:
        written = decode(encode(record))
        return not isinstance(written, dict) or scope.sees(written)


async def read_within_scope(read: Answer, req: Request) -> Any:
    """A store's `read`; who asks for everything and may not have it is told of no pages."""
    found = await read(req)
    if isinstance(found, Found) and req.options.get("data") is None:
        found.next = UNSET
    return found
