"""The server that the client's tests run against."""

import asyncio
import datetime
from typing import Any, ClassVar

import attrs

from bbio import (
    App,
    Backend,
    Busy,
    Forbidden,
    Invalid,
    Limits,
    QueryLimits,
    Request,
    Unauthorized,
    before,
    channel,
    create,
    delete,
    message,
    on_connect,
    patch,
    presence,
    read,
    update,
    visible,
)
from bbio.builtin import MemoryStore


class Todos(Backend):
    """Models in memory; a title of "bad" is refused."""

    store = MemoryStore()

    @before("create", "update", "patch")
    def check(self, req: Any) -> None:
        if req.model.get("title") == "bad":
            raise Invalid("no such title", fields={"title": "is bad"})


class Notes(Backend):
    """Another name for the id; every channel has models of its own."""

    store = MemoryStore(id_attribute="_id", per_channel=True)


class Rooms(Backend):
    """Every channel has models of its own."""

    store = MemoryStore(per_channel=True)


class Counted(Backend):
    """Every channel has models of its own; a slow patch waits for a "go" there, a read so many seconds."""

    store = MemoryStore(per_channel=True)
    gates: ClassVar[dict[Any, asyncio.Event]] = {}

    @before("patch")
    async def wait(self, req: Any) -> None:
        gate = self.gates.setdefault(req.channel, asyncio.Event())
        if req.model.get("title") == "go":
            gate.set()
        if req.options.get("slow"):
            await gate.wait()

    @before("read")
    async def dawdle(self, req: Any) -> None:
        await asyncio.sleep(req.options.get("slow") or 0)


class Silent(Backend):
    """Takes patches, and answers nothing."""

    @patch
    def take(self, req: Any) -> None:
        """It is told to others as it came."""


class Stories(Backend):
    """Tells what changed; every channel has models of its own, and a read may take so many seconds."""

    store = MemoryStore(per_channel=True)
    deltas = True

    @before("read")
    async def dawdle(self, req: Any) -> None:
        await asyncio.sleep(req.options.get("slow") or 0)


class Feed(Backend):
    """Tells what changed, of some models alone where that is asked."""

    store = MemoryStore(per_channel=True)
    live_queries = True
    deltas = True


class Retold(Backend):
    """Tells what changed; what it reads has no revisions."""

    store = MemoryStore(models=[{"id": 1, "text": "a", "n": 0}])
    deltas = True

    @read
    async def retell(self, req: Any) -> Any:
        return (await self.store.read(Request("read", req.model, backend=self))).models


class Tales(Backend):
    """Tells what changed, of models with another name for the id."""

    store = MemoryStore(id_attribute="_id", per_channel=True)
    deltas = True


class Echo(Backend):
    """Answers with what came, and remembers nothing."""

    @create
    @read
    @update
    @patch
    @delete
    def echo(self, req: Any) -> Any:
        return {
            "id": 1,
            "method": req.method,
            "model": req.model,
            "options": req.options,
            "channel": req.channel,
        }


class Guests(Backend):
    """Knows what clients have joined with."""

    @read
    def told(self, req: Any) -> Any:
        return [{"auth": req.socket.auth}]


class Slow(Backend):
    """Takes its time."""

    @read
    async def wait(self, req: Any) -> Any:
        await asyncio.sleep(req.options["seconds"])
        return []


class Shelf(Backend):
    """Every channel has models of its own; one page may have 100 models."""

    store = MemoryStore(per_channel=True)


class Live(Backend):
    """Every channel has models of its own, and tells clients only of what they ask for."""

    store = MemoryStore(per_channel=True)
    live_queries = True


@attrs.define
class Date:
    """Something at a time."""

    at: datetime.datetime


class Dates(Backend):
    """Every channel has dates of its own."""

    model = Date
    store = MemoryStore(per_channel=True)


class LiveDates(Dates):
    """The same, which tells clients only of what they ask for."""

    name = "live-dates"
    live_queries = True


class Mine(Backend):
    """Shows everybody what they own, and lets them give it away."""

    store = MemoryStore(per_channel=True)

    @visible(may_leave=True)
    def own(self, req: Any) -> Any:
        who = (req.socket.auth or {}).get("who")
        return True if who == "all" else {"owner": who}


class Books(Backend):
    """Has a meaning of its own for `data`."""

    store = MemoryStore()

    @before("read")
    def translate(self, req: Any) -> None:
        if "page" in req.options.get("data", {}):
            req.options["data"] = {"limit": 2, "offset": 2 * req.options["data"]["page"]}


class Closed(Backend):
    """Lets nobody read."""

    @before("read")
    def refuse(self, req: Any) -> None:
        raise Forbidden("members only")


class Stubborn(Backend):
    """Has one model, and keeps it."""

    store = MemoryStore(models=[{"id": 1, "text": "stays"}])

    @before("delete")
    def refuse(self, req: Any) -> None:
        raise Forbidden("it stays")


class Big(Backend):
    """Has ids that JavaScript cannot tell apart."""

    store = MemoryStore(models=[{"id": 653247040368672768, "t": "a"}, {"id": 653247040368672769, "t": "b"}])


class Board(Backend):
    """What pages do by and by: models by channel, refusals, answers that take their time, few models at once."""

    store = MemoryStore(per_channel=True, queries=QueryLimits(models=50, limit=20))

    @before
    async def check(self, req: Any) -> None:
        await asyncio.sleep(float(req.options.get("slow") or 0))
        if req.method in ("create", "update", "patch"):
            if req.model.get("title") == "bad":
                raise Invalid("no such title", fields={"title": "is bad"})
            if req.method == "create":
                req.model["signed"] = True
        if req.method == "delete" and req.options.get("refuse"):
            raise Forbidden("it stays")


class Upserts(Backend):
    """Takes ids of the pages' own making."""

    store = MemoryStore(upsert=True)


class Letters(Backend):
    """Every channel has models of its own, signed by who wrote them; a writer may not listen, a guest has no id."""

    store = MemoryStore(per_channel=True)

    @before
    def who(self, req: Any) -> None:
        req.user = (req.socket.auth or {}).get("who")
        if req.user == "a guest":
            req.user = object()

    @before("read")
    def admit(self, req: Any) -> None:
        if req.user == "a writer" and req.event == "listen":
            raise Forbidden("writers do not listen")

    @before("create", "update", "patch")
    def sign(self, req: Any) -> None:
        req.model["by"] = req.user


class Signed(Backend):
    """Knows users by tokens `user/number`, or `user/number/warn`, which ends in 100 s; models are per channel."""

    presence = True
    store = MemoryStore(per_channel=True)
    ended: ClassVar[set[str]] = set()

    @before
    def who(self, req: Any) -> None:
        token = (req.socket.auth or {}).get("token")
        if token is None and req.channel == "open":
            return
        if not isinstance(token, str) or "/" not in token:
            raise Unauthorized("log in first")
        if token in self.ended:
            raise Unauthorized("the token has ended", expired=True)
        user, _, *warn = token.split("/")
        ends = req.socket.memo.setdefault("ends", req.socket.now() + 100)
        req.identify({"id": user}, expires=ends, warn=float(warn[0]) if warn else 0)

    @before("create", "update", "patch")
    def sign(self, req: Any) -> None:
        req.model["by"] = req.user and req.user["id"]


class Twin(Signed):
    """The same in another namespace."""

    store = MemoryStore(per_channel=True)


class Ends(Backend):
    """Ends tokens, and what connections of their users may do."""

    @create
    async def end(self, req: Any) -> Any:
        Signed.ended.update(req.model["tokens"])
        for user in {token.split("/")[0] for token in req.model["tokens"]}:
            await app.revoke(user=user)
        return {"id": 1}


class Ruled(Backend):
    """Everybody may be in `lobby`, nobody in `vip`, unless the server lets them in; a busy server lets in later."""

    store = MemoryStore(per_channel=True)
    joins: ClassVar[dict[str, int]] = {}

    @on_connect
    def let_in(self, req: Any) -> None:
        name = (req.socket.auth or {}).get("busy")
        if name is not None and self.joins.setdefault(name, 0) < 1:
            self.joins[name] += 1
            raise Busy("later", retry_after=0.01)

    @channel("lobby")
    @channel("vip")
    @channel("other")
    def rule(self, req: Any) -> bool:
        return bool(req.channel == "lobby")

    @create
    async def move(self, req: Any, next: Any) -> Any:
        if "join" in req.options:
            await req.socket.join(req.options["join"])
        if "leave" in req.options:
            req.socket.leave(req.options["leave"])
        return await next()


class Control(Backend):
    """Has the server speak to the clients of another backend."""

    @create
    def speak(self, req: Any) -> Any:
        asked = req.model
        app.backends[asked["backend"]].emit(asked["what"], asked["model"], channel=asked.get("channel"))
        return {"id": 1}


class Present(Backend):
    """Every channel has models and members of its own; one of them is closed to the presence, nobody may say "bad"."""

    store = MemoryStore(per_channel=True)

    @before("read")
    def introduce(self, req: Any) -> None:
        req.user = (req.socket.auth or {}).get("user")

    @presence
    def card(self, req: Any) -> Any:
        if req.channel == "closed" or req.user == "unseen":
            raise Forbidden("nobody sees you here")
        return {"name": req.user or "somebody"}

    @message("typing")
    def typing(self, req: Any, data: Any) -> Any:
        if data == "bad":
            raise Forbidden("not so")
        return {"said": data}

    @create
    async def forget(self, req: Any, next: Any) -> Any:
        if req.model.get("recheck"):
            await self.recheck(req.channel)
        return await next()


app = App(event="remote", public={"version": 7}, limits=Limits(grace=0.3))


@app.sio.on("add")
def add(sid: str, *numbers: int) -> int:
    """An event of the application's own, in the root namespace."""
    return sum(numbers)


@app.sio.on("shout", namespace="/chat")
@app.sio.on("shout", namespace="/rooms")
async def shout(sid: str, text: str) -> None:
    """The same in a namespace of its own, and in a backend's."""
    for namespace in ("/chat", "/rooms"):
        await app.sio.emit("heard", text.upper(), namespace=namespace)


app.serve(Todos, Notes, Rooms, Counted, Silent, Echo, Books, Shelf, Guests, Slow, Closed, Stubborn, Big, Board, Upserts)
app.serve(Ruled)
app.serve(Signed, Twin, Ends)
app.serve(Letters, Control, Live, Mine, Dates, LiveDates, Stories, Retold, Tales, Feed, Present)
