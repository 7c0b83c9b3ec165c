"""`/readyz`: whether clients may be sent to this server."""

import asyncio

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request

from bbio import App, Backend, ConfigurationError, Store
from bbio.builtin import MemoryStore
from bbio.log import MemoryLog
from bbio.server.http import health
from tests.support.servers import eventually


class Shared(Store, MemoryLog):
    """A store whose log is elsewhere, and may be out of reach."""

    check_interval = 5.0

    def __init__(self):
        self.looks = []
        self.away = None

    async def positions(self, streams):
        self.looks.append(list(streams))
        if self.away == "fails":
            raise OSError("no route to host")
        if self.away == "hangs":
            await asyncio.Event().wait()
        return await super().positions(streams)


@pytest.fixture
def quick(monkeypatch):
    """Looks follow each other fast, and are soon old."""
    monkeypatch.setattr(health, "STORE_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(health, "LOOK_TIMEOUT_SECONDS", 0.05)
    monkeypatch.setattr(health, "STALE_SECONDS", 0.3)


@pytest.mark.parametrize("way", ["fails", "hangs"])
async def test_a_store_that_is_away(quick, way):
    """503 with a reason, from a while after it was last reached until it is back; nothing else is affected."""

    class Todos(Backend):
        store = Shared()

    class Notes(Backend):
        store = MemoryStore()

    app = App().serve(Todos, Notes)
    async with TestClient(TestServer(app.mount(web.Application()))) as client:

        async def told():
            answer = await client.get("/readyz")
            assert answer.headers["Cache-Control"] == "no-store"
            return answer.status, await answer.json()

        assert await told() == (200, {"status": "ok"})
        store = app.backends["todos"].log
        store.away = way

        async def away():
            return (await told())[0] == 503

        await eventually(away)
        body = (await told())[1]
        assert body["status"] == "unavailable"
        (problem,) = body["problems"]
        assert problem.startswith("the store of 'todos' was last reached")
        assert "no route" not in problem
        assert (await client.get("/healthz")).status == 200
        store.away = None

        async def back():
            return (await told())[0] == 200

        await eventually(back)


async def test_a_probe_costs_no_query():
    """However often it is asked."""

    class Todos(Backend):
        store = Shared()

    app = App().serve(Todos)
    async with TestClient(TestServer(app.mount(web.Application()))) as client:
        for _ in range(20):
            assert (await client.get("/readyz")).status == 200
        assert app.backends["todos"].log.looks == []


async def test_while_it_stops_it_is_not_ready():
    """Nobody new is to be sent; what runs may finish."""
    app = App()
    host = app.mount(web.Application())
    async with TestClient(TestServer(host)) as client:
        assert (await client.get("/readyz")).status == 200
        await host.shutdown()
        answer = await client.get("/readyz")
        assert answer.status == 503
        assert (await answer.json())["problems"] == ["the server is stopping"]


async def test_before_the_start_it_is_not_ready():
    """And after the end."""
    app = App()
    request = make_mocked_request("GET", "/readyz")
    for _ in range(2):
        answer = await app._readiness.answer(request)
        assert answer.status == 503
        assert "not started" in answer.text
        async with app.running():
            assert (await app._readiness.answer(request)).status == 200


async def test_a_failed_second_start_leaves_the_first_alone():
    """The clean-up of an application that did not start this one is not its end."""
    app = App()
    first, second = app.mount(web.Application()), app.mount(web.Application())
    async with TestClient(TestServer(first)) as client:
        second.freeze()
        runner = web.AppRunner(second)
        with pytest.raises(ConfigurationError, match="runs already"):
            await runner.setup()
        await second.shutdown()
        await runner.cleanup()
        with pytest.raises(ConfigurationError, match="runs already"):
            await app.start()
        assert (await client.get("/readyz")).status == 200
