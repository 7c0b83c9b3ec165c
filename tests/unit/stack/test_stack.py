"""The middleware stack by example: order, answers, errors, and what the messages of mistakes say."""

import asyncio
import inspect
import re

import pytest

from bbio import (
    Backend,
    BadRequest,
    Conflict,
    DefinitionError,
    Forbidden,
    Middleware,
    NotFound,
    StackError,
    SyncError,
    Unauthorized,
    after,
    before,
    create,
    delete,
    on_error,
    patch,
    read,
    update,
    use,
)
from bbio.builtin import MemoryStore
from bbio.errors import EncodingError
from bbio.requests import Request
from bbio.stack.stack import Stack, location, make_layer, middleware_layers
from tests.support.stacks import Served

LINE = re.escape(__file__) + r":\d+"


# Order


class Noisy(Middleware):
    """Middleware with a layer of every kind, defined in no particular order."""

    def __init__(self, label, said):
        self.label, self.said = label, said

    @after
    def shaped(self, res):
        self.said.append(f"{self.label}.after")

    @use
    async def around(self, next):
        self.said.append(f"{self.label}.use")
        result = await next()
        self.said.append(f"{self.label}.use again")
        return result

    @before
    def first(self):
        self.said.append(f"{self.label}.before")


async def test_layers_run_in_the_documented_order():
    """Middleware in list order, then before, use, handlers, store, and `after` on the way back."""
    said = []

    class Todos(Backend):
        middleware = [Noisy("one", said), Noisy("two", said)]

        @create
        def answer(self, req):
            said.append("handler")
            return {"id": 1}

        @after
        def shape(self, res):
            said.append("after")

        @use
        async def inner(self, next):
            said.append("use")
            return await next()

        @before
        def check(self):
            said.append("before")

    assert await Served(Todos).ask("create") == {"id": 1}
    assert said == [
        *("one.before", "one.use", "two.before", "two.use"),
        *("before", "use", "handler"),
        *("two.use again", "one.use again"),
        *("one.after", "two.after", "after"),
    ]


async def test_the_use_layer_defined_first_is_outermost():
    """Two `use` layers nest as they are written."""

    class Todos(Backend):
        @use
        async def outer(self, next):
            return ["outer", await next()]

        @use
        async def inner(self, next):
            return ["inner", await next()]

    assert await Served(Todos).ask("read", {"id": 1}) == ["outer", ["inner", {"id": 1}]]


async def test_the_bottom_answers_with_the_model():
    """Without handlers and store the model comes back, as layers have left it."""

    class Todos(Backend):
        @before("create")
        def number(self, req):
            req.model = {**req.model, "id": 5}

    served = Served(Todos)
    assert await served.ask("create", {"title": "a"}) == {"title": "a", "id": 5}
    assert await served.ask("update", {"title": "a"}) == {"title": "a"}


def test_layers_for_other_methods_are_not_in_the_stack():
    """What does not apply costs nothing: it is not there."""

    class Todos(Backend):
        @before("create")
        def checked(self): ...

        @read
        def found(self): ...

    stacks = Served(Todos).runtime.stacks
    assert {method: [layer.name for layer in stack.layers] for method, stack in stacks.items()} == {
        "create": ["Todos.checked"],
        "read": ["Todos.found"],
        "update": [],
        "patch": [],
        "delete": [],
    }


async def test_every_handler_decorator_answers_its_method():
    """Each of the five, and one function for two."""

    class Todos(Backend):
        @create
        def a(self):
            return "created"

        @read
        def b(self):
            return "read"

        @update
        @patch
        def c(self, req):
            return req.method

        @delete
        def d(self):
            return "deleted"

    served = Served(Todos)
    replies = [await served.ask(method) for method in ("create", "read", "update", "patch", "delete")]
    assert replies == ["created", "read", "update", "patch", "deleted"]


async def test_a_handler_may_hand_over_to_the_next_one():
    """Handlers run in order as long as each calls `next`; one that does not stops the chain."""

    class Todos(Backend):
        @read
        async def mine(self, req, next):
            return "mine" if req.model == "mine" else await next()

        @read
        def yours(self, req):
            return "yours"

        @read
        def nobodys(self):
            raise AssertionError("the chain had stopped")

    served = Served(Todos)
    assert await served.ask("read", "mine") == "mine"
    assert await served.ask("read", "other") == "yours"


async def test_a_handler_that_returns_nothing_answers_nothing():
    """The result is None, and what is below does not run."""

    class Todos(Backend):
        @delete
        def forget(self): ...

        @update
        async def forget_too(self, next): ...

    served = Served(Todos)
    assert await served.ask("delete", {"id": 1}) is None
    assert await served.ask("update", {"id": 1}) is None


@pytest.mark.parametrize("result", [0, "", [], {}, False], ids=repr)
async def test_falsy_results_are_results(result):
    """Only None means that a layer gave no answer."""

    class Todos(Backend):
        @use
        def answered(self):
            return result

    assert await Served(Todos).ask("read", "below") is result


# Parameters


async def test_parameters_are_matched_by_name_in_any_order():
    """Each layer gets what it names, however it is written; req and res are the same objects for all."""
    seen = []

    class Todos(Backend):
        @before
        def one(self, res, req):
            seen.append((req, res))

        @use
        async def two(self, *, next, res, req):
            seen.append((req, res))
            return await next()

        @create
        def three(self, limit=3, *, req, res):
            assert limit == 3
            seen.append((req, res))
            raise BadRequest

        @on_error
        def four(self, res, err, req):
            assert isinstance(err, BadRequest)
            seen.append((req, res))

    await Served(Todos).sync("create")
    assert len(seen) == 4
    assert len({(id(req), id(res)) for req, res in seen}) == 1


async def test_nothing_is_inspected_per_request(monkeypatch):
    """Signatures are read when the class is compiled and never again."""

    class Todos(Backend):
        @before
        def check(self, req): ...

        @use
        def around(self, next):
            return next()

    served = Served(Todos)

    def inspected(*args, **kwargs):
        raise AssertionError("inspected while a request ran")

    for name in ("signature", "iscoroutinefunction", "isawaitable", "getfullargspec"):
        monkeypatch.setattr(inspect, name, inspected)
    assert await served.ask("create", {"id": 1}) == {"id": 1}


# Sync and async


async def test_a_function_may_return_what_next_returned_without_waiting():
    """`return next()` is waited for, in a sync function and in an async one that forgot to."""

    class Todos(Backend):
        @use
        def sync(self, next):
            return next()

        @use
        async def forgetful(self, next):
            return next()

        @read
        def handler(self):
            return asyncio.sleep(0, "late")

        @create
        async def handler_too(self):
            return asyncio.sleep(0, "later")

    served = Served(Todos)
    assert await served.ask("read") == "late"
    assert await served.ask("create") == "later"


async def test_sync_functions_that_return_awaitables_are_waited_for_everywhere():
    """A sync `before`, `after` or `on_error` layer may return a coroutine, too."""
    said = []

    async def note(what):
        await asyncio.sleep(0)
        said.append(what)

    class Todos(Backend):
        @before
        def a(self):
            return note("before")

        @before
        async def b(self):
            await note("async before")

        @after
        def c(self):
            return note("after")

        @after
        async def d(self):
            await note("async after")
            raise BadRequest

        @on_error
        def e(self):
            return note("on_error")

        @on_error
        async def f(self):
            await note("async on_error")

    await Served(Todos).sync("read")
    assert said == ["before", "async before", "after", "async after", "on_error", "async on_error"]


# Answers


async def test_before_layers_answer_by_res_only():
    """Their return value means nothing; `res.end` answers and nothing below runs."""

    class Todos(Backend):
        @before("create")
        def ignored(self):
            return "not this"

        @before("read")
        def cached(self, res):
            res.end("cached")

        @before("read")
        def never(self):
            raise AssertionError

        @use("read")
        def not_reached(self):
            raise AssertionError

    served = Served(Todos)
    assert await served.ask("create", {"id": 1}) == {"id": 1}
    assert await served.ask("read") == "cached"


async def test_the_first_answer_wins():
    """After `res.end` neither a later settlement nor a returned value changes the result."""

    class Todos(Backend):
        @use
        async def above(self, res, next):
            assert await next() == "first"
            res.error(BadRequest("late"))
            return "not this"

        @read
        def answer(self, res):
            res.end("first")
            res.end("second")
            return "third"

    assert await Served(Todos).ask("read") == "first"


async def test_res_end_without_a_value_is_an_answer():
    """None given with `res.end` is a result, and a `use` layer that gives it has answered."""

    class Todos(Backend):
        @use
        def silent(self, res):
            res.end()

    assert await Served(Todos).ask("read", {"id": 1}) is None


async def test_res_error_rejects():
    """`res.error` reaches the layers above as an exception, and the client as the reply."""
    seen = []

    class Todos(Backend):
        @use
        async def above(self, next):
            try:
                return await next()
            except NotFound as error:
                seen.append(str(error))
                return "not this: it is settled"

        @read
        def missing(self, res):
            res.error(NotFound("no such todo"))

    with pytest.raises(NotFound, match="no such todo"):
        await Served(Todos).ask("read")
    assert seen == ["no such todo"]


async def test_a_layer_above_may_catch_what_is_raised_below_and_answer():
    """Plain Python: `try`, `except`, `return`."""

    class Todos(Backend):
        @use
        async def fallback(self, next):
            try:
                return await next()
            except KeyError:
                return []

        @read
        def broken(self):
            raise KeyError("gone")

    assert await Served(Todos).ask("read") == []


async def test_an_exception_caught_without_an_answer_stands():
    """A layer that only watches lets the error through, as it would let a result through."""
    seen = []

    class Todos(Backend):
        @use
        async def watch(self, next):
            try:
                await next()
            except NotFound as error:
                seen.append(error)

        @read
        def missing(self):
            raise NotFound

    with pytest.raises(NotFound):
        await Served(Todos).ask("read")
    assert len(seen) == 1


async def test_an_exception_after_an_answer_is_an_error():
    """A layer that refuses after what is below has answered refuses: nothing of the answer gets out."""

    class Todos(Backend):
        @use
        async def too_much(self, next):
            await next()
            raise Forbidden("too much")

        @read
        def answer(self, res):
            res.end("secret")

    res = await Served(Todos).sync("read")
    assert (type(res.failure), res.result) == (Forbidden, None)


# Mistakes


async def test_calling_next_twice():
    """The second call raises in the caller; the text names the layer, its place, and the fix."""

    class Todos(Backend):
        @use
        async def twice(self, next):
            await next()
            return await next()

    res = await Served(Todos).runtime.stacks["read"].run(Served(Todos).request("read"))
    assert isinstance(res.failure, StackError)
    assert re.fullmatch(
        rf"Todos\.twice \({LINE}\) called next twice; call it once and keep the result", str(res.failure)
    )


async def test_a_use_layer_that_neither_answers_nor_calls_next():
    """The text names the layer, its place, and the ways to answer; with and without a `next` parameter."""

    class Todos(Backend):
        @use("read")
        async def lost(self, next): ...

        @use("create")
        def lost_too(self): ...

    served = Served(Todos)
    for method, name in (("read", "lost"), ("create", "lost_too")):
        res = await served.runtime.stacks[method].run(served.request(method))
        assert isinstance(res.failure, StackError)
        assert re.fullmatch(
            rf"Todos\.{name} \({LINE}\) neither answered nor called next; "
            r"return a result, call res\.end\(result\), or `return await next\(\)`",
            str(res.failure),
        )


async def test_calling_next_without_waiting():
    """What is below has not run, so there is no result to take; the text shows the await."""

    class Todos(Backend):
        @use
        def hasty(self, next):
            next()

    served = Served(Todos)
    with pytest.warns(RuntimeWarning, match="never awaited"):
        res = await served.runtime.stacks["read"].run(served.request("read"))
    assert isinstance(res.failure, StackError)
    assert re.fullmatch(
        rf"Todos\.hasty \({LINE}\) called next but did not wait; write `await next\(\)`", str(res.failure)
    )


async def test_a_mistake_in_the_stack_is_an_internal_error_for_the_client(caplog):
    """The client learns nothing of layers and files; the log has it all."""

    class Todos(Backend):
        @use
        def lost(self): ...

    res = await Served(Todos).sync("read")
    assert res.failure.to_json() == {
        "name": "InternalError",
        "message": "Internal error.",
        "code": 500,
        "id": res.failure.values["id"],
    }
    assert "Todos.lost" in caplog.text
    assert res.failure.values["id"] in caplog.text


# Errors


async def test_an_error_skips_to_the_on_error_layers():
    """In order, each with the error; a sync error then reaches the client as it is."""
    seen = []

    class Todos(Backend):
        @before
        def refuse(self):
            raise Unauthorized("log in first")

        @read
        def never(self):
            raise AssertionError

        @after
        def nor_this(self):
            raise AssertionError

        @on_error
        def first(self, err):
            seen.append(("first", str(err)))
            return "ignored"

        @on_error
        async def second(self, err, req):
            seen.append(("second", str(err)))

    with pytest.raises(Unauthorized, match="log in first"):
        await Served(Todos).ask("read")
    assert seen == [("first", "log in first"), ("second", "log in first")]


async def test_on_error_never_runs_on_success():
    """There is nothing for it to see."""

    class Todos(Backend):
        @on_error
        def never(self):
            raise AssertionError

    assert await Served(Todos).ask("create", {"id": 1}) == {"id": 1}


@pytest.mark.parametrize("way", ["raise", "res.error"])
async def test_an_on_error_layer_may_put_another_error_in_place(way):
    """By raising it or with `res.error`; the layers after it see the new one."""
    seen = []

    class Todos(Backend):
        @read
        def broken(self):
            raise KeyError("row 7")

        @on_error
        def translate(self, err, res):
            seen.append(type(err))
            if way == "raise":
                raise NotFound("no such todo") from err
            res.error(NotFound("no such todo"))

        @on_error
        def observe(self, err):
            seen.append(type(err))

    with pytest.raises(NotFound, match="no such todo"):
        await Served(Todos).ask("read")
    assert seen == [KeyError, NotFound]


async def test_an_on_error_layer_may_recover():
    """`res.end` makes it a reply, even after `res.error`; other layers do not run, nothing is published."""

    class Todos(Backend):
        @create
        def broken(self, res):
            res.error(BadRequest("no"))

        @on_error
        def recover(self, res):
            res.end("instead")

        @on_error
        def never(self):
            raise AssertionError

        @after
        def nor_this(self):
            raise AssertionError

    served = Served(Todos)
    assert await served.ask("create") == "instead"
    assert served.published == []


async def test_recovering_with_nothing_is_recovering():
    """`res.end()` answers None."""

    class Todos(Backend):
        @read
        def broken(self):
            raise KeyError

        @on_error
        def recover(self, res):
            res.end()

    res = await Served(Todos).sync("read")
    assert (res.failure, res.result) == (None, None)


async def test_cancellation_is_no_error():
    """A cancelled request is cancelled: `on_error` layers do not see it and cannot recover from it."""
    reached = asyncio.Event()

    class Todos(Backend):
        @read
        async def slow(self):
            reached.set()
            await asyncio.Event().wait()

        @on_error
        def never(self, res):
            res.end("recovered")

    task = asyncio.create_task(Served(Todos).ask("read"))
    await reached.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


# After


async def test_after_layers_shape_the_reply_only():
    """They assign `res.result`; what was the result before is published, and what they return is ignored."""

    class Todos(Backend):
        @create
        def made(self):
            return {"id": 1}

        @after
        def shape(self, res):
            res.result = {**res.result, "greeting": "hello"}
            return "ignored"

        @after
        def late(self, res):
            res.end("ignored too")

    served = Served(Todos)
    assert await served.ask("create") == {"id": 1, "greeting": "hello"}
    assert served.published == [("create", {"id": 1})]


async def test_an_after_layer_that_raises():
    """The rest are skipped and the on_error layers run."""
    seen = []

    class Todos(Backend):
        @after
        def broken(self):
            raise KeyError

        @after
        def never(self):
            raise AssertionError

        @on_error
        def observe(self, err):
            seen.append(type(err))
            raise BadRequest("cannot be shown")

    with pytest.raises(BadRequest):
        await Served(Todos).ask("read")
    assert seen == [KeyError]


# Once


async def test_a_layer_of_once_gets_what_was_written():
    """A copy of the record as it was committed, whatever layers make of the reply; and it changes nothing of that."""
    seen = []

    class Todos(Backend):
        @create
        def make(self, req):
            return {"id": 1, "tags": []}

        @use("create")
        async def grow(self, next):
            result = await next()
            result["tags"].append("grown")
            return result

        @after("create", once=True)
        async def first(self, req, record):
            seen.append((req.method, record))
            record["tags"].append("spoilt")

        @after("create")
        def shape(self, res):
            res.result["greeting"] = "hello"

    assert await Served(Todos).ask("create", {}) == {"id": 1, "tags": ["grown"], "greeting": "hello"}
    assert seen == [("create", {"id": 1, "tags": ["grown", "spoilt"]})]


async def test_a_layer_of_once_above_a_store_gets_what_was_stored():
    """Not what layers above the store make of its record."""
    seen = []

    class Todos(Backend):
        store = MemoryStore()

        @use
        async def dress(self, next):
            result = await next()
            result["dressed"] = True
            return result

        @after(once=True)
        def note(self, record):
            seen.append(record)

    await Served(Todos).ask("create", {"title": "milk"})
    assert [record.keys() for record in seen] == [{"id", "title"}]


async def test_layers_of_once_run_whatever_becomes_of_the_reply(caplog):
    """What was written and told to others has its effects, in order; one that fails is logged and stops no other."""
    seen = []

    class Todos(Backend):
        store = MemoryStore()

        @after("create", once=True)
        def broken(self):
            raise BadRequest("no such mailbox")

        @after("write", once=True)
        def second(self, record):
            seen.append(record["title"])

        @use("create")
        async def late(self, next):
            await next()
            raise KeyError

        @on_error
        def explain(self, err):
            raise Conflict("explained")

    served = Served(Todos)
    with pytest.raises(Conflict):
        await served.ask("create", {"title": "milk"})
    assert seen == ["milk"]
    assert [method for method, _ in served.published] == ["create"]
    (told,) = [record.getMessage() for record in caplog.records]
    assert told.startswith("Todos.broken (")
    assert told.endswith(") failed after the write that it was for; a retry of the write does not run it again")
    assert "no such mailbox" in caplog.text


@pytest.mark.parametrize("base", [{}, {"store": MemoryStore()}], ids=["handlers", "store"])
async def test_layers_of_once_do_not_run_for_what_was_not_written(base):
    """A read, a refusal, and a failure that is recovered from."""
    seen = []

    class Todos(Backend):
        @before("create")
        def refuse(self, req):
            raise BadRequest

        @on_error("create")
        def recover(self, res):
            res.end({})

        @before("update")
        def answer(self, res):
            res.error("no")

        @after(once=True)
        def note(self, record):
            seen.append(record)

    served = Served(type("Todos", (Todos,), base))
    await served.sync("create", {})
    await served.sync("update", {"id": 1})
    await served.sync("read", {})
    assert (served.published, seen) == ([], [])


# Admission


async def test_listening_asks_the_before_layers_of_read():
    """Who may not read may not listen; handlers do not run, and layers can tell the two apart."""

    class Todos(Backend):
        @before
        def check(self, req):
            assert req.event == "listen"
            if req.channel == "private":
                raise Unauthorized

        @before("create")
        def not_asked(self):
            raise AssertionError

        @read
        def nor_this(self):
            raise AssertionError

    served = Served(Todos)
    assert await served.registry.admit(served.runtime, served.request("read", event="listen")) == (None, None)
    refused, _ = await served.registry.admit(served.runtime, served.request("read", event="listen", channel="private"))
    assert isinstance(refused, Unauthorized)


async def test_a_backend_without_before_layers_lets_everybody_listen():
    """There is nobody to ask."""

    class Todos(Backend): ...

    served = Served(Todos)
    assert await served.registry.admit(served.runtime, served.request("read", event="listen")) == (None, None)


async def test_recovering_lets_nobody_listen():
    """An on_error layer may answer a forbidden read with something harmless; the events stay forbidden."""

    class Todos(Backend):
        @before
        def refuse(self):
            raise Unauthorized("log in first")

        @on_error("read")
        def nothing(self, res):
            res.end([])

    served = Served(Todos)
    assert await served.ask("read") == []
    refused, _ = await served.registry.admit(served.runtime, served.request("read", event="listen"))
    assert isinstance(refused, Unauthorized)


@pytest.mark.parametrize("answer", [[], None, [{"id": 1}]])
async def test_a_before_layer_that_answers_a_read_admits_nobody(answer):
    """To answer with something else, such as nothing, is a way to refuse; who cannot read cannot listen."""

    class Quiet(Backend):
        @before("read")
        def members_only(self, req, res):
            if req.channel == "staff":
                res.end(answer)

    served = Served(Quiet)
    assert await served.registry.admit(served.runtime, served.request("read", event="listen")) == (None, None)
    refused, _ = await served.registry.admit(served.runtime, served.request("read", event="listen", channel="staff"))
    assert isinstance(refused, Forbidden)


async def test_an_unexpected_error_while_admitting_is_internal(caplog):
    """It is logged whole; the client gets an id."""

    class Todos(Backend):
        @before
        def broken(self):
            raise KeyError("secret")

    served = Served(Todos)
    error, _ = await served.registry.admit(served.runtime, served.request("read", event="listen"))
    assert set(error.to_json()) == {"name", "message", "code", "id"}
    assert "secret" not in str(error.to_json())
    assert "secret" in caplog.text


# Middleware


async def test_a_plain_function_is_middleware():
    """A callable with any of req, res and next is a `use` layer for all methods."""

    async def logged(req, next):
        return [req.method, await next()]

    class Quoting:
        def __call__(self, next):
            return next()

    class Todos(Backend):
        middleware = [logged, Quoting(), lambda next: next()]

    assert await Served(Todos).ask("read", {"id": 1}) == ["read", {"id": 1}]


async def test_middleware_can_have_handlers_and_error_layers():
    """Handlers of middleware lie below its own layers and above what comes after it."""

    class Answering(Middleware):
        @read
        async def answer(self, next):
            return ["middleware", await next()]

        @on_error
        def recover(self, res):
            res.end("recovered")

    class Todos(Backend):
        middleware = [Answering()]

        @use
        async def below(self, next):
            return ["class", await next()]

        @create
        def broken(self):
            raise KeyError

    served = Served(Todos)
    assert await served.ask("read", 1) == ["middleware", ["class", 1]]
    assert await served.ask("create") == "recovered"


@pytest.mark.parametrize(
    ("item", "text"),
    [
        (Noisy, "middleware lists instances, not classes: write Noisy() instead of Noisy"),
        (
            "Logger",
            "'Logger' is not middleware; list an instance of a Middleware subclass or a function (req, res",
        ),
        (
            None,
            "None is not middleware; list an instance of a Middleware subclass or a function (req, res, next)",
        ),
        (
            lambda request: 1,
            "unknown parameter `request`; did you mean `req`? use layers may take req, res, next",
        ),
        (lambda self, req: 1, "unknown parameter `self`"),
        (lambda err: 1, "`err` is only for @on_error; drop it, or mark the method with @on_error"),
        (dict, "dict does not show its parameters; wrap it: def layer(req, res, next)"),
    ],
)
def test_what_is_no_middleware(item, text):
    """It is refused when the class is defined, and the text says what to write."""
    with pytest.raises(DefinitionError, match=re.escape(text)):
        type("Todos", (Backend,), {"middleware": [item]})


@pytest.mark.parametrize("items", ["Logger", 5, Noisy("a", []), iter([])], ids=["text", "number", "one", "iterator"])
def test_middleware_that_is_no_list(items):
    """A forgotten pair of brackets is noticed."""
    with pytest.raises(
        DefinitionError, match=r"Todos\.middleware is not a list; write middleware = \[Logger\(\), \.\.\.\]"
    ):
        type("Todos", (Backend,), {"middleware": items})


@pytest.mark.parametrize("name", ["start", "stop"])
def test_a_layer_of_middleware_cannot_hide_its_hooks(name):
    """The application would call it without a request."""
    with pytest.raises(DefinitionError, match=f"Wrong.{name} hides Middleware.{name}; give it another name"):
        type("Wrong", (Middleware,), {name: before(lambda self, req: None)})


# Layers


def test_a_layer_tells_where_it_stands():
    """Its kind, name, methods, file and line are there for the list of stacks."""

    class Todos(Backend):
        @before("create")
        def check(self, req): ...

    (layer,) = Served(Todos).runtime.stacks["create"].layers
    assert (layer.kind, layer.name, layer.methods) == ("before", "Todos.check", ("create",))
    assert re.fullmatch(LINE, layer.where)
    assert location(Todos.check) == layer.where


def test_a_callable_without_source_has_no_line():
    """What Python cannot place is said to be built in."""

    class Quoting:
        def __call__(self, next):
            return next()

    assert location(Quoting()) == "<built in>"
    (layer,) = middleware_layers(Quoting())
    assert (layer.kind, layer.where) == ("use", "<built in>")


async def test_a_stack_can_be_run_on_its_own():
    """Without a backend, its store is the bottom and nothing is published."""
    layer = make_layer("use", "shout", ("read",), lambda req, next: next(), where="here")
    served = Served(type("Todos", (Backend,), {}))
    res = await Stack("read", [layer]).run(served.request("read", "below"))
    assert (res.result, res.failure) == ("below", None)


async def test_an_error_from_the_store_is_an_error_like_any_other():
    """A `SyncError` of one's own reaches the client with its details."""

    class Locked(SyncError):
        """Locked."""

        code = 423
        details = ("by",)

    class Todos(Backend):
        @update
        def locked(self):
            raise Locked(by="ann")

    res = await Served(Todos).sync("update")
    assert res.failure.to_json() == {"name": "Locked", "message": "Locked.", "code": 423, "by": "ann"}


def test_a_value_that_nobody_can_have_put_there_is_told_without_a_place():
    """No layer is blamed for what is in neither result nor model."""
    err = EncodingError(object(), "is an object, which JSON does not have")
    Stack("create", []).explain(err, Request("create", {"title": "milk"}), {"id": 1})
    assert str(err) == "a value is an object, which JSON does not have"
