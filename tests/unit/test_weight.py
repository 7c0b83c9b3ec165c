"""What requests and histories are said to hold is what Python holds for them at most, whatever shape they have."""

import tracemalloc

import pytest

from bbio import protocol
from bbio.streams import Kept, Streams, channel_stream, public_part
from bbio.weight import LIGHT, decoded_bytes, weigh

FACE, MORE = "\U0001f600", 60_000


def many(one):
    """An array of so many times the same JSON."""
    return "[" + ",".join([one] * (MORE // (len(one) + 1))) + "]"


def keyed(key):
    """An object with many keys."""
    return "{" + ",".join(f'"{key % n}":0' for n in range(MORE // (len(key) + 6))) + "}"


SHAPES = {
    "small numbers": many("7"),
    "whole numbers": many("300"),
    "fractions": many("0.5"),
    "texts of a character": many('"a"'),
    "texts": many('"ab"'),
    "texts with umlauts": many('"éa"'),
    "wide texts": many(f'"{FACE}a"'),
    "empty lists": many("[]"),
    "lists of lists": many("[" * 25 + "]" * 25),
    "empty objects": many("{}"),
    "small objects": many('{"a":0}'),
    "objects": many("{" + ",".join(f'"{key}":0' for key in "abcdefghijk") + "}"),
    "objects of objects": many('{"a":' * 25 + "0" + "}" * 25),
    "keys": keyed("%x"),
    "long keys": keyed("%040x"),
    "wide keys": keyed(f"{FACE}%x"),
    "a long text": '"' + "x" * MORE + '"',
    "a long wide text": '"' + FACE * MORE + '"',
    "a long text with a wide character": f'"{FACE}{"x" * MORE}"',
    "nothing": "[" + " " * MORE + "]",
}


def held_by(make):
    """The bytes that Python holds for what a function makes."""
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        made = make()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert made is not None
    return after - before


@pytest.mark.parametrize("shape", SHAPES)
def test_a_request_holds_no_more_than_it_weighs(shape):
    """Its text, which is kept to tell a retry, and what that was decoded to."""
    frame = f'["sync",{{"method":"create","model":{{"v":{SHAPES[shape]}}},"op":{{"c":"alice","n":1}}}}]'.encode()

    def read():
        text = frame.decode()
        return text, protocol.decode_sync(text, 34) or protocol.parse(text, 34)

    assert held_by(read) <= weigh(frame) + LIGHT


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_of_a_list_holds_no_more_than_it_is_said_to(shape):
    """Decoded, and encoded for the answer; told by the text of either kind."""
    text = f'{{"v":{SHAPES[shape]}}}'

    def read():
        model = protocol.decode(text)
        protocol.encode(model)  # what Python keeps of that is counted
        return model

    assert held_by(read) <= decoded_bytes(text) + LIGHT
    assert decoded_bytes(text.encode()) >= decoded_bytes(text)


WIDE = FACE * 60
HISTORIES = {
    "small models": lambda n: ("c:", '{"id":1}', "alice"),
    "models of a kilobyte": lambda n: ("c:", f'{{"text":"{"x" * 1_000}"}}', "alice"),
    "wide models": lambda n: ("c:", f'{{"text":"{WIDE}"}}', "alice"),
    "a channel with a long name": lambda n: (channel_stream(WIDE * 4), "{}", "alice"),
    "channels with long names": lambda n: (channel_stream(f"{WIDE * 4}{n}"), "{}", "alice"),
    "channels with names of some length": lambda n: (channel_stream(f"{WIDE[:26]}{n}"), "{}", "alice"),
    "channels": lambda n: (channel_stream(str(n)), "{}", "alice"),
    "clients": lambda n: ("c:", "{}", f"alice {n}"),
    "clients with long ids": lambda n: ("c:", "{}", f"{WIDE}{n}"),
    "a client with a long id": lambda n: ("c:", "{}", WIDE + str(len(WIDE))),
}


@pytest.mark.parametrize("shape", HISTORIES)
def test_a_log_holds_no_more_than_it_says(shape):
    """Whatever names, models and clients are like; but for dictionaries that were larger, which Python leaves so."""
    shared = Kept(1_000_000)
    log = Streams(kept=shared)

    def fill():
        for n in range(800):
            channel, model, client = HISTORIES[shape](n)
            text = f'["sync",{{"method":"create","model":{model},"op":{{"c":"{client}","n":{n}}}}}]'
            fields = protocol.decode_sync(text, 34)
            body = protocol.encode(fields.model)
            event = log.append(channel, "create", body, 1_000 + n, f"~T8gDQSdrS5lk8a2H:{n}")
            log.keep((fields.op.c, fields.op.n), text, event)
        return log

    assert held_by(fill) <= 1.1 * shared.used_bytes
    assert shared.used_bytes == log.used_bytes <= shared.limit


def test_what_a_log_holds_of_clients_is_given_back():
    """With the last of their replies."""
    log = Streams()
    for n in range(3):
        log.keep((f"{WIDE}{n}", n), "{}", log.append("c:", "create", b"{}"))
    log.operations.forget(0.0, 0)
    assert log.operations.used_bytes == 0


def test_the_public_parts_that_are_remembered_take_little():
    """However many clients there are, with ids as long as may be: `Limits.memory` does not count them."""
    assert held_by(lambda: [public_part(f"{WIDE}{n}") for n in range(5_000)][-1]) <= 1_000_000
