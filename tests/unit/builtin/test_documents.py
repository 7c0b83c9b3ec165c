"""What the stores in databases share, over a database that is a few dictionaries."""

import asyncio
import secrets

import pytest

from bbio import Backend, NotFound, Request, Store
from bbio.builtin.documents import Batch, DocumentStore
from bbio.conformance import CLAIMS, StoreConformance
from bbio.protocol import decode
from bbio.requests import ENDLESS, ListSize
from bbio.store import RowRefused
from bbio.streams import Position
from tests.support.stacks import Served

STUBS = ("look_up", "look_up_operation", "positions", "select", "since", "submit", "submit_all")


class Filled(DocumentStore):
    """Every stub, filled in as simply as it can be: what is written is kept in memory, one write at a time."""

    def open(self, backend, publisher):
        opened = super().open(backend, publisher)
        opened.rev, opened.epoch = 0, secrets.token_hex(6)
        opened.models, opened.replies, opened.events = {}, {}, []
        opened._ids = map(str, range(10_000))
        for model in opened._initial:
            opened.models["", model["id"]] = (0, opened.encode(model))
        return opened

    def submit(self, change):
        change.future = asyncio.get_running_loop().create_future()
        self.take(self.apply([change]))
        if change.error is None:
            change.future.set_result(change.result)
        else:
            change.future.set_exception(change.error)
        return change.future

    def submit_all(self, whole):
        future = asyncio.get_running_loop().create_future()
        batch = self.apply(whole.changes)
        try:
            whole.keep(batch)
        except RowRefused as err:
            future.set_exception(err)
        else:
            self.take(batch)
            future.set_result([change.result for change in whole.made])
        return future

    def apply(self, changes):
        batch = Batch(self, changes)
        batch.rev, batch.epoch, batch.models, batch.replies = (
            self.rev,
            self.epoch,
            dict(self.models),
            dict(self.replies),
        )
        batch.tops = {change.stream: (self.epoch, len(self.kept(change.stream))) for change in changes}
        batch.bases = {
            (key, rev): event.body
            for (name, rev), key in batch.stale.items()
            for event in self.kept(name)
            if event.rev == rev and event.method != "delete" and decode(event.body)[self.id_attribute] == key[1]
        }
        batch.apply()
        return batch

    def take(self, batch):
        self.rev, self.models, self.replies = batch.rev, batch.models, batch.replies
        self.events += batch.events

    def kept(self, stream):
        return [event for event in self.events if event.stream == stream]

    async def look_up(self, key):
        return self.models.get(key)

    async def look_up_operation(self, operation):
        return self.replies.get(operation)

    async def select(self, query, scope, client=None, most=ENDLESS, passes_on=False):
        rows = [row for (channel, _), row in self.models.items() if scope in ((), (channel,))]
        return [decode(body) for _, body in rows], [rev for rev, _ in rows], None, ListSize(0)

    async def positions(self, streams):
        return {name: self.position(self.kept(name)) for name in streams}

    def position(self, events):
        return Position(self.epoch, len(events), events[-1].stamp if events else 0)

    async def since(self, stream, epoch, offset, stamp=0):
        events = self.kept(stream)
        if epoch != self.epoch or type(offset) is not int or not 0 <= offset <= len(events):
            return None
        return None if stamp and self.position(events[:offset]).stamp != stamp else events[offset:]


class TestFilled(StoreConformance):
    """A store whose stubs are all filled in is a store: nothing that it inherits lacks anything."""

    claims = CLAIMS - {"persistent", "history", "queries", "filters", "was"}

    def make_store(self, **options):
        return Filled(**options)


async def test_nothing_is_missing_in_a_store_whose_stubs_are_filled():
    """Whatever a server asks of a store and its log is answered, also what the base answers."""

    class Todos(Backend):
        store = Filled()

    served = Served(Todos)
    await served.runtime.start()
    made = await served.ask("create", {"title": "milk"})
    assert await served.ask("read", {"id": made["id"]}) == made
    with pytest.raises(NotFound):
        await served.ask("patch", {"id": "nowhere"})
    log = served.runtime.log
    assert log is served.runtime.store is log.log
    log.share_memory(None)
    await log.tell_recheck(None)
    assert await served.runtime.since("c:", served.events[0].epoch, 0) == served.events
    await served.runtime.stop()


async def test_many_writes_are_made_together_or_not_at_all():
    """Each is told; of those with one that is refused none is made, and the error says which it was."""

    class Todos(Backend):
        store = Filled()

    served = Served(Todos)
    await served.runtime.start()
    store = served.runtime.store

    def request(method, model):
        return Request(method=method, model=model, channel=None, options={}, socket=None, backend=Todos)

    commits = await store.write_all([request("create", {"n": n}) for n in range(2)])
    await asyncio.sleep(0)  # it is told once the writes are made, whoever waits for them
    assert [event.offset for event in served.events] == [commit.event.offset for commit in commits] == [1, 2]
    with pytest.raises(RowRefused) as refused:
        await store.write_all([request("create", {"n": 2}), request("patch", {"id": "nowhere"})])
    assert (refused.value.index, type(refused.value.error)) == (1, NotFound)
    assert len(served.events) == 2
    assert sorted(id for _, id in store.models) == ["0", "1"]
    await served.runtime.stop()


@pytest.mark.parametrize("left_out", STUBS)
def test_a_stub_that_is_not_filled_is_told(left_out):
    """When the store is made, by name, and not when a client first needs it."""
    body = {name: vars(Filled)[name] for name in STUBS if name != left_out}
    with pytest.raises(TypeError, match=rf"abstract class Unfinished .*\b{left_out}\b"):
        type("Unfinished", (DocumentStore,), body)()


def test_there_are_no_other_stubs():
    """The list above is the whole list."""
    assert sorted(DocumentStore.__abstractmethods__) == sorted(STUBS)
    assert issubclass(DocumentStore, Store)
