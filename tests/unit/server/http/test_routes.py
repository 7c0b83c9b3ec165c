"""bbio's routes in an aiohttp application that has routes of its own."""

import pytest
import socketio
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from bbio import App, Backend, ConfigurationError
from bbio.app import mounted_on
from bbio.builtin import MemoryStore


class Todos(Backend):
    store = MemoryStore()


async def mine(request):
    return web.Response(text="mine")


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("when", ["before", "after", "never"])
@pytest.mark.parametrize("prefix", ["", "/rt"])
async def test_health_is_a_fallback(path, when, prefix):
    """The application's own answers, whether it was added before or after the mount, also below a prefix."""
    host = web.Application()
    if when == "before":
        host.router.add_get(path, mine)
    App().serve(Todos).mount(host)
    if when == "after":
        host.router.add_get(path, mine)
    served = host
    if prefix:
        served = web.Application()
        served.add_subapp(prefix, host)
    async with TestClient(TestServer(served)) as client:
        answer = await client.get(prefix + path)
        assert answer.status == 200
        assert (await answer.text() == "mine") is (when != "never")
        assert (await client.head(prefix + path)).status == 200


async def test_the_endpoint_is_not_among_the_routes():
    """Whoever goes over all routes, as set-ups of aiohttp_cors do, finds nothing to change; it answers all the same."""
    host = App().serve(Todos).mount(web.Application())
    (endpoint,) = (each for each in host.router.resources() if each.canonical == "/socket.io/")
    assert not any(route.resource is endpoint for route in host.router.routes())
    assert (list(endpoint), len(endpoint)) == ([], 0)
    # What aiohttp_cors does with a resource.
    with pytest.raises(ConfigurationError, match=r"App\(cors=\.\.\.\) names the other sites"):
        endpoint.add_route("OPTIONS", mine)
    async with TestClient(TestServer(host)) as client:
        assert (await client.get("/socket.io/?EIO=4&transport=polling")).status == 200


async def test_a_second_app_is_refused():
    """It could never be reached."""
    host = App().serve(Todos).mount(web.Application())
    with pytest.raises(ConfigurationError, match=r"another App is mounted.*serve all backends by one App"):
        App().mount(host)


async def test_another_socket_io_server_is_refused():
    """Before the mount at once, after it at the start; elsewhere it is welcome."""
    host = web.Application()
    socketio.AsyncServer(async_mode="aiohttp").attach(host)
    with pytest.raises(ConfigurationError, match=r"something else answers at /socket.io/.*socketio_path='other'"):
        App().mount(host)

    host = App().serve(Todos).mount(web.Application())
    socketio.AsyncServer(async_mode="aiohttp").attach(host)
    runner = web.AppRunner(host)
    with pytest.raises(ConfigurationError, match=r"something else answers at /socket.io/"):
        await runner.setup()
    await runner.cleanup()

    host = App().serve(Todos).mount(web.Application())
    other = socketio.AsyncServer(async_mode="aiohttp")
    other.attach(host, socketio_path="other")
    async with TestClient(TestServer(host)) as client:
        for path in ("socket.io", "other"):
            assert (await client.get(f"/{path}/?EIO=4&transport=polling")).status == 200
    await other.shutdown()


async def test_a_late_mount_is_refused():
    """Routes can no longer be added."""
    host, outer = web.Application(), web.Application()
    outer.add_subapp("/rt", host)
    with pytest.raises(ConfigurationError, match="comes too late"):
        App().mount(host)


def test_the_app_that_is_mounted_is_found():
    """On the application itself, or on one below it."""
    app = App().serve(Todos)
    below, plain, outer = web.Application(), web.Application(), web.Application()
    app.mount(below)
    outer.add_subapp("/plain", plain)
    outer.add_subapp("/rt", below)
    assert mounted_on(below) is mounted_on(outer) is app
    assert mounted_on(plain) is None
