"""The wire: what clients may send is checked, and what they are sent has its form."""

import gc
import json
from unittest.mock import Mock

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from msgspec import structs

from bbio import protocol
from bbio.errors import BadRequest, NotFound
from bbio.protocol import (
    LONG_FRAME,
    MAX_DEPTH,
    UNSAID,
    ListenFields,
    Sync,
    check,
    decode_sync,
    parse,
    read_digest,
    read_listen,
    read_position,
    read_sync,
)
from bbio.requests import METHODS
from bbio.streams import Event, Position

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
SYNC = st.fixed_dictionaries(
    {"method": st.sampled_from(METHODS) | JSON, "model": st.dictionaries(st.text(), JSON, max_size=3) | JSON},
    optional={
        "options": st.dictionaries(st.text(), JSON, max_size=2) | JSON,
        "channel": JSON,
        "rev": JSON,
        "op": st.fixed_dictionaries({"c": JSON, "n": JSON}) | JSON,
    },
)
LISTEN = st.fixed_dictionaries({"v": st.just(1) | JSON}, optional={"since": JSON})


def sync(**fields):
    """The fields of a sync that creates a model, with some given."""
    return read_sync([{"method": "create", "model": {}, **fields}])


def event(rev=None, op=None):
    """An event to tell of."""
    return Event('c:"room"', "e1", 3, "update", b'{"id":1}', rev, op, stamp=5)


@given(st.text() | st.binary() | JSON.map(json.dumps))
def test_any_text_is_parsed_or_refused(text):
    """What parses can be written again; all else is a bad request."""
    try:
        value = parse(text)
    except BadRequest:
        return
    check(value)
    protocol.encode(value)


@given(JSON | st.lists(SYNC | JSON, max_size=2))
def test_any_sync_is_read_or_refused(args):
    """Fields that are returned have their types, whatever was sent."""
    try:
        check(args)
        fields = read_sync(args)
    except BadRequest:
        return
    assert fields.method in METHODS
    assert type(fields.model) is type(fields.options) is dict
    assert fields.channel is UNSAID or fields.channel is None or 0 < len(fields.channel) <= 255
    assert fields.rev is None or 0 <= fields.rev < 2**63
    assert fields.op is None or fields.op.c


def wire_sync(**fields):
    """A sync packet as JSON text."""
    return protocol.encode(["sync", {"method": "read", **fields}]).decode()


@given(st.lists(SYNC | JSON, max_size=2))
@example([{"method": "read", "model": [{"id": 1}], "options": None, "channel": ""}])
@example([{"method": "update", "model": {"id": 1}, "op": {"c": "c", "n": 2**53}}])
@example([{"method": "update", "model": {"id": "x" * 400}, "op": {"c": "\0" * 9, "n": 1}, "rev": 2**63 - 1}])
@example([{"method": "create", "model": {"a" * 400: 10**400}}])
@example([{"method": "create", "model": {}, "unknown": 1}])
def test_reading_a_sync_in_one_pass_is_reading_it_with_care(args):
    """What the quick way takes, the careful way takes alike; what it does not take is left to the careful way."""
    text = protocol.encode(["sync", *args]).decode()
    quick = decode_sync(text, MAX_DEPTH + 2)
    try:
        careful = read_sync(parse(text, MAX_DEPTH + 2)[1:])
    except BadRequest:
        careful = None
    if quick is None:
        assert careful is None or set(args[0]) - set(Sync.__struct_fields__) or args[0].get("op")
    else:
        quick.channel = quick.channel if quick.channel is UNSAID else quick.channel or None
        quick.options = quick.options or {}
        assert quick == careful


@pytest.mark.parametrize(
    "fields",
    [
        {"model": {"a": "\0"}},
        {"model": {"__proto__": 1}},
        {"options": {"a": ["__proto__", {"__proto__": 1}]}},
        {"channel": "a\0"},
        {"op": {"c": "\0", "n": 1}},
        {"method": "create", "model": []},
        {"method": "create"},
        {"model": 1},
        {"rev": -1},
    ],
)
def test_the_quick_way_takes_nothing_that_cannot_travel(fields):
    """It leaves such a packet to the careful way, which says what is wrong."""
    assert decode_sync(wire_sync(**fields), MAX_DEPTH + 2) is None


def test_the_quick_way_takes_what_had_to_be_looked_at():
    """A long request, whose values are checked one by one, is read like a short one."""
    model = {"title": "x" * LONG_FRAME, "n": 2**53}
    fields = decode_sync(wire_sync(model=model, op={"c": "ann", "n": 1}), MAX_DEPTH + 2)
    assert (fields.model, fields.op.c, fields.op.n) == (model, "ann", 1)


def test_the_quick_way_counts_depth():
    """A model may be as deep as the limit says, whichever way it is read."""

    def nested(depth):
        return {"a": nested(depth - 1)} if depth else 1

    assert decode_sync(wire_sync(model=nested(MAX_DEPTH)), MAX_DEPTH + 2) is not None
    assert decode_sync(wire_sync(model=nested(MAX_DEPTH + 1)), MAX_DEPTH + 2) is None


@given(JSON | st.tuples(st.none() | st.text(), LISTEN | JSON).map(list))
def test_any_listen_is_read_or_refused(args):
    """Fields that are returned have their types, whatever was sent."""
    try:
        fields = read_listen(args)
    except BadRequest:
        return
    assert fields.channel is None or 0 < len(fields.channel) <= 255
    assert fields.version in (0, 1)
    assert len(fields.since) <= 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "1e999",
        '"\\ud800"',
        '"\\u0000"',
        '{"__proto__":1}',
        '{"\\u0000":1}',
        b"\xff",
        b'"\xff"',
        "[" * 33 + "]" * 33,
        '{"a":' * 33 + "1" + "}" * 33,
        "[" * 100_000,
        "1" * 400,
    ],
)
def test_what_cannot_travel_is_refused(text):
    """No JSON, or JSON that some client could not hold."""
    with pytest.raises(BadRequest):
        parse(text)


def test_what_can_travel_is_parsed():
    """Nesting up to the limit, integers past a double's precision, and text of any script."""
    assert parse("[" * 32 + "]" * 32)
    assert parse(str(2**70)) == 2**70
    assert parse(b'{"a":"\\u00e9 \\ud83d\\ude00"}') == {"a": "\u00e9 \U0001f600"}
    assert parse(json.dumps(["x" * 400, None, True, 1.5])) == ["x" * 400, None, True, 1.5]


@pytest.mark.parametrize("value", [b"x", object(), {"a": (1,)}, "\ud800", float("inf"), float("nan"), 10**400])
def test_check_refuses_what_is_no_json(value):
    """Values that another library decoded are held to the same rules."""
    with pytest.raises(BadRequest):
        check(value)


@pytest.mark.parametrize(
    "args",
    [None, {}, [], [1], [{}, {}], [{}], [{"method": "drop", "model": {}}], [{"method": ["create"], "model": {}}]],
)
def test_a_sync_needs_one_object_with_a_method(args):
    """Other shapes are refused."""
    with pytest.raises(BadRequest):
        read_sync(args)


@pytest.mark.parametrize(
    "fields",
    [
        {"model": None},
        {"model": []},
        {"options": []},
        {"rev": -1},
        {"rev": 2**63},
        {"rev": True},
        {"rev": "1"},
        {"channel": 1},
        {"channel": "x" * 256},
        {"op": "c:1"},
        {"op": {}},
        {"op": {"c": "", "n": 1}},
        {"op": {"c": "x" * 65, "n": 1}},
        {"op": {"c": "c", "n": -1}},
        {"op": {"c": "c", "n": 2**53}},
        {"op": {"c": "c", "n": True}},
    ],
)
def test_a_sync_with_a_wrong_field_is_refused(fields):
    """Every field is checked before any layer sees it."""
    with pytest.raises(BadRequest):
        sync(**fields)


def test_the_fields_of_a_sync():
    """What was sent is returned."""
    fields = sync(options={"a": 1}, channel="room", rev=2, op={"c": "c", "n": 7})
    assert (fields.options, fields.channel, fields.rev, fields.op.c, fields.op.n) == ({"a": 1}, "room", 2, "c", 7)
    assert sync().op is None
    assert (sync().channel, sync(channel=None).channel, sync(channel="").channel) == (UNSAID, None, None)


@pytest.mark.parametrize("model", [None, [], [{"id": 1}]])
def test_a_read_may_carry_a_collection(model):
    """The old client sends its models along; a read of all is what it means."""
    assert read_sync([{"method": "read", "model": model}]).model == {}


@pytest.mark.parametrize(
    "args",
    [None, {}, ["a", None, 1], [1], ["a", 1], ["a", {}]]
    + [["a", {"v": v}] for v in (2, True, 1.0, "1")]
    + [["a", {"v": 1, "client": client}] for client in (1, "", "x" * 65)],
)
def test_a_listen_of_another_form_is_refused(args):
    """A channel and, for version 1, an object that says so."""
    with pytest.raises(BadRequest):
        read_listen(args)


def test_the_fields_of_a_listen():
    """Old clients send a channel or nothing; a `since` without sense recovers nothing."""
    assert read_listen([]) == read_listen([""]) == read_listen([None, None]) == ListenFields(None, 0, {})
    assert read_listen(["a", {"v": 1, "since": {"c:a": ["e", 1]}}]) == ListenFields("a", 1, {"c:a": ["e", 1]})
    assert read_listen(["a", {"v": 1, "client": "own"}]) == ListenFields("a", 1, {}, "own")
    assert read_listen(["a", {"v": 1, "client": "own", "user": True}]) == ListenFields(
        "a", 1, {}, "own", asks_user=True
    )
    assert read_listen(["a", {"v": 1, "client": "own", "user": 1}]) == ListenFields("a", 1, {}, "own")
    for since in (None, [], {"a": 1, "b": 2, "c": 3}):
        assert read_listen(["a", {"v": 1, "since": since}]) == ListenFields("a", 1, {})


@pytest.mark.parametrize(
    "claimed",
    [
        None,
        [],
        ["e"],
        ["e", 1, 2, 3],
        ["e", 1, 2, "d", 4],
        ["e", 1, -1],
        ["e", 1, 2**48],
        ["e", 1, 1.0],
        ["e", 1, None],
        [1, 1],
        ["e", -1],
        ["e", 2**63],
        ["e", True],
        "e1",
        {"e": 1},
    ],
)
def test_what_is_no_position_is_none(claimed):
    """A position is an epoch and an offset, and a stamp where the client knows it."""
    assert read_position({"c:": claimed}, "c:") is None
    assert read_position({"c:": ["e", 1]}, "c:") == read_position({"c:": ["e", 1, 0]}, "c:") == Position("e", 1)
    assert read_position({"c:": ["e", 1, 2**48 - 1]}, "c:") == Position("e", 1, 2**48 - 1)
    assert read_position({"c:": ["e", 1, 2, "d"]}, "c:") == Position("e", 1, 2)
    assert read_digest({"c:": ["e", 1, 2, "d"]}, "c:") == "d"
    assert read_digest({"c:": claimed}, "c:") is None
    assert read_digest({"c:": ["e", 1, 2, 3]}, "c:") is read_digest({}, "c:") is None


def test_events_are_encoded_for_both_versions():
    """Version 1 adds the position; revision and operation only where there are any."""
    assert protocol.followed("a") == ("c:a", "*")
    assert json.loads(protocol.synced(event())) == ["synced", "update", {"id": 1}]
    place = {"s": 'c:"room"', "e": "e1", "o": 3, "k": 5}
    assert json.loads(protocol.synced_v1(event())) == ["synced", "update", {"id": 1}, place]
    assert json.loads(protocol.synced_v1(event(0, "~c:1")))[3] == {**place, "r": 0, "op": "~c:1"}
    assert json.loads(protocol.synced_v1(event(None, "~c:1")))[3] == {**place, "op": "~c:1"}


def test_replies_have_their_form():
    """Success and error are told apart by the first argument; streams say whether they were recovered."""
    assert json.loads(protocol.reply(b"1")) == [None, 1]
    place = {"s": 'c:"room"', "e": "e1", "o": 3, "k": 5}
    assert json.loads(protocol.reply_v1(b"1", event(0, "~c:1"), "update")) == [None, 1, {**place, "r": 0}]
    assert json.loads(protocol.reply_v1(b"1", event(), "patch")) == [None, 1, place]
    made = structs.replace(event(0), method="create")
    assert json.loads(protocol.reply_v1(b"1", made, "create")) == [None, 1, {**place, "r": 0}]
    for method in ("update", "patch"):
        assert json.loads(protocol.reply_v1(b"1", made, method)) == [None, 1, {**place, "r": 0, "m": "create"}]
    assert json.loads(protocol.error_reply(NotFound("gone"))) == [
        {"error": {"name": "NotFound", "message": "gone", "code": 404}}
    ]
    lost = protocol.stream_reply(Position("e1", 3, 7), None)
    assert lost == {"epoch": "e1", "offset": 3, "stamp": 7, "recovered": False, "events": []}
    found = json.loads(protocol.encode(protocol.stream_reply(Position("e1", 3), [event()])))
    assert found["recovered"]
    assert found["events"][0][:2] == ["update", {"id": 1}]


def test_revisions_follow_what_was_read():
    """One for a model, a list for a list; None where there is none or the id can have none."""
    revs = {1: 5}
    one, many = {"id": 1}, [{"id": 1}, {"id": 2}, {"id": []}, None]
    assert json.loads(protocol.read_reply_v1(b"{}", one, "id", revs)) == [None, {}, {"r": 5}]
    assert json.loads(protocol.read_reply_v1(b"[]", many, "id", revs)) == [None, [], {"r": [5, None, None, None]}]
    raw = [msgspec.Raw(b"{}")] * 2
    assert json.loads(protocol.read_reply_v1(b"[]", raw, "id", {0: 5, 1: 7})) == [None, [], {"r": [5, 7]}]


@pytest.mark.parametrize("value", [[[]], {"a": []}, [{"a": 1}], {"a": {}}])
def test_what_is_decoded_already_is_nested_so_deep_at_most(value):
    """Value by value."""
    protocol.check(value, 2)
    with pytest.raises(BadRequest, match="nested too deep"):
        protocol.check(value, 1)


@pytest.mark.parametrize("args", [None, [], [None], ["x"], [{}], [["x"], 1], [[1]], [["x" * 256]], [["x"] * 1001]])
def test_an_unlisten_that_makes_no_sense(args):
    """It takes a list of channels."""
    with pytest.raises(BadRequest):
        protocol.read_unlisten(args)


def test_an_unlisten_names_channels():
    """None and the empty string are the default channel; none at all asks whether the server is there."""
    assert protocol.read_unlisten([["x", None, ""]]) == ["x", None, None]
    assert protocol.read_unlisten([[]]) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":"]]]]"}' + " " * 400, None),
        ("[" * 40 + '"' + "]" * 40 + '"' + "]" * 40, "nested too deep"),
        ('["' + "[" * 400 + '"]', None),
        ('["' + '\\"[' * 400 + '"]', None),
        ('["' + "\\\\" * 400 + '"]', None),
        ('["' + "x" * 400 + '\\u0000"]', "is not allowed"),
        ('["' + "x" * 400 + '\\\\u0000"]', None),
        ('{"x":"' + "x" * 400 + '","__proto__" \n:1}', "__proto__"),
        ('{"x":"' + "x" * 400 + '","\\u005f_proto__":1}', "__proto__"),
        ('["' + "x" * 400 + '","__proto__"]', None),
        ('{"' + "x" * 400 + '":1,"__pro\\"to__":1}', None),
        ("[" + "1" * 400 + "]", "too large"),
        ("[-" + "9" * 309 + "]", "too large"),
        ("[" + "1" * 309 + "]", None),
        ("[0." + "0" * 400 + "1]", None),
        ('["' + "1" * 400 + '"]', None),
    ],
)
def test_a_long_text_is_checked_by_its_bytes(text, expected):
    """What is in its strings is no nesting and no number; what is escaped is what it stands for."""
    if expected is None:
        parse(text)
        protocol.check_text(text)
    else:
        with pytest.raises(BadRequest, match=expected):
            protocol.check_text(text)


def test_no_value_of_a_long_text_is_looked_at_by_itself(monkeypatch):
    """A megabyte of arrays or numbers costs what its bytes cost."""
    monkeypatch.setattr(protocol, "check", None)
    assert len(parse("[" + ",".join(["0"] * 400_000) + "]")) == 400_000
    assert decode_sync(wire_sync(model={"a": [[]] * 90_000}), MAX_DEPTH + 2) is not None


@pytest.mark.parametrize("enabled", [True, False])
def test_a_large_packet_is_decoded_without_looking_for_garbage(enabled, monkeypatch):
    """Python would look through all of its arrays again and again; whether it looks at all is as it was."""
    found = []
    monkeypatch.setattr(gc, "callbacks", [lambda phase, info: found.append(phase)])
    (gc.enable if enabled else gc.disable)()
    try:
        decoder = Mock(decode=lambda text: found.clear() or [[] for _ in range(9_000)])
        value = protocol._decode_large(decoder, decoder, "[]")
        assert (len(value), len(found) < 3, gc.isenabled()) == (9_000, True, enabled)
    finally:
        gc.enable()


@pytest.mark.parametrize("number", ["1e300", "1E+300", "5e-324", "123e290"])
def test_numbers_that_are_slow_to_read_are_read_by_python(number, monkeypatch):
    """Of a large exponent msgspec makes a number of very many digits: a megabyte of them took over a second."""
    numbers = ["1.5", *[number] * 40_000]
    text = f'["sync",{{"method":"create","model":{{"a":[{",".join(numbers)}]}}}}]'
    monkeypatch.setattr(protocol, "_decoder", None)
    monkeypatch.setattr(protocol, "_sync_decoder", None)
    values = [float(value) for value in numbers]
    assert decode_sync(text, MAX_DEPTH + 2).model["a"] == values == parse(text)[1]["model"]["a"]


@pytest.mark.parametrize("number", ["1e400", "-1e309"])
def test_numbers_past_a_double_are_refused_among_many(number):
    """As they are alone."""
    many = [*["1"] * 10_000, number]
    assert decode_sync(f'["sync",{{"method":"create","model":{{"a":[{",".join(many)}]}}}}]', MAX_DEPTH) is None
    with pytest.raises(BadRequest):
        parse(f"[{','.join(many)}]")


def test_a_packet_has_a_bound_of_arrays_and_objects():
    """More are refused, whichever way the packet is read; brackets in a text are none."""
    many = {"a": [[]] * protocol.MAX_NESTED}
    assert decode_sync(wire_sync(model=many), MAX_DEPTH + 2) is None
    with pytest.raises(BadRequest, match="arrays and objects"):
        parse(protocol.encode(many))
    assert parse(protocol.encode(["[" * (protocol.MAX_NESTED + 1)]))


@pytest.mark.parametrize("number", ["1e23", "1E300", "5e-324"])
def test_a_packet_has_a_bound_of_numbers_with_an_exponent(number):
    """More are refused, whichever way the packet is read; what looks like them in a text is none."""
    many = "[" + ",".join([number] * (protocol.MAX_EXPONENTS + 1)) + "]"
    assert decode_sync('["sync",{"method":"read","model":{"a":' + many + "}}]", MAX_DEPTH + 2) is None
    with pytest.raises(BadRequest, match="with an exponent"):
        parse(many)
    text = '\\"' + number * (protocol.MAX_EXPONENTS + 1) + "\\"
    assert parse(protocol.encode([text])) == [text]


@pytest.mark.parametrize("auth", [{"a": "\ud800"}, {"a": object()}])
def test_an_auth_that_is_no_json_is_refused(auth):
    """Another library has decoded it."""
    with pytest.raises(BadRequest):
        protocol.check_auth(auth, 100)
