"""Channels with rules: which channels a backend has, and whom `@channel` lets into each."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from bbio.decorators import check_overlaps
from bbio.errors import Forbidden, StackError
from bbio.requests import Request
from bbio.stack.stack import Layer


class ChannelRules:
    """The layers of `@channel` of one backend; without any it has whatever channels its clients name.

    Parameters:
        layers: the layers.

    Raises:
        DefinitionError: two of them could be asked about one channel.
    """

    __slots__ = ("layers",)

    def __init__(self, layers: Sequence[Layer] = ()) -> None:
        self.layers = layers
        check_overlaps(
            (layer.pattern, f"{layer.name} ({layer.where})") for layer in layers if layer.pattern is not None
        )

    def __bool__(self) -> bool:
        return bool(self.layers)

    def enter(self, req: Request) -> Awaitable[None] | None:
        """Ask whether the client of a request may be in its channel; None where that was asked already.

        A client that listens to the channel may, and so may one that the server has let in.
        """
        socket = req.socket
        if socket is None:
            return self.ask(req) if req.is_for_client else None
        if req.channel in getattr(socket, "granted", ()):
            return None
        listens = req.channel in getattr(socket, "channels", ()) and req.channel not in getattr(socket, "to_listen", ())
        return None if listens and req.event == "sync" else self.ask(req)

    async def ask(self, req: Request) -> None:
        """Ask the rule for the channel of a request.

        Raises:
            Forbidden: there is no such channel, or the rule says no.
            StackError: it says something else than yes or no.
            Exception: whatever else the rule raises.
        """
        for layer in self.layers:
            assert layer.pattern is not None, "each has one"
            parts = layer.pattern.match(req.channel or "")
            if parts is None:
                continue
            answer = layer.call(req, *parts)
            if layer.is_async or hasattr(answer, "__await__"):
                answer = await answer
            if answer is None or answer is True:
                return
            if answer is False:
                raise Forbidden("not allowed in this channel")
            raise StackError(
                f"{layer.name} ({layer.where}) returned {type(answer).__name__}: to let a client in, return nothing or "
                f"True; to refuse it, raise Forbidden or return False"
            )
        raise Forbidden("there is no such channel")
