"""The protocol, without I/O: what clients may send, checked once, and what they are sent, encoded once.

docs/protocol.md describes it. msgspec is the JSON library: it refuses what JSON does not have (NaN, Infinity, numbers
past a double, lone surrogates), keeps integers of any size exact and writes attrs classes, dates and UUIDs.
"""

from __future__ import annotations

import gc
import math
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from itertools import accumulate
from types import NoneType
from typing import Annotated, Any, Literal, cast

import msgspec

from bbio.errors import BadRequest, SyncError
from bbio.model.scalars import writable
from bbio.requests import METHODS, Method
from bbio.streams import BACKEND_WIDE, STAMPS, Delta, Event, Op, Position, channel_stream

VERSION = 1
# The events that a client of a backend sends.
EVENTS = ("sync", "listen", "unlisten", "auth")
# Those that it sends to a backend which declares presence, or messages.
EPHEMERAL = ("presence", "message")
MAX_DEPTH = 32
MAX_NAME = 255
MAX_SINCE_STREAMS = 2
# Channels that one `unlisten` may name.
MAX_LEFT = 1_000
MAX_CLIENT = 64
# Above this many characters a frame could hold an integer that a double cannot.
LONG_FRAME = 300
# From this many on it could hold thousands of arrays.
LARGE_FRAME = 10_000
# Arrays and objects in one packet.
MAX_NESTED = 100_000
# Numbers with an exponent in one packet: 1e23, of which both ways to read it take 0.4 us, is much in few bytes.
MAX_EXPONENTS = 50_000

_encoder = msgspec.json.Encoder(enc_hook=writable)
_decoder = msgspec.json.Decoder()

encode: Callable[[Any], bytes] = _encoder.encode
decode: Callable[[str | bytes], Any] = _decoder.decode


UNSAID = msgspec.UNSET


class Sync(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of a valid `sync`. A channel that is not said is that of the socket's last `listen`."""

    method: Method
    model: Any = None
    options: dict[str, Any] | None = None
    channel: Annotated[str, msgspec.Meta(max_length=MAX_NAME)] | msgspec.UnsetType | None = UNSAID
    op: Op | None = None
    rev: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None


class ListenFields(msgspec.Struct, frozen=True):
    """The fields of a valid `listen`.

    Parameters:
        channel: the channel.
        version: the protocol's version that it asks for, 0 without.
        since: what it says its positions are, by stream.
        client: its own id, where it wants to be told the public part of it.
        asks_user: whether it wants to be told whom the server takes it for, too.
        query: which records it wants to be told of, unchecked; None for all that it may have.
        deltas: whether it takes what changed of a record in place of the whole.
        messages: whether it takes messages.
    """

    channel: str | None
    version: int
    since: dict[str, Any]
    client: str | None = None
    asks_user: bool = False
    query: Any = None
    deltas: bool = False
    messages: bool = False


class PresenceFields(msgspec.Struct, frozen=True):
    """The fields of a valid `presence`.

    Parameters:
        channel: the channel.
        leaves: whether the client is present no more.
        state: its own part of what others see, as JSON; None where that stays as it is.
        asks: whether it wants the list of members.
    """

    channel: str | None
    leaves: bool = False
    state: bytes | None = None
    asks: bool = False


class MessageFields(msgspec.Struct, frozen=True):
    """The fields of a valid `message`.

    Parameters:
        name: its name.
        data: what is told.
        channel: the channel.
    """

    name: str
    data: Any
    channel: str | None


_sync_decoder = msgspec.json.Decoder(tuple[Literal["sync"], Sync])


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is too large")
    return value


# As the decoders above, but Python reads the fractions.
_float_decoder = msgspec.json.Decoder(float_hook=_float)
_sync_float_decoder = msgspec.json.Decoder(tuple[Literal["sync"], Sync], float_hook=_float)
# What shows an exponent of three digits, or a number of very many: msgspec takes 8 us for one of 1e289 and more.
_EXPONENTS = bytes.maketrans(b"123456789E+", b"000000000e-")
_FAR_NUMBERS = (b"e000", b"e-000", b"0" * 280)


def _decode_large(decoder: msgspec.json.Decoder[Any], careful: msgspec.json.Decoder[Any], text: str | bytes) -> Any:
    """Decode a text that may hold very many arrays and objects, or very many numbers that are slow to read.

    Python looks for garbage each time that so many more of them are there, among all that there are: that would take
    twenty times as long as the decoding.

    Parameters:
        decoder: what decodes it.
        careful: the same, for numbers that the other would take too long for.
        text: the text.

    Raises:
        BadRequest: they are too many.
    """
    raw = text.encode() if isinstance(text, str) else text
    if raw.count(b"[") + raw.count(b"{") > MAX_NESTED:
        outside = _without_strings(raw.replace(b"\\\\", b"  ").replace(b'\\"', b"  "))
        if outside.count(b"[") + outside.count(b"{") > MAX_NESTED:
            raise BadRequest(f"more than {MAX_NESTED} arrays and objects in one packet")
    digits = raw.translate(_EXPONENTS)
    if digits.count(b"0e") > MAX_EXPONENTS:
        outside = _without_strings(digits.replace(b"\\\\", b"  ").replace(b'\\"', b"  "))
        if outside.count(b"0e") > MAX_EXPONENTS:
            raise BadRequest(f"more than {MAX_EXPONENTS} numbers with an exponent in one packet")
    decode_text = (careful if any(far in digits for far in _FAR_NUMBERS) else decoder).decode
    if not gc.isenabled():
        return decode_text(text)
    gc.disable()
    try:
        return decode_text(text)
    finally:
        gc.enable()


def _without_strings(raw: bytes) -> bytes:
    """A JSON text without its strings, in which no quotes may be escaped."""
    return b"".join(raw.split(b'"')[::2])


def parse(text: str | bytes, max_depth: int = MAX_DEPTH) -> Any:
    """Decode JSON from a client.

    Parameters:
        text: one JSON text.
        max_depth: how deep arrays and objects may be nested.

    Raises:
        BadRequest: it is not JSON, or holds what cannot travel: other nesting, NUL, `__proto__`, numbers past a double.
    """
    try:
        value = decode(text) if len(text) < LARGE_FRAME else _decode_large(_decoder, _float_decoder, text)
    except BadRequest:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        raise BadRequest("not valid JSON") from None
    if isinstance(text, bytes):
        text = text.decode()
    if _is_suspect(text, max_depth):
        check_text(text, max_depth)
    return value


def _is_suspect(text: str, max_depth: int) -> bool:
    """Return whether a JSON text may hold what `check_text` looks for, by cheap tests of the text."""
    return (
        len(text) > LONG_FRAME or "\\u" in text or "__proto__" in text or text.count("[") + text.count("{") > max_depth
    )


# What a JSON text consists of outside its strings: brackets, as steps into and out of them; digits, all alike; space.
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_STEPS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_DIGITS_TO_ZERO = bytes.maketrans(b"123456789", b"000000000")
_SPACE = bytes.maketrans(b",:[]{}\t\n\r", b" " * 9)
# An integer of fewer digits is less than the greatest double.
_LONG_NUMBER = b"0" * 309
_PROTO_KEY = re.compile(rb'"__proto__"[ \t\n\r]*:')


def check_text(text: str, max_depth: int = MAX_DEPTH) -> None:
    """Refuse a valid JSON text that holds what could not travel to every client.

    It costs time by the bytes: what a client has packed into them must not be looked at value by value.

    Raises:
        BadRequest: it is nested too deep or holds NUL, `__proto__` or a number past a double.
    """
    if "\\u" in text:
        text = encode(decode(text)).decode()  # so that names are spelled in one way
    raw = text.encode()
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"  ")
        if b"\\u0000" in raw:
            raise BadRequest("a string contains a character that is not allowed")
        raw = raw.replace(b'\\"', b"  ")
    if b"__proto__" in raw and _PROTO_KEY.search(raw):
        raise BadRequest("__proto__ is not allowed as the name of a field")
    is_nested = raw.count(b"[") + raw.count(b"{") > max_depth
    has_long_number = _LONG_NUMBER in raw.translate(_DIGITS_TO_ZERO)
    if not is_nested and not has_long_number:
        return
    raw = _without_strings(raw)
    if is_nested and max(accumulate(memoryview(raw.translate(_STEPS, _NO_STEPS)).cast("b"))) > max_depth:
        raise BadRequest("nested too deep")
    if has_long_number:
        for value in raw.translate(_SPACE).split():
            if len(value) >= len(_LONG_NUMBER) and not -1.8e308 < float(value) < 1.8e308:
                raise BadRequest("a number is too large")


def check(value: Any, max_depth: int = MAX_DEPTH) -> None:
    """Refuse a value, decoded by another library, that could not travel to every client.

    It looks at each value: what is large goes through `check_text`.

    Raises:
        BadRequest: it is nested too deep or holds NUL, a lone surrogate, `__proto__` or a number past a double.
    """
    if isinstance(value, dict):
        if max_depth == 0:
            raise BadRequest("nested too deep")
        for key, item in value.items():
            if key == "__proto__":
                raise BadRequest("__proto__ is not allowed as the name of a field")
            check(key)
            check(item, max_depth - 1)
    elif isinstance(value, list):
        if max_depth == 0:
            raise BadRequest("nested too deep")
        for item in value:
            check(item, max_depth - 1)
    elif isinstance(value, str):
        if "\0" in value or (not value.isascii() and not _is_unicode(value)):
            raise BadRequest("a string contains a character that is not allowed")
    elif isinstance(value, (int, float)):
        try:
            travels = -1.8e308 < float(value) < 1.8e308
        except OverflowError:
            travels = False
        if not travels:
            raise BadRequest("a number is too large")
    elif value is not None:
        raise BadRequest("a value is not JSON")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_channel(channel: Any) -> str | None:
    """A channel as a client names it; the empty string means the default channel.

    Raises:
        BadRequest: it is neither null nor a string of a sane length.
    """
    if channel is None:
        return None
    if type(channel) is not str or len(channel) > MAX_NAME:
        raise BadRequest(f"a channel is null or a string of at most {MAX_NAME} characters")
    return channel or None


def check_auth(auth: Any, max_bytes: int, max_depth: int = MAX_DEPTH) -> bytes | None:
    """The JSON of what a client joins a namespace with, Socket.IO's `auth`; None when it sent none.

    Parameters:
        auth: the object, decoded.
        max_bytes: how long its JSON may be.
        max_depth: how deep arrays and objects may be nested.

    Raises:
        BadRequest: it is not an object, cannot travel or is too long. The message quotes nothing of it.
    """
    if auth is None or auth == {}:
        return None
    if type(auth) is not dict:
        raise BadRequest("auth must be a JSON object, such as {token}")
    try:
        encoded = encode(auth)
    except UnicodeEncodeError:
        raise BadRequest("a string contains a character that is not allowed") from None
    except (RecursionError, TypeError, ValueError):
        raise BadRequest("auth must be JSON") from None
    if len(encoded) > max_bytes:
        raise BadRequest(f"auth may have {max_bytes} bytes as JSON: send less, or raise Limits.auth on the server")
    check(auth, max_depth)  # value by value, which the limit makes few
    return encoded


def decode_sync(text: str, max_depth: int) -> Sync | None:
    """The fields of a `sync` packet in one pass; None when `parse` and `read_sync` must tell what is wrong with it.

    Parameters:
        text: the packet's JSON array, from the event's name on.
        max_depth: how deep arrays and objects may be nested.
    """
    try:
        if len(text) < LARGE_FRAME:
            fields = _sync_decoder.decode(text)[1]
        else:
            fields = _decode_large(_sync_decoder, _sync_float_decoder, text)[1]
        if _is_suspect(text, max_depth):
            check_text(text, max_depth)
    except (BadRequest, msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return None
    if type(fields.model) is not dict:
        if fields.method != "read" or not (fields.model is None or type(fields.model) is list):
            return None
        fields.model = {}
    return fields


def read_sync(args: Any) -> Sync:
    """The fields of a `sync` from its arguments (without the event's name).

    Raises:
        BadRequest: anything is not as docs/protocol.md says.
    """
    if type(args) is not list or len(args) != 1 or type(args[0]) is not dict:
        raise BadRequest("sync takes one object: {method, model, options}")
    fields = args[0]
    method = fields.get("method")
    if type(method) is not str or method not in METHODS:
        raise BadRequest(f"method must be one of {', '.join(METHODS)}")
    model = fields.get("model")
    if type(model) is not dict:
        # backbone.io 0.4.2 sends a collection's models along when it fetches the collection.
        if method != "read" or not (model is None or type(model) is list):
            raise BadRequest("model must be an object")
        model = {}
    options = fields.get("options")
    if options is None:
        options = {}
    elif type(options) is not dict:
        raise BadRequest("options must be an object")
    rev = fields.get("rev")
    if rev is not None and (type(rev) is not int or not 0 <= rev < 2**63):
        raise BadRequest("rev must be a revision number")
    channel = check_channel(fields["channel"]) if "channel" in fields else UNSAID
    op = fields.get("op")
    return Sync(cast(Any, method), model, options, channel, None if op is None else _read_op(op), rev)


def _read_op(op: Any) -> Op:
    if type(op) is dict:
        client, counter = op.get("c"), op.get("n")
        if type(client) is str and 0 < len(client) <= MAX_CLIENT and type(counter) is int and 0 <= counter < 2**53:
            return Op(client, counter)
    raise BadRequest("op must be {c: client id, n: counter}")


def read_listen(args: Any) -> ListenFields:
    """The fields of a `listen` from its arguments (without the event's name).

    Raises:
        BadRequest: it is not as docs/protocol.md says. An invalid `since` is not an error: it recovers nothing.
    """
    if type(args) is not list or len(args) > 2:
        raise BadRequest("listen takes a channel (a string or null)")
    channel = check_channel(args[0] if args else None)
    if len(args) < 2 or args[1] is None:
        return ListenFields(channel, 0, {})
    extras = args[1]
    if type(extras) is not dict or type(extras.get("v")) is not int or extras["v"] != VERSION:
        raise BadRequest(f"the second argument of listen is {{v: {VERSION}, since}}")
    since, client = extras.get("since"), extras.get("client")
    if client is not None and not (type(client) is str and 0 < len(client) <= MAX_CLIENT):
        raise BadRequest(f"client must be a string of at most {MAX_CLIENT} characters")
    since = since if type(since) is dict and len(since) <= MAX_SINCE_STREAMS else {}
    asks_user, query, deltas = extras.get("user") is True, extras.get("query"), extras.get("deltas") is True
    messages = extras.get("messages") is True
    return ListenFields(channel, VERSION, since, client, asks_user, query, deltas, messages)


def read_unlisten(args: Any) -> list[str | None]:
    """The channels of an `unlisten` from its arguments (without the event's name).

    Raises:
        BadRequest: it is not as docs/protocol.md says.
    """
    if type(args) is not list or len(args) != 1 or type(args[0]) is not list or len(args[0]) > MAX_LEFT:
        raise BadRequest(f"unlisten takes a list of at most {MAX_LEFT} channels")
    return [check_channel(channel) for channel in args[0]]


def read_presence(args: Any, max_state: int) -> PresenceFields:
    """The fields of a `presence` from its arguments (without the event's name).

    Parameters:
        args: the arguments.
        max_state: bytes that a state may have, as JSON.

    Raises:
        BadRequest: it is not as docs/protocol.md says.
    """
    if type(args) is not list or len(args) != 2 or type(args[1]) not in (dict, NoneType):
        raise BadRequest("presence takes a channel, and {state} to be present or null to leave")
    channel, options = check_channel(args[0]), args[1]
    if options is None:
        return PresenceFields(channel, leaves=True)
    state = options.get("state")
    if state is not None:
        if type(state) is not dict:
            raise BadRequest("the state of a member must be an object")
        state = encode(state)
        if len(state) > max_state:
            raise BadRequest(f"the state of a member may have {max_state} bytes as JSON")
    return PresenceFields(channel, state=state, asks=options.get("members") is True)


def read_message(args: Any) -> MessageFields:
    """The fields of a `message` from its arguments (without the event's name).

    Raises:
        BadRequest: it is not as docs/protocol.md says.
    """
    if type(args) is not list or not 2 <= len(args) <= 3 or type(args[0]) is not str:
        raise BadRequest("message takes its name, its data, and the channel")
    return MessageFields(args[0], args[1], check_channel(args[2] if len(args) > 2 else None))


def member(key: str, card: bytes, state: bytes, connections: int) -> bytes:
    """A member of a channel, as JSON."""
    return b'{"key":"%b","card":%b,"state":%b,"connections":%d}' % (key.encode(), card, state, connections)


def presence(
    channel: str | None, epoch: str, seq: int, joined: Iterable[bytes], changed: Iterable[bytes], left: Iterable[str]
) -> bytes:
    """The `presence` event, as JSON: who has come, changed and gone since the one before.

    Parameters:
        channel: the channel.
        epoch: the life of the list that `seq` counts in.
        seq: the number of the event.
        joined: new members, as JSON.
        changed: members that have changed, as JSON.
        left: the keys of those that have gone.
    """
    parts = [
        b'"%b":[%b]' % (name, b",".join(members)) for name, members in ((b"joined", joined), (b"changed", changed))
    ]
    parts = [part for part in parts if not part.endswith(b"[]")]
    keys = list(left)
    if keys:
        parts.append(b'"left":%b' % encode(keys))
    told = b",".join([b'"epoch":"%b","seq":%d' % (epoch.encode(), seq), *parts])
    return b'["presence",%b,{%b}]' % (encode(channel), told)


def presence_ended(channel: str | None) -> bytes:
    """The `presence` event, as JSON, that tells a client that it is present no more."""
    return b'["presence",%b,null]' % encode(channel)


def presence_reply(epoch: str, seq: int, me: str, members: bytes | None = None) -> bytes:
    """The arguments of the ack of a `presence`, as JSON.

    Parameters:
        epoch: the life of the list that `seq` counts in.
        seq: the number of the latest event that the list has in it.
        me: the key of the client's own member.
        members: the list as JSON, without its brackets; None where it was not asked for.
    """
    told = b'"epoch":"%b","seq":%d,"me":"%b"' % (epoch.encode(), seq, me.encode())
    return b"[null,{%b}]" % (told if members is None else b'%b,"members":[%b]' % (told, members))


def message(name: str, data: bytes, channel: str | None, key: str, card: bytes) -> bytes:
    """The `message` event, as JSON, with who sent it."""
    return b'["message",%b,%b,%b,{"key":"%b","card":%b}]' % (
        encode(name),
        data,
        encode(channel),
        key.encode(),
        card,
    )


def read_auth(args: Any) -> str:
    """The token of an `auth` from its arguments (without the event's name).

    Raises:
        BadRequest: it is not as docs/protocol.md says. The message quotes nothing of it.
    """
    if type(args) is not list or len(args) != 1 or type(args[0]) is not dict or args[0].keys() != {"token"}:
        raise BadRequest("auth takes an object {token}")
    token = args[0]["token"]
    if type(token) is not str or not token:
        raise BadRequest("the token of auth must be a string that is not empty")
    return token


def read_position(since: dict[str, Any], stream: str) -> Position | None:
    """Read the position in a stream that a client claims; None if that is not a position.

    A stamp that it does not know, it leaves out.
    """
    claimed = since.get(stream)
    if type(claimed) is not list or not 2 <= len(claimed) <= 4:
        return None
    epoch, offset = claimed[:2]
    stamp = claimed[2] if len(claimed) > 2 else 0
    digest = claimed[3] if len(claimed) > 3 else ""
    if type(epoch) is not str or type(offset) is not int or not 0 <= offset < 2**63:
        return None
    if type(stamp) is not int or not 0 <= stamp < STAMPS or type(digest) is not str:
        return None
    return Position(epoch, offset, stamp)


def read_digest(since: dict[str, Any], stream: str) -> str | None:
    """The digest of the view that a client claims to have reached its position in a stream with; None of no view."""
    claimed = since.get(stream)
    return claimed[3] if type(claimed) is list and len(claimed) == 4 and type(claimed[3]) is str else None


def followed(channel: str | None) -> tuple[str, str]:
    """The streams a listener of a channel follows."""
    return channel_stream(channel), BACKEND_WIDE


def _position(event: Event, op: str | None) -> bytes:
    """The third argument of a version-1 `synced` or reply: the place, and the revision and operation if there are."""
    place, offset, stamp, rev = _place(event.stream, event.epoch), event.offset, event.stamp, event.rev
    if rev is None:
        if op is None:
            return b'%b%d,"k":%d}' % (place, offset, stamp)
        return b'%b%d,"k":%d,"op":%b}' % (place, offset, stamp, encode(op))
    if op is None:
        return b'%b%d,"k":%d,"r":%d}' % (place, offset, stamp, rev)
    return b'%b%d,"k":%d,"r":%d,"op":%b}' % (place, offset, stamp, rev, encode(op))


@lru_cache(maxsize=4_096)
def _place(stream: str, epoch: str) -> bytes:
    return b'{"s":%b,"e":"%b","o":' % (encode(stream), epoch.encode())


def synced(event: Event) -> bytes:
    """The legacy `synced` event: two arguments, as JSON."""
    return b'["synced","%b",%b]' % (event.method.encode(), event.body)


def synced_v1(event: Event) -> bytes:
    """The version-1 `synced` event, as JSON."""
    return b'["synced",%b]' % _arguments(event)


Change = Literal["joined", "left"]


def resync(stream: str, change: Change | None = None) -> bytes:
    """The `resync` event, as JSON: what a stream's listener missed can no longer be told.

    Parameters:
        stream: the stream.
        change: what the server has done, where that is the reason: let the client into the channel, or out of it.
    """
    if change is None:
        return b'["resync",%b]' % encode(stream)
    return b'["resync",%b,{"%b":true}]' % (encode(stream), change.encode())


def auth_end(seconds: float) -> bytes:
    """The `auth` event, as JSON: in how many seconds a client's identity ends; 0 if it has ended."""
    return b'["auth",{"expires_in":%b}]' % encode(round(seconds, 3))


def auth_reply(seconds: float | None) -> bytes:
    """The arguments of the ack of an `auth`, as JSON: the seconds until the new identity ends, None for never."""
    return b'[{"expires_in":%b}]' % encode(None if seconds is None else round(seconds, 3))


def at(position: Position, stream: str, told: int) -> bytes:
    """The `at` event, as JSON: how far a stream has come, and how many events of it a listener with a view was told."""
    place = _place(stream, position.epoch)
    return b'["synced","at",null,%b%d,"k":%d,"n":%d}]' % (place, position.offset, position.stamp, told)


def event_json(event: Event) -> msgspec.Raw:
    """An event in the reply to a `listen`: the arguments of its `synced`, for a client that missed it."""
    return msgspec.Raw(b"[%b]" % _arguments(event))


def _arguments(event: Event) -> bytes:
    place = _position(event, event.op)
    if type(event) is Delta:
        more: dict[str, Any] = {"b": event.base}
        if event.unset:
            more["unset"] = event.unset
        if event.append:
            more["append"] = event.append
        place = b"%b,%b" % (place[:-1], encode(more)[1:])
    return b'"%b",%b,%b' % (event.method.encode(), event.body, place)


def stream_reply(position: Position, events: list[Event] | None, digest: str | None = None) -> dict[str, Any]:
    """One stream's entry in the reply to a version-1 `listen`, with the digest of the view where it has one."""
    told: dict[str, Any] = {
        "epoch": position.epoch,
        "offset": position.offset,
        "stamp": position.stamp,
        "recovered": events is not None,
        "events": [event_json(event) for event in events or ()],
    }
    if digest is not None:
        told["d"] = digest
    return told


def reply(body: bytes) -> bytes:
    """The arguments of an ack that reports success, as JSON."""
    return b"[null,%b]" % body


def reply_v1(body: bytes, event: Event, method: str, is_in: bool | None = None) -> bytes:
    """Add the position of the write to a reply. The writer knows its operation, so that is left out.

    Where others are told of a create and `method`, the request's, is another, the writer is told that as well.
    `is_in` says whether the record is in the view that the writer is told of events under, where it has one.
    """
    place = _position(event, None)
    if is_in is not None:
        place = place[:-1] + (b',"in":true}' if is_in else b',"in":false}')
    if event.method == "create" and method != "create":
        place = place[:-1] + b',"m":"create"}'
    return b"[null,%b,%b]" % (body, place)


def read_reply_v1(
    body: bytes, result: Any, id_attribute: str, revs: dict[Any, int], page: dict[str, Any] | None = None
) -> bytes:
    """Add `r` to the reply to a read: the model's revision, or those of a list's models in its order.

    Parameters:
        body: the model or the models as JSON.
        result: the model or the models, those of a list maybe as `msgspec.Raw`.
        id_attribute: the name of the id in them.
        revs: revisions by id, those of a list in its order.
        page: what else is told of the page that a query found.
    """
    if isinstance(result, list):
        if result and type(result[0]) is msgspec.Raw:
            found: list[int | None] = [*revs.values()]
        else:
            found = [revs.get(_id_of(model, id_attribute)) for model in result]
        told: dict[str, Any] = {"r": found, **(page or {})}
    else:
        told = {"r": revs.get(_id_of(result, id_attribute))}
    return b"[null,%b,%b]" % (body, encode(told))


def _id_of(model: Any, id_attribute: str) -> Any:
    key = model.get(id_attribute) if isinstance(model, dict) else getattr(model, id_attribute, None)
    return key if isinstance(key, (str, int)) else None


# The arguments of the ack of an `unlisten`, and of others that say no more than that it is done.
UNLISTENED = DONE = b"[null]"


def error_reply(error: SyncError) -> bytes:
    """The arguments of an ack that reports an error, as JSON."""
    return b'[{"error":%b}]' % encode(error.to_json())
