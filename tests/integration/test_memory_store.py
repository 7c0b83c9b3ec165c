"""The memory store, over the wire."""

import pytest

from bbio import Backend, after
from bbio.builtin import MemoryStore
from tests.support.servers import heard
from tests.support.wire import SyncFailed


def backend(**options):
    """A backend `todos` over a memory store with options."""

    class Todos(Backend):
        store = MemoryStore(**options)

    return Todos


async def refused(client, method, model, name="NotFound"):
    """The sync must fail with that error."""
    with pytest.raises(SyncFailed, match=name):
        await client.sync(method, model)


async def test_ids_are_given_by_the_server(serve, join):
    """Each created model has an id of its own, also when two clients create at once."""
    app = await serve(backend())
    alice, bob = await join(app, "todos"), await join(app, "todos")
    started = [(client, await client.start("create", {"n": n})) for n in range(20) for client in (alice, bob)]
    ids = [(await client.finish(id))["id"] for client, id in started]
    assert len(set(ids)) == 40


async def test_a_client_cannot_take_the_place_of_a_model_by_creating_it(serve, join):
    """Creating with the id of an existing model never overwrites that model."""
    alice = await join(await serve(backend()), "todos")
    milk = await alice.sync("create", {"title": "milk"})
    with pytest.raises(SyncFailed, match="BadRequest"):
        await alice.sync("create", {"id": milk["id"], "title": "mine now"})
    assert await alice.sync("read", {"id": milk["id"]}) == milk


async def test_an_unknown_id_is_not_found(serve, join):
    """Reading, updating, patching and deleting what is not there fails, and stores nothing."""
    alice = await join(await serve(backend()), "todos")
    for method in ("read", "update", "patch", "delete"):
        await refused(alice, method, {"id": "nowhere", "title": "x"})
    assert await alice.sync("read") == []


async def test_a_deleted_model_is_not_found(serve, join):
    """Deleting twice, or writing after deleting, fails."""
    alice = await join(await serve(backend()), "todos")
    milk = await alice.sync("create", {"title": "milk"})
    await alice.sync("delete", milk)
    for method in ("read", "update", "patch", "delete"):
        await refused(alice, method, milk)


async def test_upsert_creates_what_is_updated_or_patched(serve, join):
    """With `upsert=True` update and patch of an unknown id store it; read and delete still fail."""
    app = await serve(backend(upsert=True))
    alice, bob = await join(app, "todos"), await join(app, "todos")
    assert await alice.sync("update", {"id": "a", "n": 1}) == {"id": "a", "n": 1}
    assert await alice.sync("patch", {"id": "b", "n": 2}) == {"id": "b", "n": 2}
    assert await alice.sync("patch", {"id": "a", "m": 3}) == {"id": "a", "n": 1, "m": 3}
    assert await alice.sync("read") == [{"id": "a", "n": 1, "m": 3}, {"id": "b", "n": 2}]
    for method in ("read", "delete"):
        await refused(alice, method, {"id": "c"})
    (events,) = await heard(app.backends["todos"], bob)
    assert [model["id"] for _, model in events] == ["a", "b", "a"]


async def test_the_id_attribute_may_have_another_name(serve, join):
    """With `id_attribute="_id"` that is what identifies models, and `id` is an attribute like any other."""
    alice = await join(await serve(backend(id_attribute="_id")), "todos")
    milk = await alice.sync("create", {"title": "milk", "id": 7})
    assert set(milk) == {"_id", "id", "title"}
    assert await alice.sync("read", {"_id": milk["_id"]}) == milk
    assert await alice.sync("update", {"_id": milk["_id"], "id": 8}) == {"_id": milk["_id"], "id": 8}
    await refused(alice, "read", {"_id": "7"})
    await alice.sync("delete", {"_id": milk["_id"]})
    assert await alice.sync("read") == []


async def test_options_data_filters_by_equality(serve, join):
    """A collection read with `options.data` returns the models that have all of those values."""
    alice = await join(await serve(backend()), "todos")
    for model in ({"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"b": "x"}, {"a": None}):
        await alice.sync("create", model)

    async def found(data):
        return [
            {key: value for key, value in model.items() if key != "id"}
            for model in await alice.sync("read", {}, {"data": data})
        ]

    assert await found({"a": 1}) == [{"a": 1, "b": "x"}, {"a": 1, "b": "y"}]
    assert await found({"a": 1, "b": "x"}) == [{"a": 1, "b": "x"}]
    assert await found({"b": "z"}) == []
    assert await found({"c": 1}) == await found({"c": None}) == await found({"a": True}) == []
    assert await found({"a": None}) == [{"a": None}]
    assert len(await found({})) == 5


@pytest.mark.parametrize("data", [1, "a", [1], True])
async def test_a_filter_that_is_no_object_is_a_bad_request(serve, join, data):
    """What cannot be a filter is refused, not ignored: ignoring it would show everything."""
    alice = await join(await serve(backend()), "todos")
    await alice.sync("create", {"a": 1})
    with pytest.raises(SyncFailed, match="BadRequest"):
        await alice.sync("read", {}, {"data": data})


async def test_channels_share_the_models_by_default(serve, join):
    """Channels are about who is told; without `per_channel` everybody reads the same models."""
    app = await serve(backend())
    home, work = await join(app, "todos", "home"), await join(app, "todos", "work")
    milk = await home.sync("create", {"title": "milk"})
    assert await work.sync("read") == [milk]


async def test_per_channel_keeps_the_models_apart(serve, join):
    """With `per_channel=True` each channel has its own models, and ids of another channel are unknown."""
    app = await serve(backend(per_channel=True))
    home, work, plain = (
        await join(app, "todos", "home"),
        await join(app, "todos", "work"),
        await join(app, "todos"),
    )
    milk = await home.sync("create", {"title": "milk"})
    assert await work.sync("read") == await plain.sync("read") == []
    assert await home.sync("read") == [milk]
    for method in ("read", "update", "patch", "delete"):
        await refused(work, method, {"id": milk["id"], "title": "stolen"})
    assert await home.sync("read", {"id": milk["id"]}) == milk
    await home.listen("work")
    assert await home.sync("read", channel="work") == []
    assert await home.sync("read", channel="home") == [milk]


async def test_what_a_client_was_given_is_its_own_copy(serve, join):
    """A layer that changes a result does not reach into the store."""

    class Todos(Backend):
        store = MemoryStore()

        @after("create", "read")
        def scribble(self, req, res):
            for model in res.result if isinstance(res.result, list) else [res.result]:
                model["scribbled"] = True
                model["tags"].append("scribbled")

    app = await serve(Todos)
    alice, bob = await join(app, "todos"), await join(app, "todos")
    await alice.sync("create", {"title": "milk", "tags": []})
    _, told = await bob.synced()
    assert (told.get("scribbled"), told["tags"]) == (None, [])
    for _ in range(2):
        assert (await alice.sync("read"))[0]["tags"] == ["scribbled"]


@pytest.mark.parametrize("id", [{"$ne": None}, ["a"], True, 1.5])
async def test_an_id_is_a_string_or_a_whole_number(serve, join, id):
    """Anything else finds nothing and stores nothing."""
    alice = await join(await serve(backend(upsert=True)), "todos")
    for method in ("read", "update", "patch", "delete"):
        with pytest.raises(SyncFailed) as caught:
            await alice.sync(method, {"id": id, "title": "x"})
        assert caught.value.error["code"] in (400, 404)
    assert await alice.sync("read") == []


@pytest.mark.parametrize("method", ["update", "patch", "delete"])
async def test_a_write_without_an_id_is_a_bad_request(serve, join, method):
    """Writing a model that names none is refused."""
    alice = await join(await serve(backend(upsert=True)), "todos")
    await refused(alice, method, {"title": "x"}, "BadRequest")
    assert await alice.sync("read") == []


async def test_a_store_of_ones_own_sees_the_models_of_a_list(serve, join):
    """They stay JSON only where no code of the application comes between."""

    class Own(MemoryStore):
        async def read(self, req):
            return [{**model, "seen": True} for model in (await super().read(req)).models]

    class Todos(Backend):
        store = Own(models=[{"id": 1}])

    alice = await join(await serve(Todos), "todos")
    assert await alice.sync("read") == [{"id": 1, "seen": True}]
