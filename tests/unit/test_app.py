"""The application: what it says when it cannot do what is asked, and what it does not wait for."""

import asyncio
import errno
import logging

import pytest

from bbio import App, Backend, ConfigurationError
from bbio.app import _why_not
from bbio.builtin import MemoryStore
from tests.support.servers import eventually
from tests.support.wire import LegacyClient


class Notes(Backend):
    store = MemoryStore()


def test_an_emit_before_the_start_says_so():
    """Nobody could hear it."""
    app = App().serve(Notes)
    with pytest.raises(ConfigurationError, match="does not run"):
        app.backends["notes"].emit("created", {"id": 1})


async def test_an_application_runs_once():
    """A second start while it runs is a mistake."""
    async with App().serve(Notes).running():
        pass
    app = App()
    await app.start()
    try:
        with pytest.raises(ConfigurationError, match="runs already"):
            await app.start()
    finally:
        await app.stop()


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.EADDRINUSE, "in use"),
        (errno.EACCES, "above 1023"),
        (errno.EADDRNOTAVAIL, "choose an address of this machine"),
    ],
)
def test_why_it_cannot_listen(number, said):
    """The text says how to mend it."""
    assert said in _why_not(OSError(number, "no"), "127.0.0.1", 80)


async def test_an_emit_that_fails_is_logged(caplog):
    """Whoever emits does not wait for it; the log tells."""

    class Broken(MemoryStore):
        async def append(self, stream, method, model, req=None):
            raise OSError("the disk is gone")

    class Fragile(Backend):
        store = Broken()

    app = App().serve(Fragile)
    async with app.running():
        with caplog.at_level(logging.ERROR, "bbio"):
            app.backends["fragile"].emit("created", {"id": 1})
    assert "an emit failed" in caplog.text
    assert "the disk is gone" in caplog.text


async def test_a_stop_does_not_wait_for_who_does_not_read():
    """A client that takes nothing any more, with much on its way, is left behind."""
    app = App().serve(Notes)
    await app.start()
    client = await LegacyClient.open(app.url, "notes", receive_buffer=4_096)
    await client.listen()
    client.wire.pause()
    app.backends["notes"].emit("created", {"id": 1, "text": "x" * 20_000_000})
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await app.stop()
    client.wire.abort()
    await client.close()

    async def gone():
        return not app.sio.eio.sockets

    await eventually(gone)
