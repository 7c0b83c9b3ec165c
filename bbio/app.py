"""App: serves backends, runs them, or mounts them on an aiohttp application."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import signal
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import click
from aiohttp import WSCloseCode, web

from bbio.errors import ConfigurationError
from bbio.protocol import encode
from bbio.registry import Registry
from bbio.server.connect import attach
from bbio.server.http import Admission, asset_routes, health, http_logger
from bbio.server.limits import Limits
from bbio.server.plain import PlainServer
from bbio.server.sockets import Gateway

if TYPE_CHECKING:
    from bbio.backend import Backend, Work
    from bbio.server.engine import FastServer
    from bbio.testing import Harness

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # pragma: no cover - there is none for Windows
    from asyncio import new_event_loop

logger = logging.getLogger("bbio")

LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
CLOSE_TIME = 0.5
HEALTH = "/healthz"
# Connections that may wait to be accepted: after a restart all clients come at once, else some lose seconds.
BACKLOG = 4_096
# Emits that may wait for the start.
EARLY_EMITS = 10_000
# Seconds that an HTTP connection may idle, or take over the head of a request: longer than proxies keep theirs.
KEEPALIVE = 75.0


class App:
    """One application: its backends and the server that clients reach them through.

    Parameters:
        event: the prefix of the events that Backbone collections trigger (`backend:create`).
        public: what else every client is told when it listens, as `collection.backend.options` in pages; JSON.
        cors: origins of other sites that may connect, `"*"` for all; those of $BBIO_CORS_ORIGINS by default, else only
            the server's own.
        hosts: the only host names to answer to; any by default.
        proxies: addresses or networks of proxies whose forwarded headers are believed.
        limits: what a client may ask for.
        debug: whether unexpected errors reach clients with message and stack.
        engine: `"fast"`, or `"plain"` for python-socketio as it is.
        ping_interval: seconds between heartbeats.
        ping_timeout: seconds a client may take to answer one.

    Raises:
        ConfigurationError: an option makes no sense.

    Example:
        >>> from bbio import App, Backend
        >>> class Todos(Backend): pass
        >>> app = App(event="sync").serve(tasks=Todos)
        >>> list(app.backends)
        ['tasks']
    """

    def __init__(
        self,
        *,
        event: str = "backend",
        public: Mapping[str, Any] | None = None,
        cors: str | Iterable[str] | None = None,
        hosts: Iterable[str] | None = None,
        proxies: Iterable[str] = (),
        limits: Limits | None = None,
        debug: bool = False,
        engine: str = "fast",
        ping_interval: float = 25.0,
        ping_timeout: float = 20.0,
    ) -> None:
        if not isinstance(event, str) or not event:
            raise ConfigurationError(f"App(event={event!r}): the event prefix is a word such as 'backend'")
        if engine not in ("fast", "plain"):
            raise ConfigurationError(f"App(engine={engine!r}): the engine is 'fast' or 'plain'")
        self.limits = limits or Limits()
        self.backends = Registry(debug)
        if cors is None:
            cors = os.environ.get("BBIO_CORS_ORIGINS", "").replace(",", " ").split()
        self._admission = Admission(cors, hosts, proxies, self.limits)
        options: dict[str, Any] = {
            "async_mode": "aiohttp",
            "ping_interval": ping_interval,
            "ping_timeout": ping_timeout,
            "max_http_buffer_size": self.limits.frame,
            # Origins are checked by the admission, before the library sees the request.
            "cors_allowed_origins": lambda origin, environ=None: True,
        }
        self.sio: FastServer | PlainServer
        self.sio = server = _fast_server(self.limits, options) if engine == "fast" else PlainServer(**options)
        self._gateway = server.gateway = Gateway(self.backends, self.limits, server, _public(event, public or {}))
        self._loop: asyncio.AbstractEventLoop | None = None
        self._early: list[Work] | None = []  # what waits for the start; None once that has been
        self._starting = threading.Lock()
        self._started: list[Backend] = []
        self._thread: int | None = None
        self._websockets: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()
        self._pages: list[web.RouteDef] = []
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.url = ""

    def serve(self, *backends: Any, **named: Any) -> Self:
        """Serve backends: classes or instances, under their own names or as `name=Backend`.

        Raises:
            ConfigurationError: something is no backend, or a name is taken.
            FrozenError: the application has started.
        """
        for name, backend in [*((None, backend) for backend in backends), *named.items()]:
            added = self.backends.add(backend, name)
            name = name or added.name
            added.open(name, self._gateway.add(name, added), self._spawn)
            attach(self.sio, self._gateway, added, self._admission)
        return self

    def page(self, path: str, file: str | Path) -> Self:
        """Serve a file, such as an example's HTML page, at a path."""
        target = Path(file)

        async def send(request: web.Request) -> web.StreamResponse:
            return web.FileResponse(target)

        self._pages.append(web.get(path, send))
        return self

    def _spawn(self, work: Work) -> None:
        """Run work on the server's loop, from any thread; at once when already there, at the start before that."""
        if self._loop is None and self._waits(work):
            return
        loop = self._loop
        if loop is None:
            raise ConfigurationError("the application does not run any more; emit before it starts, or while it runs")
        if threading.get_ident() == self._thread:
            self._gateway.stepper.start(_logged(work))
        else:
            loop.call_soon_threadsafe(self._gateway.stepper.start, _logged(work))

    def _waits(self, work: Work) -> bool:
        with self._starting:
            if self._early is None:
                return False
            if len(self._early) >= EARLY_EMITS:
                raise ConfigurationError(f"{EARLY_EMITS} emits wait for the application already; start it")
            self._early.append(work)
            return True

    def mount(self, application: web.Application) -> web.Application:
        """Add the backends to an aiohttp application; they start and stop with it.

        It gets routes below `/socket.io/`, those of `page`, and `/healthz` unless it has one already.

        Returns: the application.
        """
        if not any(resource.canonical == HEALTH for resource in application.router.resources()):
            application.router.add_get(HEALTH, health)
        application.router.add_route("*", "/socket.io/", self._admission.guard(self.sio.eio.handle_request))
        application.router.add_routes([*asset_routes(), *self._pages])
        application.on_startup.append(self._start)
        application.on_response_prepare.append(self._remember)
        application.on_shutdown.append(self._shut_down)
        application.on_cleanup.append(self._clean_up)
        return application

    async def _remember(self, request: web.Request, response: web.StreamResponse) -> None:
        if isinstance(response, web.WebSocketResponse):
            self._websockets.add(response)

    async def _start(self, application: web.Application) -> None:
        await self._open()

    async def _open(self) -> None:
        self._early = [] if self._early is None else self._early
        self._gateway.open()
        self._admission.stopping = False
        self.backends.frozen = True
        try:
            for backend in self.backends.values():
                await backend.start()
                self._started.append(backend)
        except BaseException:
            await self._close()
            raise
        with self._starting:
            early, self._early = self._early, None
            self._thread = threading.get_ident()
            self._loop = asyncio.get_running_loop()
        for work in early:
            self._spawn(work)

    async def _shut_down(self, application: web.Application) -> None:
        self._admission.stopping = True
        await self._gateway.drain(self.limits.drain_time)
        closing = [
            asyncio.ensure_future(response.close(code=WSCloseCode.GOING_AWAY, message=b"the server is stopping"))
            for response in list(self._websockets)
            if not response.closed
        ]
        if closing:
            _, late = await asyncio.wait(closing, timeout=CLOSE_TIME)
            for task in late:
                task.cancel()
            await asyncio.gather(*closing, return_exceptions=True)
        for socket in list(self.sio.eio.sockets.values()):
            with suppress(Exception):
                await socket.close(wait=False)

    async def _clean_up(self, application: web.Application) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._gateway.close()
        while self._started:
            await self._started.pop().stop()
        if getattr(self.sio.eio, "service_task_handle", None) is not None:
            await self.sio.shutdown()
        await self._gateway.stepper.close()
        self._loop = self._early = None
        self.backends.frozen = False

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> None:
        """Serve on a port of the running event loop; port 0 takes a free one. `url` and `port` then say where.

        Raises:
            ConfigurationError: the port is in use, or this application runs already.
        """
        if self._runner is not None:
            raise ConfigurationError("this application runs already; stop it first, or make another App()")
        application = web.Application()
        self.mount(application)
        runner = web.AppRunner(
            application, access_log=None, logger=http_logger, shutdown_timeout=0.2, keepalive_timeout=KEEPALIVE
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
        except OSError as err:
            await runner.cleanup()
            raise ConfigurationError(_why_not(err, host, port)) from None
        self._runner = runner
        self.port = runner.addresses[0][1]
        shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host
        self.url = f"http://[{shown}]:{self.port}" if ":" in shown else f"http://{shown}:{self.port}"

    async def stop(self) -> None:
        """Stop: nothing new, let what runs finish for `limits.drain_time`, close the rest with code 1001."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @asynccontextmanager
    async def running(self, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[str]:
        """`async with app.running() as url:` starts and stops the application."""
        await self.start(host, port)
        try:
            yield self.url
        finally:
            await self.stop()

    def run(self, host: str | None = None, port: int | None = None, log_level: str | None = None) -> None:
        """Serve until SIGTERM or Ctrl-C.

        Parameters:
            host: the address to listen on, `0.0.0.0` for all; $BBIO_HOST or 127.0.0.1 by default.
            port: the TCP port; $BBIO_PORT or 3000 by default.
            log_level: what is logged, `debug`, `info`, `warning` or `error`; $BBIO_LOG_LEVEL or `info` by default.

        Raises:
            ConfigurationError: a setting makes no sense, or the port is in use.
        """
        host = host or os.environ.get("BBIO_HOST") or "127.0.0.1"
        if port is None:
            port = _port(os.environ.get("BBIO_PORT") or "3000")
        level = log_level or os.environ.get("BBIO_LOG_LEVEL") or "info"
        if level.lower() not in LOG_LEVELS:
            raise ConfigurationError(f"{level!r} is no log level; it is one of {', '.join(LOG_LEVELS)}")
        logging.basicConfig(level=level.upper(), format="%(asctime)s %(name)s %(levelname)s %(message)s")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._run(host, port))

    def test(self, *, seed: int = 0) -> Harness:
        """`async with app.test() as t:` runs the application for a test, with clients in the same process.

        Parameters:
            seed: of what is left to chance, such as the pause before a client connects again.

        Example:
            >>> from bbio import Backend
            >>> from bbio.builtin import MemoryStore
            >>> class Todos(Backend):
            ...     store = MemoryStore()
            >>> async def main():
            ...     async with App().serve(Todos).test() as t:
            ...         ann, bob = await t.clients(2, backend="todos")
            ...         mirror = await bob.collection()
            ...         await ann.create({"title": "milk"})
            ...         await t.settle()
            ...         return [todo["title"] for todo in mirror.values()]
            >>> asyncio.run(main())
            ['milk']
        """
        from bbio.testing import Harness

        return Harness(self, seed=seed)

    async def _run(self, host: str, port: int) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError, RuntimeError):
                loop.add_signal_handler(number, stopped.set)
        async with self.running(host, port):
            click.echo(f"bbio serves {', '.join(self.backends) or 'no backend'} on {self.url} (Ctrl-C stops it)")
            await stopped.wait()


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise ConfigurationError(f"BBIO_PORT is {text!r}; a port is a number from 0 to 65535")
    return int(text)


def _why_not(err: OSError, host: str, port: int) -> str:
    if err.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what uses it, or choose another port"
    if err.errno == errno.EACCES:
        return f"port {port} is for privileged users; choose one above 1023"
    return f"cannot listen on {host}:{port}: {err.strerror}; choose an address of this machine, or 0.0.0.0 for all"


def _fast_server(limits: Limits, options: dict[str, Any]) -> FastServer:
    try:
        from bbio.server.engine import FastServer
    except ImportError as err:
        raise ConfigurationError(
            f"the fast engine relies on what the installed versions of its libraries do not have ({err}); "
            f'install the versions that bbio names, or use App(engine="plain")'
        ) from None
    return FastServer(limits, **options)


def _public(event: str, public: Mapping[str, Any]) -> dict[str, Any]:
    try:
        told = dict(public)
        encode(told)
    except (TypeError, ValueError) as err:
        raise ConfigurationError(f"App(public={public!r}): every client is told it, as a JSON object: {err}") from None
    own = sorted({"error", "event", "streams", "v"} & told.keys())
    if own:
        raise ConfigurationError(f"App(public=...): {own[0]!r} is bbio's own; name it otherwise")
    return {**told, "event": event}


async def _logged(work: Work) -> None:
    try:
        await work()
    except Exception:
        logger.exception("an emit failed")
