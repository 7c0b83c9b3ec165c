"""Batches: what is written while input is handled leaves together, in order, and never stays behind."""

import asyncio

from bbio.server.batch import WriteBatch
from bbio.server.budget import Budget, BudgetedParser, Resting


class Writer:
    """Something with frames to write."""

    def __init__(self, batch):
        self.batch = batch
        self.frames = []
        self.written = []

    def write(self, frame):
        if not self.frames:
            self.batch.add(self)
        self.frames.append(frame)

    def flush(self):
        self.written.append(self.frames)
        self.frames = []


class Parser:
    """A parser that hands each chunk to a function."""

    def __init__(self, take):
        self.take = take

    def feed_data(self, data):
        self.take(data)
        return False, data

    def feed_eof(self):
        return "ended"


def parser(take, batch):
    """A parser within a budget that hands each chunk to a function."""
    return BudgetedParser(Parser(take), batch, Budget(Resting()), None)


async def rounds(count):
    """Let the event loop run so many rounds."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_what_one_piece_of_input_causes_leaves_in_one_write():
    """The writes of a chunk's frames are one, made when the chunk is handled."""
    batch = WriteBatch()
    one, other = Writer(batch), Writer(batch)

    def take(data):
        for character in data:
            one.write(character)
            other.write(character.upper())
        assert one.written == other.written == []

    taken = parser(take, batch)
    asyncio.get_running_loop().call_soon(taken.feed_data, "abc")
    await rounds(3)
    assert (one.written, other.written) == ([["a", "b", "c"]], [["A", "B", "C"]])
    assert taken.feed_eof() == "ended"
    assert parser(lambda data: None, batch).feed_data("d") == (False, "d")


async def test_what_arrives_in_one_round_leaves_in_one_write():
    """Several connections were ready: what their input causes is written after all of it is handled."""
    batch = WriteBatch()
    writer = Writer(batch)
    loop = asyncio.get_running_loop()
    for data in "abc":
        loop.call_soon(parser(writer.write, batch).feed_data, data)
    await rounds(4)
    assert writer.written == [["a", "b", "c"]]


async def test_what_no_input_causes_leaves_too():
    """A write from a task or a timer is made in the next round of the loop."""
    batch = WriteBatch()
    writer = Writer(batch)
    writer.write("a")
    writer.write("b")
    assert writer.written == []
    await rounds(2)
    assert writer.written == [["a", "b"]]


async def test_a_parser_that_fails_keeps_nothing_back():
    """An error in the input passes on, and what was written before it leaves."""
    batch = WriteBatch()
    writer = Writer(batch)

    def take(data):
        writer.write(data)
        raise ValueError(data)

    failed = []

    def feed():
        try:
            parser(take, batch).feed_data("a")
        except ValueError as err:
            failed.append(err.args)

    asyncio.get_running_loop().call_soon(feed)
    await rounds(3)
    assert (failed, writer.written, batch.holding) == ([("a",)], [["a"]], False)
