"""Channels with rules over the wire: which channels there are, who is in them, and what the server changes of that."""

import asyncio

import pytest

from bbio import Backend, Forbidden, before, channel, create
from bbio.builtin import MemoryStore
from tests.support.servers import heard

NO_SUCH = {"error": {"name": "Forbidden", "message": "there is no such channel", "code": 403}}


class Tasks(Backend):
    """Projects have numbers; each is for those whose header names it, and everybody may be in the lobby."""

    store = MemoryStore(per_channel=True)

    @before
    def identify(self, req):
        name = req.socket.headers.get("name")
        req.user = {"id": name} if name else None

    @channel("project-{project:int}")
    async def members(self, req, project):
        await asyncio.sleep(0)
        if str(project) not in req.socket.headers.get("projects", "").split():
            raise Forbidden("members only")

    @channel("lobby")
    def everybody(self, req):
        return True

    @create
    async def say(self, req, next):
        invited = req.options.get("join")
        if invited is not None:
            await req.socket.join(invited)
        if "leave" in req.options:
            req.socket.leave(req.options["leave"])
        return await next()


def refusal(message):
    return {"error": {"name": "Forbidden", "message": message, "code": 403}}


@pytest.mark.parametrize("extras", [[], [{"v": 1}]], ids=["original", "version 1"])
async def test_a_backend_with_rules_has_no_other_channels(serve, join, extras):
    """The default channel is none of them; an old client gets the same error, and no position."""
    app = await serve(Tasks)
    client = await join(app, "tasks", ..., headers={"projects": "7"})
    for name in (None, "", "project-", "project-x", "project-07", "project-7\n", "lobby ", "x" * 255, "lobby\u202e"):
        (reply,) = await client.namespace.call("listen", name, *extras)
        assert reply == NO_SUCH, name
    (reply,) = await client.namespace.call("listen", "project-8", *extras)
    assert reply == refusal("members only")
    for name in ("project-7", "lobby"):
        (reply,) = await client.namespace.call("listen", name, *extras)
        assert reply["event"] == "backend"


async def test_a_sync_in_a_channel_that_is_not_listened_to_is_asked_about(serve, join):
    """A write in a channel that a socket listens to is not asked about again; any other is."""
    app = await serve(Tasks)
    ann = await join(app, "tasks", ..., headers={"projects": "7"})
    for method in ("create", "read", "update", "patch", "delete"):
        for name, error in ((None, NO_SUCH), ("secret", NO_SUCH), ("project-8", refusal("members only"))):
            call = {"method": method, "model": {"id": 1}, "channel": name}
            assert await ann.namespace.call("sync", call) == [error]
    watcher = await join(app, "tasks", "project-7", headers={"projects": "7"})
    _, made = await ann.namespace.call("sync", {"method": "create", "model": {"title": "a"}, "channel": "project-7"})
    _, found = await ann.namespace.call("sync", {"method": "read", "channel": "project-7"})
    assert found == [made]
    assert await heard(app.backends["tasks"], watcher) == [[("create", made)]]
