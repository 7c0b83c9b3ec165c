"""Situations that Python clients meet, two of each kind: refusals, filters, offline queues, large collections.

Log-ins are in test_client_users.py.
"""

import asyncio
import dataclasses
import datetime
import gc

import pytest

from bbio import Backend, Conflict, Invalid, Limits, NotFound, QueryLimits, before
from bbio.builtin import MemoryStore
from bbio.client import Changes, Event, TooLarge, connect
from tests.support.proxy import Proxy
from tests.support.servers import eventually

FAST = {"jitter": 0.01, "reconnect": (0.01, 0.05)}


class Place:
    """A server behind a proxy, and clients of it.

    Parameters:
        app: the application.
        proxy: what can be cut.
    """

    def __init__(self, app, proxy):
        self.app = app
        self.proxy = proxy
        self.opened = []
        # Of all pages but the first: one was asked for, and they are answered.
        self.asked = asyncio.Event()
        self.answers = asyncio.Event()
        self.answers.set()

    def client(self, name="board", *, direct=False, **options):
        """Another client's handle."""
        connection = connect(self.app.url if direct else self.proxy.url, **FAST)
        self.opened.append(connection)
        return connection.backend(name, **options)

    async def offline(self, handle):
        self.proxy.refuse()
        await eventually(lambda: asyncio.sleep(0, handle._session.transport is None))


@pytest.fixture
async def place(serve):
    """A board that refuses bad titles and tells few models at once; one that takes ids of the clients' own making."""

    class Board(Backend):
        store = MemoryStore(queries=QueryLimits(models=50, limit=20))

        @before
        async def check(self, req):
            await asyncio.sleep(req.options.get("slow", 0))
            if "$cursor" in req.options.get("data", {}):
                place.asked.set()
                await place.answers.wait()
            if req.method in ("create", "update", "patch") and req.model.get("title") == "bad":
                raise Invalid("no such title", fields={"title": "is bad"})

    class Upserts(Backend):
        store = MemoryStore(upsert=True)

    class Rooms(Backend):
        store = MemoryStore(per_channel=True)

    app = await serve(Board, Upserts, Rooms, limits=Limits(frame=20_000))
    async with Proxy(app.port) as proxy:
        place = Place(app, proxy)
        yield place
        for connection in place.opened:
            await connection.close()


# 1. What the application does to its own reaches nobody else


async def test_what_is_done_to_a_model_of_one_mirror_shows_in_no_other(place):
    """Two mirrors and a reader of one handle have records of their own."""
    mine, theirs = place.client(), place.client()
    await theirs.create({"tags": ["a"]})
    one, two, events = await mine.collection(), await mine.collection(), mine.events()
    (key,) = one
    one[key]["tags"].append("spoilt")
    assert two[key]["tags"] == ["a"]
    await theirs.patch({"id": key, "tags": ["b"]})
    await two.until(lambda mirror: mirror[key]["tags"] == ["b"])
    one[key]["tags"].append("spoilt")
    assert (two[key]["tags"], (await anext(events)).model["tags"]) == (["b"], ["b"])


async def test_what_is_done_to_an_answer_shows_in_no_mirror(place):
    """Neither to the record of a write, nor to that of a conflict."""
    handle = place.client()
    mirror = await handle.collection()
    made = await handle.create({"tags": ["a"]})
    await handle.patch({"id": made["id"], "tags": ["b"]})
    with pytest.raises(Conflict) as caught:
        await handle.update({"id": made["id"], "tags": []}, rev=1)
    for answer in (made, caught.value.current):
        answer["tags"].append("spoilt")
    assert mirror[made["id"]]["tags"] == ["b"]


# 2. What the application raises costs nobody else anything


async def test_a_condition_that_raises_is_its_own_affair(place):
    """Who waits beside it is told all the same, also of what was missed."""
    handle, other = place.client(), place.client(direct=True)
    mirror = await handle.collection()
    broken = asyncio.create_task(mirror.until(lambda mirror: len(mirror) and 1 / 0))
    waiting = asyncio.create_task(mirror.until(lambda mirror: len(mirror) == 2))
    await other.create({"n": 1})
    with pytest.raises(ZeroDivisionError):
        await broken
    await place.offline(handle)
    await other.create({"n": 2})
    place.proxy.admit()
    await waiting
    assert len((await mirror.changed()).added) == 2


async def test_a_reader_that_raises_is_its_own_affair(place):
    """The one beside it, and the mirror, go on; the event is not lost to who reads on."""
    handle, other = place.client(), place.client()
    await handle.ready()
    first, second = handle.events(), handle.events()
    mirror = await handle.collection()

    async def read():
        async for event in first:
            raise ZeroDivisionError(event.model["n"])

    broken = asyncio.create_task(read())
    for n in range(3):
        await other.create({"n": n})
    with pytest.raises(ZeroDivisionError, match="0"):
        await broken
    assert [(await anext(second)).model["n"] for _ in range(3)] == [0, 1, 2]
    assert [(await anext(first)).model["n"] for _ in range(2)] == [1, 2]
    await mirror.until(lambda mirror: len(mirror) == 3)


# 3. Creates that their maker does not wait for


async def test_a_create_that_is_given_up_offline_exists_nowhere(place):
    """Nor does it hold up what was written after it."""
    handle = place.client()
    mirror = await handle.collection()
    await place.offline(handle)
    given_up, kept = (asyncio.create_task(handle.create({"n": n})) for n in range(2))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    place.proxy.admit()
    made = await kept
    assert await handle.read() == [made] == list(mirror.values())


async def test_a_create_that_is_given_up_on_its_way_shows_once(place):
    """The server has it: so has the mirror, as a change like any other, but its reader is told no news."""
    handle, other = place.client(), place.client(direct=True)
    mirror, events = await handle.collection(), handle.events()
    theirs = await other.collection()
    given_up = asyncio.create_task(handle.create({"n": 1}, options={"slow": 0.05}))
    await asyncio.sleep(0)
    given_up.cancel()
    await theirs.until(len)
    await mirror.until(len)
    await other.create({"n": 2})
    assert (await anext(events)).model["n"] == 2
    assert len(await other.read()) == 2 == len(mirror)


# 4. An own create is in no mirror before the server has taken it


async def test_a_refused_create_can_be_corrected(place):
    """Made offline, refused twice: one record in the end, and none before."""
    handle = place.client()
    mirror = await handle.collection()
    await place.offline(handle)
    first = asyncio.create_task(handle.create({"title": "bad"}))
    await asyncio.sleep(0)
    place.proxy.admit()
    for attempt in (first, handle.create({"title": "bad", "note": "n"})):
        with pytest.raises(Invalid) as caught:
            await attempt
        assert caught.value.fields == {"title": "is bad"}
    assert not mirror
    made = await handle.create({"title": "good", "note": "n"})
    assert await handle.read() == [made] == list(mirror.values())


async def test_an_own_create_enters_only_the_mirrors_that_it_fits(place):
    """And moves between them, as that of another would."""
    handle = place.client()
    todo, done = [await handle.collection(data={"column": column}) for column in ("todo", "done")]
    card = await handle.create({"column": "todo"})
    assert ([*todo], [*done]) == ([card["id"]], [])
    with pytest.raises(Invalid):
        await handle.patch({"id": card["id"], "column": "done", "title": "bad"})
    assert ([*todo], [*done]) == ([card["id"]], [])
    await handle.patch({"id": card["id"], "column": "done"})
    assert ([*todo], [*done]) == ([], [card["id"]])


# 5. A revision is what was seen


async def test_what_left_a_mirror_and_came_back_is_saved_as_it_was_seen(place):
    """A write that builds on what was there before is a conflict, and goes through with what the conflict tells."""
    mine, theirs = place.client(), place.client()
    card = await theirs.create({"open": True, "title": "x"})
    key = card["id"]
    mirror = await mine.collection(data={"open": True})
    seen = mirror.rev(key)
    await theirs.patch({"id": key, "open": False})
    await theirs.patch({"id": key, "open": True, "title": "y"})
    await mirror.until(lambda mirror: key in mirror and mirror[key]["title"] == "y")
    with pytest.raises(Conflict) as caught:
        await mine.update({**card, "title": "z"}, rev=seen)
    assert mirror[key]["title"] == "y"
    assert caught.value.rev == mirror.rev(key)
    await mine.update({**mirror[key], "note": "n"}, rev=mirror.rev(key))
    assert await theirs.read(key) == {"id": key, "open": True, "title": "y", "note": "n"} == mirror[key]


async def test_what_was_written_offline_on_an_older_model_is_a_conflict(place):
    """The one who was there first stays; the mirror shows it."""
    mine, theirs = place.client(), place.client(direct=True)
    card = await theirs.create({"title": "x"})
    mirror = await mine.collection()
    await place.offline(mine)
    write = asyncio.create_task(mine.update({**card, "title": "mine"}, rev=mirror.rev(card["id"])))
    await theirs.update({**card, "title": "theirs"})
    place.proxy.admit()
    with pytest.raises(Conflict) as caught:
        await write
    assert caught.value.current["title"] == "theirs"
    await mirror.until(lambda mirror: mirror[card["id"]]["title"] == "theirs")


# 6. One request has one form


async def test_what_waits_is_sent_as_it_was_when_it_was_written(place):
    """However the model and the options are edited afterwards."""
    handle = place.client()
    await handle.ready()
    await place.offline(handle)
    model, options = {"tags": ["a"], "title": "good"}, {"slow": 0}
    write = asyncio.create_task(handle.create(model, options=options))
    await asyncio.sleep(0)
    model["tags"].append("b")
    model["title"], options["slow"] = "bad", 60
    place.proxy.admit()
    made = await write
    assert await handle.read() == [made] == [{"id": made["id"], "tags": ["a"], "title": "good"}]


async def test_a_class_is_written_and_asked_for_as_json_has_it(place):
    """The mirror of a query by a date has the model that was written with it."""

    @dataclasses.dataclass
    class Task:
        title: str
        due: datetime.date

    handle = place.client()
    day = datetime.date(2027, 1, 31)
    mirror = await handle.collection(data={"due": day})
    made = await handle.create(Task("x", day))
    await handle.create(Task("y", datetime.date(2028, 1, 1)))
    assert dict(mirror) == {made["id"]: {"id": made["id"], "title": "x", "due": "2027-01-31"}}
    assert await handle.read(data={"due": day}) == [made]


# 8. Resources end


async def test_a_reader_that_is_closed_leaves_its_channel(place):
    """A client may read the events of any number of channels, one after the other."""
    writer = place.client("rooms", channel="room 69")
    connection = place.client("rooms")._session
    for number in range(70):
        handle = place.opened[-1].backend("rooms", channel=f"room {number}")
        async with handle.events() as events:
            await handle.ready()
            if number == 69:
                await writer.create({"n": number})
                assert (await anext(events)).model["n"] == number
    assert [handle.channel for handle in connection.subscriptions.values() if handle.joined] == [None]


async def test_of_two_that_follow_a_channel_the_one_that_stays_is_told(place):
    """Whether a mirror goes or a reader; who comes back begins anew, and hears nothing of what was between."""
    mine, writer = place.client("rooms", channel="x"), place.client("rooms", channel="x")
    await mine.ready()
    mirror = await mine.collection()
    events = mine.events()
    async with mine.events():
        pass
    for _ in range(2):  # a second time is nothing
        mirror.close()
    await writer.create({"n": 1})
    assert (await anext(events)).model["n"] == 1
    events.close()
    assert not mine._subscription.joined
    await writer.create({"n": 2})
    again = mine.events()
    await mine.ready()
    await writer.create({"n": 3})
    assert (await anext(again)).model["n"] == 3


async def test_what_nobody_has_any_more_is_not_kept(place):
    """Neither handles of channels that were left, nor mirrors that were not closed; who asks again has them anew."""
    handle, writer = place.client("rooms"), place.client("rooms", channel="room 9")
    connection = place.opened[0]
    for number in range(10):
        async with connection.backend("rooms", channel=f"room {number}").collection():
            pass
        await handle.collection()
    mine = connection.backend("rooms", channel="room 9")
    gc.collect()
    assert set(handle._session.subscriptions) == {None, "room 9"}
    assert len(handle._subscription.mirrors) == 0
    async with mine.collection() as mirror:
        made = await writer.create({"n": 1})
        await mirror.until(lambda mirror: made["id"] in mirror)
    assert connection.backend("rooms", channel="room 9") is mine


# 10. A create is told as a create


async def test_a_setting_that_is_saved_by_its_name_is_told_as_created_then_as_updated(place):
    """To readers, whether it was patched or updated into being."""
    mine, theirs = place.client("upserts"), place.client("upserts")
    await theirs.ready()
    events = theirs.events()
    for method, key in (("patch", "theme"), ("update", "size")):
        for value in (1, 2):
            await mine.sync(method, {"id": key, "value": value})
        told = [await anext(events) for _ in range(2)]
        assert [(event.method, event.model["value"]) for event in told] == [("create", 1), ("update", 2)]


async def test_a_setting_enters_the_mirrors_that_it_fits(place):
    """Those of its maker and of others, and is one that was added."""
    mine, theirs = place.client("upserts"), place.client("upserts")
    mirrors = [await handle.collection(data={"kind": "setting"}) for handle in (mine, theirs)]
    await mine.update({"id": "draft", "kind": "draft"})
    await mine.update({"id": "theme", "kind": "setting", "value": "dark"})
    await mine.patch({"id": "theme", "value": "light"})
    for mirror in mirrors:
        await mirror.until(lambda mirror: mirror.get("theme", {}).get("value") == "light")
        assert await mirror.changed() == Changes(added={"theme"})
        assert set(mirror) == {"theme"}


# 11. Limits of the wire


async def test_of_what_was_written_offline_only_what_is_too_large_is_refused(place):
    """With its size; what stands around it is sent."""
    handle = place.client()
    mirror = await handle.collection()
    await place.offline(handle)
    texts = ["a", "é" * 15_000, "b"]
    writes = [asyncio.create_task(handle.create({"text": text})) for text in texts]
    await asyncio.sleep(0)
    place.proxy.admit()
    with pytest.raises(TooLarge) as caught:
        await writes[1]
    assert caught.value.size > 30_000 > caught.value.limit == 20_000
    await asyncio.gather(writes[0], writes[2])
    assert [model["text"] for model in await handle.read()] == ["a", "b"]
    assert sorted(model["text"] for model in mirror.values()) == ["a", "b"]


async def test_what_grew_too_large_stays_what_it_was_until_it_is_smaller(place):
    """The connection it was not sent on is the same before and after."""
    handle = place.client()
    mirror = await handle.collection()
    made = await handle.create({"text": "short"})
    link = handle._session.transport
    for method in ("update", "patch"):
        with pytest.raises(TooLarge):
            await handle.sync(method, {**made, "text": "x" * 20_000})
    assert mirror[made["id"]] == made
    await handle.patch({"id": made["id"], "text": "longer"})
    assert (await handle.read(made["id"]))["text"] == "longer"
    assert handle._session.transport is link


# 13. Collections of any size


async def test_a_filtered_mirror_that_is_larger_than_a_page_is_whole_and_follows(place):
    """Beside the mirror of everything."""
    handle, other = place.client(), place.client()
    for n in range(60):
        await other.create({"n": n, "even": n % 2 == 0})
    everything, even = await handle.collection(), await handle.collection(data={"even": True})
    assert (len(everything), len(even)) == (60, 30)
    gone = next(iter(even))
    await other.delete(gone)
    made = await other.create({"n": 60, "even": True})
    await even.until(lambda mirror: made["id"] in mirror)
    assert (gone in even, len(even), len(everything)) == (False, 30, 60)


async def test_what_is_written_while_a_large_mirror_is_read_is_in_it(place):
    """Created, changed or deleted, by itself and by another, on pages that were read and on those that were not."""
    handle, other = place.client(), place.client()
    made = [await other.create({"n": n}) for n in range(60)]
    await handle.ready()
    place.answers.clear()
    opening = asyncio.create_task(handle.collection().open())
    await place.asked.wait()
    await asyncio.gather(
        *(other.create({"n": 100 + n}) for n in range(10)),
        *(handle.patch({"id": made[n]["id"], "n": -n}) for n in (1, 30, 59)),
        *(other.delete(made[n]["id"]) for n in (2, 31, 58)),
    )
    place.answers.set()
    mirror = await opening
    found, cursor = [], None
    while True:
        page = await other.query({"limit": 20, **({} if cursor is None else {"cursor": cursor})})
        found += page.models
        cursor = page.next
        if cursor is None:
            break
    held = {model["id"]: model for model in found}
    await mirror.until(lambda mirror: dict(mirror) == held)
    assert len(held) == 67


# 14. Smaller


async def test_a_read_that_is_given_up_leaves_everything_as_it_was(place):
    """Its answer is dropped, and the handle follows."""
    handle, other = place.client(), place.client()
    mirror = await handle.collection()
    search = asyncio.create_task(handle.read(data={"t": "b"}, options={"slow": 0.05}))
    await asyncio.sleep(0)
    search.cancel()
    with pytest.raises(asyncio.CancelledError):
        await search
    made = await other.create({"t": "c"})
    await mirror.until(lambda mirror: dict(mirror) == {made["id"]: made})
    assert len(handle._session.outbox) == 0


async def test_a_model_that_another_deletes_at_the_same_time_is_deleted_once(place):
    """Who comes second is told so; the mirror lets go of it once, and the reader hears of it at most once."""
    handle, other = place.client(), place.client()
    made = await other.create({"t": "a"})
    mirror, events = await handle.collection(), handle.events()
    outcomes = await asyncio.gather(
        handle.delete(made, options={"slow": 0.1}), other.delete(made), return_exceptions=True
    )
    assert isinstance(outcomes[0], NotFound)
    await mirror.until(lambda mirror: not mirror)
    assert await mirror.changed() == Changes(removed={made["id"]})
    last = await other.create({"t": "b"})
    assert [await anext(events) for _ in range(2)] == [Event("delete", {"id": made["id"]}, 2), Event("create", last, 3)]
