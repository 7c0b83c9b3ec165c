"""The layers of `@presence` and `@message`: what others see of a client, and what they are told of it.

Nothing of it is stored, numbered or told again: it is about this moment.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import attrs

from bbio.errors import EncodingError, StackError
from bbio.model.scalars import place_of
from bbio.protocol import encode
from bbio.requests import Request
from bbio.stack.stack import Layer

# Bytes of a card, as JSON: each member of a channel is sent those of all the others.
CARD_BYTES = 4_096
NO_CARD = b"{}"


@attrs.frozen
class Ephemeral:
    """The declarations of a backend about presence and messages.

    Parameters:
        has_presence: whether clients can be present in its channels.
        card: the layer of `@presence`; None where nothing is shown of members.
        messages: the layers of `@message`, by the names of messages.
    """

    has_presence: bool = False
    card: Layer | None = None
    messages: dict[str, Layer] = attrs.field(factory=dict)

    @classmethod
    def of(cls, layers: Iterable[Layer], *, presence: bool) -> Ephemeral:
        """Gather what the layers of a backend say.

        Parameters:
            layers: the layers, those of other kinds too.
            presence: whether the backend says `presence = True`.
        """
        card, messages = None, {}
        for layer in layers:
            if layer.kind == "presence":
                card = layer
            elif layer.kind == "message":
                messages.update(dict.fromkeys(layer.methods, layer))
        return cls(presence or card is not None, card, messages)

    @property
    def events(self) -> tuple[str, ...]:
        """Return the events that the backend answers because of it."""
        declared = ("presence", self.has_presence), ("message", bool(self.messages))
        return tuple(event for event, is_declared in declared if is_declared)

    async def show(self, req: Request) -> bytes:
        """Return the card of who asks, as JSON.

        Raises:
            SyncError: the client is kept out.
            StackError: the method has returned something else than a JSON object of a sane size.
        """
        layer = self.card
        if layer is None:
            return NO_CARD
        card = layer.call(req)
        if layer.is_async or hasattr(card, "__await__"):
            card = await card
        try:
            encoded = encode(card)
        except EncodingError as err:
            err.locate(f"{place_of(err.value, card, 'card') or 'card'}, from {layer.name} ({layer.where}),")
            raise
        if encoded[:1] != b"{":
            raise StackError(
                f"{layer.name} ({layer.where}) returned a {type(card).__name__}, and a card is a JSON object; return "
                "what others may see, such as {'name': ...}, or {} for nothing"
            )
        if len(encoded) > CARD_BYTES:
            raise StackError(
                f"{layer.name} ({layer.where}) returned a card of {len(encoded)} bytes, and everybody is sent those "
                f"of all; return {CARD_BYTES} bytes at most, such as an id to look the rest up by"
            )
        return encoded

    async def decide(self, name: str, req: Request, data: Any) -> bytes:
        """Return what is told of a message, as JSON.

        Parameters:
            name: a declared name.
            req: the request, after the `before` layers of `read`.
            data: what was sent.

        Raises:
            SyncError: it must not be told.
        """
        layer = self.messages[name]
        told = layer.call(req, data)
        if layer.is_async or hasattr(told, "__await__"):
            told = await told
        told = data if told is None else told
        try:
            return encode(told)
        except EncodingError as err:
            err.locate(f"{place_of(err.value, told, 'data') or 'data'}, from {layer.name} ({layer.where}),")
            raise
