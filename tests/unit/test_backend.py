"""Backend classes: names, what a class body may hold, `use`, freezing, what is published, `emit`."""

import asyncio
import contextlib
import copy
import dataclasses
import re
import threading

import attrs
import pytest

from bbio import (
    App,
    Backend,
    ConfigurationError,
    DefinitionError,
    Forbidden,
    FrozenError,
    HistoryLimits,
    Middleware,
    NotFound,
    QueryLimits,
    Store,
    after,
    before,
    create,
    delete,
    patch,
    read,
    update,
    use,
    visible,
)
from bbio.backend import check_name, default_name
from bbio.builtin import Logger, MemoryStore, SQLiteStore
from bbio.ratelimit import LINES_PER_SECOND
from bbio.registry import Registry
from bbio.requests import METHODS
from tests.support.stacks import Recorder, Served


class Settings(Store):
    """A store of one record, which answers with more than it was sent."""

    def __init__(self):
        self.value = None

    async def read(self, req):
        return self.value

    async def create(self, req):
        self.value = {**req.model, "id": 1}
        return self.value

    update = patch = delete = create


# Names


@pytest.mark.parametrize(
    ("written", "name"),
    [("Todos", "todos"), ("TodoItems", "todo_items"), ("A1Tasks", "a1_tasks"), ("HTTP", "http")],
)
def test_the_name_comes_from_the_class_name(written, name):
    """Words are joined with underscores."""
    cls = type(written, (Backend,), {})
    assert default_name(cls) == cls.name == name


def test_a_name_of_its_own():
    """`name = ...` wins, for this class and not for its subclasses, which would take the same name."""

    class Todos(Backend):
        name = "team/to-dos.v2"

    class Urgent(Todos): ...

    assert (Todos.name, Urgent.name) == ("team/to-dos.v2", "urgent")


@pytest.mark.parametrize("name", ["to dos", "/todos", "todos/", "a//b", "tâches", 5, "x" * 255, "a\n"], ids=repr)
def test_a_name_that_could_be_no_namespace(name):
    """It is refused when the class is defined, with what is allowed."""
    with pytest.raises(DefinitionError, match=re.escape(f"{name!r} is not a backend name; use letters, digits, '_'")):
        type("Todos", (Backend,), {"name": name})


def test_a_class_name_that_could_be_no_namespace():
    """The same holds for a name made from the class name."""
    with pytest.raises(DefinitionError, match="is not a backend name; use letters"):
        type("Tâches", (Backend,), {})


def test_the_longest_name():
    """Names of 254 characters are the longest."""
    assert check_name("x" * 254) == "x" * 254


# Class bodies


@pytest.mark.parametrize("store", [Settings, "todos.db", {}, 5], ids=repr)
def test_a_store_that_is_none(store):
    """The class of a store is no store; the text shows an instance."""
    with pytest.raises(
        DefinitionError,
        match=r"Todos\.store is .*; it must be an instance of a Store, such as MemoryStore\(\)",
    ):
        type("Todos", (Backend,), {"store": store})


@pytest.mark.parametrize("name", ["emit", "use"])
def test_names_the_backend_uses_itself(name):
    """A method, a value or a mixin of that name would break it; the text says to take another."""
    text = f"Todos.{name} hides Backend.{name}; give it another name"
    for value in (lambda self: None, 5):
        with pytest.raises(DefinitionError, match=re.escape(text)):
            type("Todos", (Backend,), {name: value})
    mixin = type("Mixin", (), {name: lambda self: None})
    with pytest.raises(DefinitionError, match=re.escape(text)):
        type("Todos", (mixin, Backend), {})


EVERYDAY = (
    *("attempts", "compile", "layers", "log", "namespace", "on", "open", "publisher", "recheck", "since", "stacks"),
    *("start", "stop", "call", "admit", "declared", "runtime", "_spawn", "_commit", "_plain", "_threads"),
)


async def test_everyday_names_are_free():
    """As values, as methods and as layers: the backend starts, answers, emits and stops, and has them as its own."""

    class Todos(Backend):
        store = MemoryStore()

    valued = type("Valued", (Todos,), {name: [name] for name in EVERYDAY})
    called = type("Called", (Todos,), {name: lambda self: type(self).__name__ for name in EVERYDAY})
    layered = type("Layered", (Todos,), {name: before("create")(lambda self, req: None) for name in EVERYDAY})
    for cls in (valued, called, layered):
        served = await started(cls)
        assert (await served.ask("create", {"title": "milk"}))["title"] == "milk"
        served.backend.emit("created", {"id": 2})
        await asyncio.gather(*served.tasks)
        assert [method for method, _ in served.published] == ["create", "create"]
        await served.runtime.stop()
    assert Served(valued).backend.log == ["log"]
    assert Served(called).backend.recheck() == "Called"
    assert [layer.name for layer in Served(layered).runtime.layers] == [f"Layered.{name}" for name in EVERYDAY]


class FileStore(Settings):
    """A store whose models have another id."""

    id_attribute = "_id"


@pytest.mark.parametrize(
    ("declared", "text"),
    [
        (
            {"id_attribute": "_id"},
            "Todos.id_attribute is not looked at, as it is the store that has it; write store = "
            "MemoryStore(id_attribute='_id')",
        ),
        ({"id_attribute": "_id", "store": SQLiteStore("todos.db")}, "write store = SQLiteStore(id_attribute='_id')"),
        ({"id_attribute": property(lambda self: "_id")}, "Todos.id_attribute is not looked at"),
        ({"history": HistoryLimits(events=5)}, "write store = MemoryStore(history=HistoryLimits(events=5, "),
        ({"queries": QueryLimits()}, "write store = MemoryStore(queries=QueryLimits("),
    ],
)
def test_options_of_a_store_are_not_those_of_a_backend(declared, text):
    """They would change nothing in silence, and another id costs conflict protection; the text shows where they go."""
    with pytest.raises(DefinitionError, match=re.escape(text)):
        type("Todos", (Backend,), declared)
    mixin = type("Mixin", (), {name: value for name, value in declared.items() if name != "store"})
    with pytest.raises(DefinitionError, match=re.escape(text.replace("Todos.", "Mixin."))):
        type("Todos", (mixin, Backend), {"store": declared.get("store")})


def test_what_a_store_says_too_may_stand_in_a_backend():
    """An id that is the store's own, and names that only look like options of a store."""

    class Todos(Backend):
        store = FileStore()
        id_attribute = "_id"
        history = ["a", "list", "of", "the", "application's"]

    assert Served(Todos).runtime.id_attribute == "_id"


@attrs.define
class Todo:
    """A model."""

    title: str


@pytest.mark.parametrize(
    ("name", "value", "meant"),
    [
        ("stor", Settings(), "store"),
        ("Store", Settings(), "store"),
        ("storage", Settings(), "store"),
        ("STORE", Settings(), "store"),
        ("midleware", [Middleware()], "middleware"),
        ("middlewares", (Middleware(),), "middleware"),
        ("middle_ware", Middleware(), "middleware"),
        ("Model", Todo, "model"),
        ("modell", Todo, "model"),
        ("Model", type("Model", (), {}), "model"),
        ("Model", dataclasses.make_dataclass("Todo", []), "model"),
        ("unknow", "drop", "unknown"),
        ("recheckInterval", 1.0, "recheck_interval"),
        ("recheck_intervall", 5, "recheck_interval"),
        ("notified", "unfiltered", "notifies"),
        ("delta", True, "deltas"),
    ],
)
def test_an_attribute_that_looks_like_a_declaration(name, value, meant):
    """It would declare nothing; the text says what was meant. In a mixin as well, or over a base that declares it."""
    text = f"Todos.{name} is not looked at; did you mean {meant!r}? Write {meant} = ..., or give it a name that"
    with pytest.raises(DefinitionError, match=re.escape(text)):
        type("Todos", (Backend,), {name: value})
    with pytest.raises(DefinitionError, match=re.escape(text.replace("Todos", "Mixin"))):
        type("Todos", (type("Mixin", (), {name: value}), Backend), {})
    base = type("Base", (Backend,), {"store": Settings(), "middleware": [Middleware()], "recheck_interval": 9.0})
    with pytest.raises(DefinitionError, match=re.escape(text)):
        type("Todos", (base,), {name: value})


@pytest.mark.parametrize(
    "body",
    [
        {"stored": True, "stores": ["a"], "storage": "disk", "story": "", "store_path": "x", "history": Settings()},
        {"mode": "fast", "modes": [1], "models": [{"id": 1}], "Model": "a name", "MODEL": "gpt", "node": Todo},
        {"middle": 1, "middlewares": 3, "hardware": [Middleware()], "middleware_names": ["a"]},
        {"known": "drop", "unknowns": ["drop"], "unknown_id": "x", "names": ["a"], "title": "a", "NAME": "x"},
        {"check_interval": 5, "interval": 1.0, "recheck_at": 5},
        {"archive": Settings(), "cache": Settings(), "_store": Settings()},
        {"store": Settings(), "storage": Settings(), "model": Todo, "Model": Todo},
    ],
    ids=lambda body: next(iter(body)),
)
def test_everyday_names_are_left_alone(body):
    """Names that resemble, for values that could not be meant; values that could, under names of their own."""
    type("Todos", (Backend,), body)


@pytest.mark.parametrize("value", [True, False, "all", []])
def test_notifications_are_filtered_by_scopes_or_not_at_all(value):
    """There is one word to say; the text names it."""
    with pytest.raises(DefinitionError, match=r"Todos.notifies is .*; write notifies = 'unfiltered', or leave it out"):
        type("Todos", (Backend,), {"notifies": value})


@pytest.mark.parametrize("name", ["name", "middleware", "store", "model", "schema", "emit", "use", "notifies"])
def test_layers_cannot_take_the_names_of_declarations(name):
    """A layer called `store` would be no store."""
    with pytest.raises(DefinitionError, match=f"Todos.{name} hides Backend.{name}"):
        type("Todos", (Backend,), {name: before(lambda self: None)})


def test_each_served_instance_has_a_store_of_its_own():
    """The store in the class body is a declaration, opened for every backend."""

    class Todos(Backend):
        store = Settings()

    first, second = Served(Todos), Served(Todos)
    assert first.backend.store is not second.backend.store
    assert first.backend.store is not Todos.store


def test_the_id_attribute_is_the_stores():
    """`id` when there is no store."""

    class Keyed(Settings):
        id_attribute = "_id"

    assert Served(type("Todos", (Backend,), {"store": Keyed()})).backend.id_attribute == "_id"
    assert Served(type("Todos", (Backend,), {})).backend.id_attribute == "id"


# The store and what is published


async def test_the_store_answers_when_nothing_above_did():
    """Reads and writes; what it returns is acknowledged and published, a patch as an update."""

    class Todos(Backend):
        store = Settings()

    served = Served(Todos)
    assert await served.ask("create", {"title": "a"}) == {"title": "a", "id": 1}
    assert await served.ask("patch", {"title": "b"}) == {"title": "b", "id": 1}
    assert await served.ask("read") == {"title": "b", "id": 1}
    assert served.published == [("create", {"title": "a", "id": 1}), ("update", {"title": "b", "id": 1})]


async def test_a_handler_above_the_store_stops_it():
    """A handler that does not call `next` answers instead of the store."""

    class Todos(Backend):
        store = Settings()

        @create
        def mine(self, req):
            return {"mine": True}

    served = Served(Todos)
    assert await served.ask("create", {"title": "a"}) == {"mine": True}
    assert await served.ask("read") is None
    assert served.published == [("create", {"mine": True})]


async def test_what_the_store_committed_is_published_whatever_layers_make_of_it():
    """The store is the commit point: a reply shaped above it, or an error, changes nothing for the others."""

    class Todos(Backend):
        store = Settings()

        @use("create")
        async def dressed(self, next):
            return {"reply": await next()}

        @use("update")
        async def failing(self, next):
            await next()
            raise KeyError

    served = Served(Todos)
    assert await served.ask("create", {}) == {"reply": {"id": 1}}
    assert (await served.sync("update", {})).failure is not None
    assert served.published == [("create", {"id": 1}), ("update", {"id": 1})]


async def test_without_a_store_the_result_is_published():
    """The result of the stack, or the model when that is None; nothing for reads and failures."""

    class Todos(Backend):
        @create
        def made(self, req):
            return {**req.model, "id": 1}

        @update
        def handled(self, req): ...

        @patch
        def broken(self):
            raise KeyError

        @read
        def found(self):
            return []

    served = Served(Todos)
    for method in ("create", "update", "patch", "read", "delete"):
        await served.sync(method, {"title": method})
    assert served.published == [
        ("create", {"title": "create", "id": 1}),
        ("update", {"title": "update"}),
        ("delete", {"title": "delete"}),
    ]


async def test_a_patch_without_a_store_is_published_as_an_update():
    """Other clients are told of the whole model, whoever answered."""

    class Todos(Backend):
        @patch
        def patched(self, req):
            return {**req.model, "title": "whole"}

    served = Served(Todos)
    await served.ask("patch", {"id": 1})
    assert served.published == [("update", {"id": 1, "title": "whole"})]


async def test_events_go_to_the_channel_of_the_request():
    """Each channel has a stream, and so has the default one."""

    class Todos(Backend):
        @delete
        def gone(self, req): ...

    served = Served(Todos)
    await served.ask("create", {}, channel="room")
    await served.ask("delete", {}, channel=None)
    assert [event.stream for event in served.events] == ["c:room", "c:"]


async def test_a_result_that_cannot_be_written_as_json():
    """It is an error of the stack, so that nothing half done is published."""

    class Todos(Backend):
        @create
        def strange(self):
            return object()

    served = Served(Todos)
    res = await served.runtime.stacks["create"].run(served.request("create", {}))
    assert isinstance(res.failure, TypeError)
    assert served.published == []


# What reads leave out


class Narrowed(Backend):
    store = MemoryStore()

    @use("read")
    async def own(self, req, next):
        return [todo for todo in await next() if todo["owner"] == req.user["id"]]


def of_narrowing(caplog):
    """What the log says of layers that leave something out of reads."""
    return [record.message for record in caplog.records if "leaves something out" in record.message]


async def test_the_start_warns_of_reads_that_leave_out_what_others_are_told(caplog):
    """Once for the backend, with the line, the guide, and what says that it is meant."""

    class Mine(Middleware):
        @after("read")
        def mine(self, req, res):
            if req.user is None:
                res.result = []

    class Two(Narrowed):
        middleware = [Mine()]

    served = await started(Two)
    own, mine = (f"{__file__}:{function.__code__.co_firstlineno}" for function in (Narrowed.own, Mine.mine))
    assert of_narrowing(caplog) == [
        f"two (Two): a read leaves something out in Mine.mine ({mine}), Two.own ({own}), and others are told of each "
        "write all the same; say with @visible which records a client may have, or write notifies = 'unfiltered' if "
        "that is meant (docs/visibility.md)"
    ]
    await served.runtime.stop()


async def test_reads_that_may_leave_something_out_are_not_warned_of(caplog):
    """Where that is meant, where `@visible` filters what others are told too, and where nobody writes."""

    class Meant(Narrowed):
        notifies = "unfiltered"

    class Visible(Narrowed):
        @visible
        def scope(self, req):
            return {"owner": req.user["id"]}

    class Refusing(Narrowed):
        @create
        def refuse(self):
            """Nobody makes any."""
            raise Forbidden("no")

        @before("update", "patch", "delete")
        def keep(self):
            raise Forbidden("no")

    for cls in (Meant, Visible, Refusing):
        served = await started(cls)
        await served.runtime.stop()
    assert of_narrowing(caplog) == []


def test_notifications_are_not_both_filtered_and_unfiltered():
    """A class that says both says nothing."""

    class Todos(Backend):
        store = MemoryStore()
        notifies = "unfiltered"

        @visible
        def scope(self):
            return True

    with pytest.raises(DefinitionError, match=r"Todos\.scope is @visible, which filters .*Todos\.notifies is 'unf"):
        Served(Todos)


# What nothing answers


def warnings(caplog):
    """What the log says of what nothing answers."""
    return [record.message for record in caplog.records if "nothing answers" in record.message]


async def started(cls):
    """A backend that runs."""
    served = Served(cls)
    await served.runtime.start()
    return served


async def test_the_start_tells_what_nothing_answers(caplog):
    """Once, with the methods, and how to mend it; middleware of bbio answers nothing."""

    class Todos(Backend):
        middleware = [Logger()]

        @read
        def find(self):
            return []

    served = await started(Todos)
    text = (
        "todos (Todos): nothing answers create, update, patch, delete: the client gets back the model that it sent, "
        "and other clients are notified; give the backend a store, or write @create above a method that answers, or "
        "that refuses"
    )
    assert warnings(caplog) == [text]
    assert await served.ask("create", {"title": "a"}) == {"title": "a"}
    assert warnings(caplog) == [text]
    await served.runtime.stop()


async def test_a_backend_that_answers_all_is_told_nothing(caplog):
    """With a store, or with a handler for each method, be it one that hands over to the bottom or refuses."""

    class Stored(Backend):
        store = Settings()

    class Handled(Backend):
        @create
        @read
        def relay(self, next):
            return next()

        @update
        @patch
        @delete
        def refuse(self):
            raise Forbidden

    for cls in (Stored, Handled):
        served = await started(cls)
        await served.sync("read", {})
        await served.sync("delete", {})
        await served.runtime.stop()
    assert warnings(caplog) == []


async def test_what_only_use_layers_could_answer_is_told_when_none_does(caplog):
    """Whether they do shows in a request; the log says it once for each method."""

    class Todos(Backend):
        @use
        async def some(self, req, next):
            return [] if req.method == "read" else await next()

    served = await started(Todos)
    assert await served.ask("read", {}) == []
    assert warnings(caplog) == []
    for _ in range(2):
        assert await served.ask("create", {"title": "a"}) == {"title": "a"}
    assert [message.split(":")[1] for message in warnings(caplog)] == [" nothing answers create"]
    await served.runtime.stop()


async def test_a_handler_that_answers_nothing_is_told(caplog):
    """With its line, once for each method; a delete may, and whoever says so with `res.end` or `next`."""

    class Todos(Backend):
        @create
        @update
        def forgot(self, req):
            req.state["done"] = True

        @read
        async def found_nothing(self, res):
            res.end(None)

        @patch
        async def relay(self, next):
            await next()

        @delete
        def remove(self): ...

    served = Served(Todos)
    for method in (*METHODS, *METHODS):
        await served.sync(method, None)
    told = [record.message for record in caplog.records]
    assert told == [
        f"Todos.forgot ({Todos.forgot.__code__.co_filename}:{Todos.forgot.__code__.co_firstlineno}) answers a {method} "
        "with nothing: `return` the result; the client gets null, and others are told the model as the client sent it"
        for method in ("create", "update")
    ]


async def test_a_read_that_answers_nothing_is_told(caplog):
    """Nobody else hears of a read."""

    class Todos(Backend):
        @read
        def forgot(self): ...

    assert await Served(Todos).ask("read", {}) is None
    assert [record.message.partition("with nothing: ")[2] for record in caplog.records] == [
        "`return` the result; the client gets null"
    ]


# use


async def test_use_adds_to_the_end_of_the_middleware_list():
    """In the order of the calls; for all methods, or for those named."""
    said = []

    def saying(what):
        def layer(next):
            said.append(what)
            return next()

        return layer

    class Both(Middleware):
        @before
        def first(self):
            said.append("instance")

        @use("delete")
        def unused(self):
            raise AssertionError

    class Todos(Backend):
        middleware = [saying("listed")]

        @before
        def own(self):
            said.append("own")

    Todos.use(saying("all"))
    Todos.use("create", "read", saying("some"))
    Todos.use("create", Both())
    served = Served(Todos)
    await served.ask("create", {})
    assert said == ["listed", "all", "some", "instance", "own"]
    said.clear()
    await served.ask("delete", {})
    assert said == ["listed", "all", "own"]


async def test_use_on_a_class_is_for_it_and_its_subclasses():
    """What is used by one backend is not used by its base or by others."""

    class Base(Backend): ...

    class Todos(Base): ...

    Base.use("read", lambda next: "base")
    assert await Served(Todos).ask("read") == "base"
    Todos.use("create", lambda next: "todos")
    assert await Served(Base).ask("create", "own model") == "own model"
    assert await Served(Todos).ask("create") == "todos"
    assert await Served(Todos).ask("read") == "base"
    assert Backend.__bbio_used__ == ()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ((), "Todos.use(...) needs a middleware last: Todos.use('create', fn)"),
        (("create",), "Todos.use(...) needs a middleware last: Todos.use('create', fn)"),
        ((lambda next: 1, "create"), "Todos.use(...) needs a middleware last: Todos.use('create', fn)"),
        (
            ("creat", lambda next: 1),
            "Todos.use('creat'): there is no sync method 'creat'; did you mean 'create'?",
        ),
        (("read", "read", lambda next: 1), "Todos.use: 'read' is named twice; name each sync method once"),
        ((lambda next: 1, lambda next: 1), "there is no sync method"),
        ((Middleware,), "middleware lists instances, not classes: write Middleware() instead of Middleware"),
        (("create", None), "None is not middleware; list an instance"),
        ((lambda request: 1,), "unknown parameter `request`; did you mean `req`?"),
    ],
)
def test_use_refuses_what_is_no_middleware(args, text):
    """At once, with the fix, and without keeping anything."""

    class Todos(Backend): ...

    with pytest.raises(DefinitionError, match=re.escape(text)):
        Todos.use(*args)
    assert Todos.__bbio_used__ == ()


# Freezing


async def test_use_is_over_once_the_application_has_started():
    """Before the start it counts even for a backend that is already served; after it, it raises."""

    class Todos(Backend): ...

    class Urgent(Todos): ...

    served = Served(Todos)
    Todos.use("read", lambda next: "used")
    await served.runtime.start()
    assert await served.ask("read") == "used"
    with pytest.raises(
        FrozenError,
        match=r"Todos\.use\(\.\.\.\) came after the application had started; call it before app\.run\(\)",
    ):
        Todos.use(lambda next: next())
    Urgent.use("create", lambda next: "still open")
    await served.runtime.stop()
    Todos.use("read", lambda next: "used, too")


async def test_use_is_over_for_the_bases_of_a_class_that_has_started():
    """What is added to a base would be missing from the running stack, so it raises; other classes are free."""

    class Base(Backend): ...

    class Todos(Base): ...

    class Notes(Base): ...

    served = Served(Todos)
    await served.runtime.start()
    with pytest.raises(FrozenError, match=r"Base\.use"):
        Base.use(lambda next: next())
    Notes.use("read", lambda next: "used")
    await served.runtime.stop()
    Base.use("read", lambda next: "used later")
    assert await Served(Todos).ask("read") == "used later"


class Pool(Middleware):
    """Says when it is started and stopped; one with a mistake cannot be started."""

    def __init__(self, said, label, mistake=None):
        self.said = said
        self.label = label
        self.mistake = mistake

    async def start(self, backend):
        if self.mistake is not None:
            raise self.mistake
        self.said.append(f"start {self.label} of {backend.name}")

    async def stop(self):
        self.said.append(f"stop {self.label}")


class Remote(Store):
    """A store that says the same."""

    def __init__(self, said):
        self.said = said

    async def start(self):
        self.said.append("start store")

    async def stop(self):
        self.said.append("stop store")


async def test_start_and_stop_reach_store_and_middleware():
    """Store first, middleware in order; stopped the other way round. Functions have nothing to start."""
    said = []

    class Todos(Backend):
        middleware = [Pool(said, "a"), lambda next: next(), Pool(said, "b")]
        store = Remote(said)

    Todos.use("read", Pool(said, "c"))
    served = Served(Todos)
    await served.runtime.start()
    await served.runtime.stop()
    assert said == [
        *("start store", "start a of todos", "start b of todos", "start c of todos"),
        *("stop c", "stop b", "stop a", "stop store"),
    ]


async def test_a_start_that_fails_stops_what_has_started():
    """The store and the middleware before the one that failed, and `use` is open again."""
    said = []

    class Todos(Backend):
        middleware = [Pool(said, "a"), Pool(said, "b", OSError("no connection")), Pool(said, "c")]
        store = Remote(said)

    served = Served(Todos)
    with pytest.raises(OSError, match="no connection"):
        await served.runtime.start()
    assert said == ["start store", "start a of todos", "stop a", "stop store"]
    Todos.use("read", lambda next: "used")


async def test_middleware_without_hooks_can_be_started():
    """Hooks are optional."""

    class Todos(Backend):
        middleware = [Middleware()]

    served = Served(Todos)
    await served.runtime.start()
    assert await served.ask("read", 1) == 1
    await served.runtime.stop()


def test_instances_are_compiled_one_by_one():
    """A layer is bound to the instance that is served, so two instances of a class may differ."""

    class Todos(Backend):
        def __init__(self, label):
            self.label = label

        @read
        def which(self):
            return self.label

    one, two = Served(Todos("one")), Served(Todos("two"))
    assert asyncio.run(one.ask("read")) == "one"
    assert asyncio.run(two.ask("read")) == "two"


# emit


@pytest.mark.parametrize(("event", "method"), [("created", "create"), ("updated", "update"), ("deleted", "delete")])
async def test_emit_tells_of_a_change_no_client_made(event, method):
    """Everybody without a channel, its listeners with one, the default channel with the empty name."""

    class Todos(Backend): ...

    served = Served(Todos)
    served.backend.emit(event, {"id": 1})
    served.backend.emit(event, {"id": 2}, channel="room")
    served.backend.emit(event, {"id": 3}, channel="")
    await asyncio.gather(*served.tasks)
    assert served.published == [(method, {"id": 1}), (method, {"id": 2}), (method, {"id": 3})]
    assert [e.stream for e in served.events] == ["*", "c:room", "c:"]


async def test_emit_takes_the_model_as_it_is_at_the_call():
    """What the caller does with it afterwards does not show."""

    class Todos(Backend): ...

    served = Served(Todos)
    model = {"id": 1}
    served.backend.emit("created", model)
    model["id"] = "changed"
    await asyncio.gather(*served.tasks)
    assert served.published == [("create", {"id": 1})]


async def test_listeners_hear_what_is_emitted(caplog):
    """In order and at once, async ones in the application; one that fails is logged and costs the others nothing."""

    class Todos(Backend): ...

    heard = []

    async def later(model):
        heard.append(("later", model["id"]))

    def broken(model):
        raise RuntimeError("a bad listener")

    served = Served(Todos)
    todos = served.runtime
    todos.on("created", broken).on("created", later).on("created", lambda model: heard.append(("created", model["id"])))
    todos.on("deleted", lambda model: heard.append(("deleted", model["id"])))
    todos.emit("created", {"id": 1})
    todos.emit("updated", {"id": 2})
    todos.emit("deleted", {"id": 3})
    assert heard == [("created", 1), ("deleted", 3)]
    await asyncio.gather(*served.tasks)
    assert heard[2:] == [("later", 1)]
    assert "a bad listener" in caplog.text
    assert [method for method, _ in served.published] == ["create", "update", "delete"]


async def test_a_listener_that_fails_again_and_again_fills_no_log(caplog):
    """So many lines are written in a second, however often a client has the application emit."""

    class Todos(Backend): ...

    def broken(model):
        raise RuntimeError("a bad listener")

    served = Served(Todos)
    served.runtime.on("created", broken)
    for n in range(10 * LINES_PER_SECOND):
        served.backend.emit("created", {"id": n})
    await asyncio.gather(*served.tasks)
    assert caplog.text.count("a listener to") <= 3 * LINES_PER_SECOND  # should two seconds begin meanwhile


def test_listeners_are_checked_when_they_are_given():
    """A misspelt event and what cannot be called are mistakes of the caller's."""

    class Todos(Backend): ...

    with pytest.raises(ValueError, match=r"on\('create'\): the event is one of created, updated, deleted"):
        Served(Todos).runtime.on("create", print)
    with pytest.raises(TypeError, match="not a function of the model"):
        Served(Todos).runtime.on("created", None)


@pytest.mark.parametrize("method", ["create", "read", "update", "patch", "delete"])
async def test_all_means_every_sync_method(method):
    """As `use('all', fn)` did in backbone.io, and in decorators too."""

    class Todos(Backend):
        @use("all")
        async def inner(self, next):
            return ["inner", await next()]

    Todos.use("all", lambda req, res, next: res.end("outer") if req.method == "create" else next())
    result = await Served(Todos).ask(method, {"id": 1})
    assert result == ("outer" if method == "create" else ["inner", {"id": 1}])


async def test_emit_refuses_other_events():
    """The names of events are not those of methods; the text lists them."""

    class Todos(Backend): ...

    with pytest.raises(ValueError, match=r"emit\('create'\): the event is one of created, updated, deleted"):
        Served(Todos).backend.emit("create", {})


def test_emit_needs_a_served_backend():
    """An instance nobody serves has nobody to tell; the text says how to serve it."""

    class Todos(Backend): ...

    with pytest.raises(ConfigurationError, match=r"Todos\.emit needs a served backend; call app\.serve\(Todos\) first"):
        Todos().emit("created", {})


async def test_emit_from_another_thread():
    """What is emitted elsewhere is handed to the one who serves the backend."""
    handed = []

    class Todos(Backend): ...

    todos = Registry(handed.append).add(Todos)
    events = []
    todos.open(Recorder(events))
    thread = threading.Thread(target=todos.emit, args=("created", {"id": 1}))
    thread.start()
    thread.join()
    assert events == []
    await handed[0]()
    assert [event.method for event in events] == ["create"]


# Inheritance of declarations


async def test_a_subclass_inherits_declarations_and_layers():
    """Middleware and store are class attributes like any other: inherited, or replaced as a whole."""

    class Base(Backend):
        middleware = [lambda req, next: next()]
        store = Settings()

        @after
        def shape(self, res):
            res.result = ["shaped", res.result]

    class Todos(Base):
        middleware = []

    served = Served(Todos)
    assert await served.ask("create", {}) == ["shaped", {"id": 1}]
    assert [layer.name for layer in served.runtime.layers] == ["Todos.shape"]
    assert len(Served(Base).runtime.layers) == 2


async def test_a_layer_that_hides_what_the_store_raised_hides_nothing():
    """It caught the error but gave no answer, so the error is the answer."""

    class Full(Store):
        async def read(self, req):
            raise NotFound("no room")

        create = read

    class Todos(Backend):
        store = Full()

        @use
        async def careless(self, next):
            with contextlib.suppress(NotFound):
                await next()

    for method in ("read", "create"):
        with pytest.raises(NotFound, match="no room"):
            await Served(Todos).ask(method, {})


async def test_a_backend_that_is_opened_again_begins_anew():
    """What it declares is its class's store, not the one that it was opened with before."""

    class Todos(Backend):
        store = MemoryStore()

    served = Served(Todos)
    for _ in range(2):
        await served.ask("create", {"title": "milk"})
        assert [event.offset for event in served.events] == [1]
        served.events.clear()
        served.runtime.open(Recorder(served.events))
    assert served.backend.store is served.runtime.store is served.runtime.log
    assert served.runtime.declared is Todos.store is not served.backend.store


def test_an_instance_is_served_once():
    """It knows one runtime; the text says to serve another instance. A copy is another."""

    class Todos(Backend): ...

    todos = Todos()
    App().serve(todos)
    for app in (App(), App().serve(notes=Todos)):
        with pytest.raises(
            ConfigurationError,
            match=r"this Todos is served already, as 'todos'; serve another instance: app\.serve\(tasks=Todos\(\)\)",
        ):
            app.serve(tasks=todos)
    assert list(App().serve(copy.copy(todos)).backends) == ["todos"]


@dataclasses.dataclass(frozen=True)
class Dated(Backend):
    """A backend whose instances do not change."""

    store = MemoryStore()
    day: int = 1


async def test_a_backend_knows_what_it_is_served_as():
    """Its name and its store, as they are opened; though it is frozen."""
    notes = Dated()
    registry = Registry(lambda work: None)
    runtime = registry.add(notes, "notes")
    runtime.open(Recorder())
    assert (notes.name, runtime.name, runtime.backend) == ("notes", "notes", notes)
    assert notes.store is runtime.store is not Dated.store
    assert repr(runtime) == "<Runtime notes of Dated>"


async def test_the_id_of_a_store_that_an_instance_chose():
    """It is that of the models in what clients are told, too."""

    class Todos(Backend):
        model = Todo

        def __init__(self):
            self.store = MemoryStore(id_attribute="_id")

    served = Served(Todos())
    assert served.runtime.id_attribute == served.runtime.schema.id_attribute == "_id"
    assert served.backend.schema is served.runtime.schema is not Todos.schema
    created = await served.ask("create", {"title": "milk"})
    assert created.keys() == {"_id", "title"}
    assert served.published == [("create", created)]


async def test_recheck_by_the_backend_itself():
    """Who listens is asked again, as by its runtime; an instance that nobody serves has nobody to ask."""

    class Todos(Backend): ...

    asked = []

    class Listeners(Recorder):
        async def recheck(self, channel=None):
            asked.append(channel)

    served = Served(Todos)
    served.runtime.open(Listeners())
    await served.backend.recheck("home")
    await served.runtime.recheck()
    assert asked == ["home", None]
    with pytest.raises(ConfigurationError, match=r"Todos\.recheck needs a served backend"):
        await Todos().recheck()


# What has moved


async def test_what_has_moved_to_the_runtime_is_found_for_one_version_more():
    """With a warning that says what to write; an instance that nobody serves has none of it, nor any of other names."""

    class Todos(Backend): ...

    served = Served(Todos)
    for name in ("layers", "log", "namespace", "on", "since", "stacks"):
        place = f"app.backends['todos'].{name}"
        with pytest.warns(DeprecationWarning, match=re.escape(f"Todos.{name} has moved: write {place}")):
            assert getattr(served.backend, name) == getattr(served.runtime, name)
        with pytest.raises(
            AttributeError, match=re.escape(f"Todos.{name} has moved: serve the backend, and write {place}")
        ):
            getattr(Todos(), name)
    with pytest.raises(AttributeError, match="'Todos' object has no attribute 'titel'"):
        served.backend.titel  # noqa: B018


async def test_what_is_a_backends_own_is_found_in_its_runtime_for_one_version_more():
    """`app.backends[...]` was the backend; the warning says that `.backend` is."""

    class Todos(Backend):
        def __init__(self):
            self.due = 3

    served = Served(Todos)
    with pytest.warns(DeprecationWarning, match=r"has due: write app\.backends\['todos'\]\.backend\.due"):
        assert served.runtime.due == 3
    for name in ("titel", "__titel__"):
        with pytest.raises(AttributeError, match=f"'Runtime' object has no attribute '{name}'"):
            getattr(served.runtime, name)
