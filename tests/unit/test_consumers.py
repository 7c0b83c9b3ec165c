"""Consumers as they are declared: options, names, and what cannot be."""

from __future__ import annotations

import pytest

from bbio import App, Backend, ConfigurationError, DefinitionError, FrozenError, GiveUp, MemoryLog, Store, after
from bbio.builtin import MemoryStore, SQLiteStore
from bbio.consumers import LONGEST_PAUSE_SECONDS, Consumer


async def work(event):
    """Do nothing."""


class Worker:
    async def __call__(self, event):
        """Do nothing."""


class Issues(Backend):
    store = MemoryStore()


def declared(**options):
    return Consumer(**{"name": "mailer", "backend": "issues", "function": work, **options})


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"name": ""}, "1 to 100 characters"),
        ({"name": "x" * 101}, "1 to 100 characters"),
        ({"name": "a\nb"}, "1 to 100 characters"),
        ({"name": 7}, "1 to 100 characters"),
        ({"since": "yesterday"}, "'now', or at the 'start'"),
        ({"attempts": 0}, "attempts=0"),
        ({"timeout": -1}, "greater than 0"),
        ({"timeout": float("nan")}, "greater than 0"),
        ({"concurrency": True}, "concurrency=True"),
        ({"lease": "10"}, "lease='10'"),
        ({"function": print}, "must be async"),
        ({"on_lost": print}, "on_lost must be async"),
    ],
)
def test_options_that_cannot_be_are_refused(options, text):
    """The text names the consumer and the option."""
    with pytest.raises(ConfigurationError, match=text):
        declared(**options)


def test_pauses_grow_up_to_a_bound():
    """Twice as long each time; a first pause beyond the bound is taken as it is said."""
    assert [declared(pause=1).pause_after(attempt) for attempt in (1, 2, 3)] == [1, 2, 4]
    assert declared(pause=1).pause_after(10_000) == LONGEST_PAUSE_SECONDS
    assert declared(pause=1_000).pause_after(7) == 1_000


def test_the_decorator_returns_the_function():
    """An object that is called asynchronously will do as well."""
    app = App().serve(Issues)
    assert app.consumer("mailer", backend="issues")(work) is work
    caller = Worker()
    assert app.consumer("caller", backend="issues", channel="home", since="start")(caller) is caller
    assert [(each.name, each.channel) for each in app.consumers] == [("mailer", None), ("caller", "home")]


def test_names_are_taken_once():
    """By consumers and by layers."""
    app = App().serve(Issues)
    app.consumer("mailer", backend="issues")(work)
    with pytest.raises(ConfigurationError, match="two consumers are named 'mailer'"):
        app.consumer("mailer", backend="issues")(work)

    class Notes(Backend):
        @after(once=True)
        async def index(self, event):
            """Do nothing."""

    app.serve(Notes).consumer("notes.index", backend="notes")(work)
    with pytest.raises(ConfigurationError, match=r"two consumers are named 'notes\.index'"):
        list(app.consumers)


async def test_it_is_too_late_after_the_start():
    """A consumer that is declared while the application runs would be in one process alone."""
    app = App().serve(Issues)
    async with app.test():
        with pytest.raises(FrozenError, match=r"before app\.run"):
            app.consumer("mailer", backend="issues")(work)


async def test_its_backend_must_be_served():
    """The text names those that are."""
    app = App().serve(Issues)
    app.consumer("mailer", backend="orders")(work)
    with pytest.raises(ConfigurationError, match="there is no backend 'orders'; served: issues"):
        async with app.test():
            pass


async def test_a_log_without_a_ledger_has_no_consumers():
    """The text says what to do."""

    class Bare(MemoryLog):
        def open(self, backend, publisher):
            opened = super().open(backend, publisher)
            opened.consumers = None
            return opened

    class BareStore(Store, Bare):
        async def scratch(self, room):
            return self

    class Notes(Backend):
        store = BareStore()

    app = App().serve(Notes)
    app.consumer("mailer", backend="notes")(work)
    with pytest.raises(ConfigurationError, match="BareStore cannot keep how far consumers are"):
        async with app.test():
            pass


async def test_effects_at_least_once_need_a_database():
    """`@after(once=True)` with an event would promise what memory cannot keep."""

    class Notes(Backend):
        store = MemoryStore()

        @after("create", once=True)
        async def mail(self, event):
            """Do nothing."""

    with pytest.raises(ConfigurationError, match=r"notes\.mail.*MemoryStore is in memory"):
        async with App().serve(Notes).test():
            pass


async def test_effects_at_least_once_run_for_their_methods():
    """Each is a consumer; a plain function runs as well, one with thread=True in a thread; `bbio stacks` shows them."""
    seen = []

    class Notes(Backend):
        store = SQLiteStore("notes.db")

        @after("create", once=True)
        async def mail(self, event):
            seen.append(("mail", event.method, event.model["text"]))

        @after("update", "patch", once=True, thread=True)
        def index(self, event):
            seen.append(("index", event.method, event.model["text"]))

        @after(once=True)
        def count(self, event):
            seen.append(("count", event.method))

    app = App().serve(Notes)
    assert sorted(each.name for each in app.consumers) == ["notes.count", "notes.index", "notes.mail"]
    async with app.test() as t:
        notes = t.backends["notes"]
        note = await notes.create({"text": "a"})
        await notes.patch({**note, "text": "b"})
        await notes.delete(note["id"])
        await t.settle()
    assert [entry for entry in seen if entry[0] == "mail"] == [("mail", "create", "a")]
    assert [entry for entry in seen if entry[0] == "index"] == [("index", "update", "b")]
    assert [entry[1] for entry in seen if entry[0] == "count"] == ["create", "update", "delete"]


def test_a_layer_with_an_event_has_nothing_of_the_request():
    """It may run after a restart; an event does not say whether it was a patch."""
    with pytest.raises(DefinitionError, match="drop `req`"):

        class Mixed(Backend):
            @after("create", once=True)
            async def mail(self, req, event):
                """Do nothing."""

    with pytest.raises(DefinitionError, match="name both, or neither"):

        class Patched(Backend):
            @after("patch", once=True)
            async def mail(self, event):
                """Do nothing."""

    with pytest.raises(DefinitionError, match="one by one"):

        class Listed(Backend):
            @after(["create"], once=True)
            async def mail(self, event):
                """Do nothing."""


def test_giving_up_has_a_reason():
    """It is kept with the dead letter."""
    assert str(GiveUp("no such address")) == "no such address"
