"""Which layers are told to narrow reads, and which are not."""

import logging

import pytest

from bbio import Backend, Forbidden, Unauthorized, Unavailable, after, before, on_error, read, use
from bbio.builtin import Logger, MemoryStore
from bbio.stack.narrowing import narrows_reads
from tests.support.stacks import Served

log = logging.getLogger(__name__)
TODOS = [{"id": 1, "owner": "ann", "list": "home"}]


class Narrowing:
    """Layers as people write them that leave something out."""

    @read
    def by_content(self):
        return [todo for todo in TODOS if not todo.get("hidden")]

    @use("read")
    async def by_owner(self, req, next):
        return list(filter(lambda todo: todo["owner"] == req.user["id"], await next()))

    @read
    def from_elsewhere(self, req):
        owner = req.session["user"]
        found = []
        for todo in TODOS:
            if todo["owner"] == owner:
                found.append(todo)
        return found

    @use
    async def in_a_loop(self, req, next):
        found, kept = await next(), []
        for todo in found:
            if todo["owner"] == req.user["id"]:
                kept.append(todo)
        return kept

    @use
    async def of_two_kinds(self, req, next):
        todos = await next()
        if req.user is None:
            todos = []
        return todos

    @use
    def guard(self, req, next):
        if req.user is None:
            raise Unauthorized("log in first")
        return next()

    @use("read")
    async def fields(self, req, next):
        todo = await next()
        if "boss" not in req.user["roles"]:
            todo.pop("notes")
        return todo

    @read
    async def deleted(self, req, next):
        todo = await next()
        if "boss" not in req.state["roles"]:
            del todo["notes"]
        return todo

    @use("read")
    async def ended(self, req, res, next):
        if not req.cookies.get("token"):
            res.end([])
            return None
        return await next()

    @after("read")
    def shortened(self, req, res):
        if req.user is None:
            res.result = res.result[:3]

    @before("read")
    def query(self, req):
        req.options["data"] = {**req.options.get("data", {}), "owner": req.user["id"]}

    @before("read")
    def whole_query(self, req):
        data = {"owner": req.user["id"]}
        req.options = {**req.options, "data": data}

    @before("read")
    def update_query(self, req):
        req.options["data"].update(owner=req.user["id"])

    @use("read")
    def query_below(self, req, next):
        req.options.setdefault("data", {})["owner"] = req.user["id"]
        return next()


class Harmless:
    """Layers as people write them that leave nothing out, or that decide who may listen as well."""

    @read
    def all_of_them(self):
        return TODOS

    @read
    def as_asked(self, req):
        return [todo for todo in TODOS if todo["list"] == req.channel]

    @read
    def shaped(self):
        return [{**todo, "new": True} for todo in TODOS]

    @use
    async def logged(self, req, next):
        log.info("%s asks for %s", req.user, req.options)
        result = await next()
        log.info("%d found", len(result))
        return result

    @use
    async def known(self, req, next):
        req.user = await self.find(req.cookies.get("token"))
        return await next()

    @use
    async def nothing(self, req, next):
        log.info("%s", req.user)
        await next()

    @use
    async def writers(self, req, next):
        if req.method != "read" and req.user is None:
            raise Forbidden("log in first")
        return await next()

    @use("create")
    def others(self, req, next):
        if req.user is None:
            raise Forbidden("log in first")
        return next()

    @before
    def admit(self, req, res):
        if req.user is None:
            raise Forbidden("log in first")
        if req.channel != req.user["id"]:
            res.end([])

    @before("read")
    def pages(self, req):
        req.options["data"] = {"limit": 100, **req.options.get("data", {})}

    @before("read")
    def small_pages(self, req):
        if req.user is None and "limit" in req.options.get("data", {}):
            raise Forbidden("log in first")

    @on_error
    def explain(self, err, req):
        if req.user is None:
            raise Unavailable("try again") from err


def layers(mixin):
    """The layers of a mixin, by name."""
    cls = type("Todos", (mixin, Backend), {"store": MemoryStore(), "middleware": [Logger()]})
    return Served(cls).runtime.layers


@pytest.mark.parametrize("layer", layers(Narrowing)[1:], ids=lambda layer: layer.name)
def test_a_layer_that_narrows_reads(layer):
    """It leaves models out by what is in them, or by who asks."""
    assert narrows_reads(layer)


@pytest.mark.parametrize("layer", layers(Harmless), ids=lambda layer: layer.name)
def test_a_layer_that_does_not(layer):
    """It passes on what is below, shapes it, looks at what is asked for, or refuses before anybody listens."""
    assert not narrows_reads(layer)


def test_nothing_is_known_of_a_layer_without_source():
    """As of one that a program has made."""
    space = {}
    exec("def own(req, next):\n    return [todo for todo in next() if todo['owner'] == req.user]", space)
    cls = type("Todos", (Backend,), {"own": use("read")(lambda self, req, next: space["own"](req, next))})
    cls.use("read", space["own"])
    assert not any(map(narrows_reads, Served(cls).runtime.layers))
