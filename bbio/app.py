"""App: serves backends, runs them, or mounts them on an aiohttp application."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import signal
import socket
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import click
from aiohttp import WSCloseCode, web

from bbio.consumers import (
    ATTEMPTS,
    FIRST_PAUSE_SECONDS,
    LEASE_SECONDS,
    MAX_DEAD_LETTERS,
    TIMEOUT_SECONDS,
    C,
    Consume,
    Consumer,
    Since,
)
from bbio.errors import ConfigurationError, FrozenError
from bbio.identity import principal
from bbio.protocol import encode
from bbio.ratelimit import IndentingFormatter
from bbio.registry import Registry
from bbio.runtime import Runtime, Work
from bbio.server.consuming.consuming import Consuming
from bbio.server.heap import HeapTrimmer, heap_trimmer
from bbio.server.http.admission import Admission
from bbio.server.http.health import Readiness, health
from bbio.server.http.lobby import Lobby
from bbio.server.http.origins import read_origin
from bbio.server.http.routes import Endpoint, Fallback, check_alone, check_mountable
from bbio.server.http.server import asset_routes, file_route, hide_version, http_logger, own, socket_logger
from bbio.server.limits import Limits
from bbio.server.memberships import read_channel
from bbio.server.memory import Addresses
from bbio.server.namespaces import attach
from bbio.server.notices import Notices
from bbio.server.stock.server import PlainServer
from bbio.server.watchdog import HELD_SECONDS, HELD_SECONDS_DEBUG, Watchdog
from bbio.settings import LOG_LEVELS, Settings, variable
from bbio.stack.threads import Threads

if TYPE_CHECKING:
    from bbio.server.fast.server import FastServer
    from bbio.store import Store
    from bbio.testing import Harness

new_event_loop: Callable[[], asyncio.AbstractEventLoop]
try:
    from uvloop import new_event_loop
except ImportError:  # pragma: no cover - there is none for Windows
    from asyncio import new_event_loop

logger = logging.getLogger("bbio")

CLOSE_SECONDS = 0.5
# Turns of the event loop in which the library's tasks hand the last answers to connections, before these are closed.
ANSWER_ROUNDS = 20
HEALTH = "/healthz"
READINESS = "/readyz"
# Connections that may wait to be accepted: after a restart all clients come at once, else some lose seconds.
BACKLOG = 4_096
# Emits that may wait for the start.
EARLY_EMITS = 10_000
# Seconds that an HTTP connection may idle, or take over the head of a request: longer than proxies keep theirs.
KEEPALIVE_SECONDS = 75.0
RUNS_ALREADY = "this application runs already; stop it first, or make another App()"


class App:
    """One application: its backends and the server that clients reach them through.

    Parameters:
        event: the prefix of the events that Backbone collections trigger (`backend:create`).
        public: further options that every client gets when it listens, as `collection.backend.options` in pages; a dict
            that can be written as JSON.
        cors: origins of other sites that may connect, `"*"` for all; those of $BBIO_CORS_ORIGINS by default, else only
            the server's own.
        hosts: the host names to answer to, `"*"` for any. By default any name; but over loopback, unless a proxy of
            `proxies` asks, only names of the machine itself (`localhost`, `127.0.0.1`).
        proxies: addresses or networks of proxies whose forwarded headers are believed; `"unix"` for clients that
            connect through a Unix socket.
        limits: the limits of clients.
        debug: whether unexpected errors reach clients with message and stack.
        engine: `"fast"`, or `"plain"` for an unmodified python-socketio.
        ping_interval: seconds between heartbeats.
        ping_timeout: seconds a client may take to answer one.

    Raises:
        ConfigurationError: an option is not valid.

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
        hosts: str | Iterable[str] | None = None,
        proxies: str | Iterable[str] = (),
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
        self._threads = Threads(self.limits.threads)
        self.backends = Registry(self._spawn, debug=debug, threads=self._threads)
        if cors is None:
            where = variable("cors_origins") + "={!r}"
            cors = [read_origin(origin, where) for origin in Settings.from_env().cors_origins]
        options: dict[str, Any] = {
            "async_mode": "aiohttp",
            "ping_interval": ping_interval,
            "ping_timeout": ping_timeout,
            "max_http_buffer_size": self.limits.frame,
            # Origins are checked by the admission, before the library sees the request.
            "cors_allowed_origins": lambda origin, environ=None: True,
            "logger": socket_logger,
            "engineio_logger": socket_logger,
        }
        addresses, public_options = Addresses(self.limits), _public(event, public or {})
        server_class = _fast_server() if engine == "fast" else PlainServer
        self.sio = server_class(self.backends, self.limits, addresses, public_options, **options)
        self.gateway = self.sio.gateway
        self._notices = Notices(self.gateway)
        self._consumers: dict[str, Consumer] = {}
        self._consuming = Consuming(self.backends)
        self._admission = Admission(cors, hosts, proxies, self.limits, addresses, self.sio.environ)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._early: list[Work] | None = []  # what waits for the start; None once that has been
        self._starting = threading.Lock()
        self._started: list[Runtime] = []
        self._at_work = 0
        self._at_rest = asyncio.Event()
        self._watchdog: Watchdog | None = None
        self._heap_trimmer: HeapTrimmer | None = None
        self._thread: int | None = None
        self._websockets: weakref.WeakSet[web.WebSocketResponse] = weakref.WeakSet()
        self._pages: dict[str, Path] = {}
        self._readiness = Readiness(self.backends, self._admission)
        # Whether routes were added to somebody's application, and the application that serves this one now.
        self._mounted = False
        self._serving: web.Application | None = None
        self._runner: web.AppRunner | None = None
        # Whether a port is still to be had: who has none has served nobody.
        self._binding = False
        self.port = 0
        self.url = ""

    def serve(self, *backends: Any, **named: Any) -> Self:
        """Serve backends; return the application.

        Parameters:
            backends: classes or instances, served under their own names.
            named: classes or instances, served under these names.

        Raises:
            ConfigurationError: an argument is not a backend, or is served already, or a name is taken.
            FrozenError: the application has started.
        """
        for name, backend in [*((None, backend) for backend in backends), *named.items()]:
            runtime = self.backends.add(backend, name)
            self.gateway.add(runtime)
            attach(self.sio, self.gateway, runtime, self._admission)
        return self

    def consumer(
        self,
        name: str,
        *,
        backend: str,
        channel: str | None = None,
        since: Since = "now",
        attempts: int = ATTEMPTS,
        timeout: float = TIMEOUT_SECONDS,
        concurrency: int = 1,
        pause: float = FIRST_PAUSE_SECONDS,
        lease: float = LEASE_SECONDS,
        dead_letters: int = MAX_DEAD_LETTERS,
        on_lost: Consume | None = None,
    ) -> Callable[[C], C]:
        """Have an async function do work for each event of a backend: at least once, in order for each model.

        One process works for it at a time. How far it is, is kept in the database of the store.

        Parameters:
            name: its name, the same in all processes and over restarts.
            backend: the name of the backend.
            channel: the channel whose events it gets, `""` for the default channel; None for all.
            since: where it begins when it is new: `"now"`, or `"start"` for all that the history holds.
            attempts: how often an event is tried before it becomes a dead letter.
            timeout: seconds that one attempt may take.
            concurrency: events that are handled at once; those of one model follow each other all the same.
            pause: seconds before the second attempt; each pause is twice as long as the last, up to five minutes.
            lease: seconds after which another process takes over from one that was killed or stands still.
            dead_letters: how many there may be; then it stays at an event that fails, and tries it again and again.
            on_lost: an async function of the event `reset`, called where the history no longer had what it needed.

        Returns: a decorator, which returns the function as it is.

        Raises:
            ConfigurationError: an option is not valid, there is one of this name, or the function is not async.
            FrozenError: the application has started.

        Example:
            >>> app = App()
            >>> @app.consumer("mailer", backend="issues")
            ... async def send_mail(event):
            ...     print(event.method, event.model["title"])
        """

        def declare(function: C) -> C:
            self._declare(
                Consumer(
                    name=name,
                    backend=backend,
                    function=function,
                    channel=channel,
                    since=since,
                    attempts=attempts,
                    timeout=timeout,
                    concurrency=concurrency,
                    pause=pause,
                    lease=lease,
                    dead_letters=dead_letters,
                    on_lost=on_lost,
                )
            )
            return function

        return declare

    def _declare(self, consumer: Consumer) -> None:
        if self.backends.frozen:
            raise FrozenError("app.consumer(...) came after the application had started; call it before app.run()")
        if consumer.name in self._consumers:
            raise ConfigurationError(f"two consumers are named {consumer.name!r}; give one of them another name")
        self._consumers[consumer.name] = consumer

    @property
    def consumers(self) -> list[Consumer]:
        """The consumers: those of `consumer`, and the `@after(once=True)` layers that take an `event`."""
        layers = [consumer for runtime in self.backends.values() for consumer in runtime.consumers]
        for consumer in layers:
            if consumer.name in self._consumers:
                raise ConfigurationError(f"two consumers are named {consumer.name!r}; give one of them another name")
        return [*self._consumers.values(), *layers]

    async def consume(self, *, works: bool = True) -> None:
        """Have the consumers know of all that is written from now on, and work for them. Called after `open`.

        Parameters:
            works: whether this process works for them, where no other one does.

        Raises:
            ConfigurationError: a consumer cannot be; the text says how to mend it.
            SyncError: a database cannot be reached.
        """
        await self._consuming.open(self.consumers, works=works)

    def page(self, path: str, file: str | Path) -> Self:
        """Serve a file, such as an example's HTML page, at a path.

        Parameters:
            path: the path of its URL, such as `/`.
            file: the file; a relative path begins in the current folder.

        Raises:
            ConfigurationError: the path is not valid, there is no such file, or it is too late to add a page.

        Example:
            `app.page("/", Path(__file__).with_name("index.html"))`
        """
        shown = f"app.page({path!r}, {str(file)!r})"
        if not path.startswith("/"):
            raise ConfigurationError(f"{shown}: the path of a page begins with '/'; write {'/' + path!r}")
        if path in self._pages:
            raise ConfigurationError(f"{shown}: there is a page at this path already, {self._pages[path]}")
        if self._mounted or self._loop is not None:
            raise ConfigurationError(f"{shown} came too late; call it before app.mount(...), app.start() or app.run()")
        # So that it is found whatever folder is current later.
        target = Path(file).absolute()
        if not target.is_file():
            what = "that is a folder" if target.is_dir() else "there is no such file"
            raise ConfigurationError(
                f"{shown}: {what}, {target}; name a file beside the module: Path(__file__).with_name('index.html')"
            )
        self._pages[path] = target
        return self

    def _spawn(self, work: Work) -> None:
        """Run work on the server's loop, from any thread; at once when already there, at the start before that."""
        if self._loop is None and self._waits(work):
            return
        loop = self._loop
        if loop is None:
            raise ConfigurationError("the application does not run any more; emit before it starts, or while it runs")
        if threading.get_ident() == self._thread:
            self.gateway.delivery.stepper.start(self._do(work))
        else:
            loop.call_soon_threadsafe(self.gateway.delivery.stepper.start, self._do(work))

    async def _do(self, work: Work) -> None:
        self._at_work += 1
        self._at_rest.clear()
        try:
            await work()
        except Exception:
            logger.exception("an emit failed")
        finally:
            self._at_work -= 1
            if not self._at_work:
                self._at_rest.set()

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

        It gets routes below `/socket.io/`, those of `page`, and `/healthz` and `/readyz` unless it has its own.

        Parameters:
            application: the aiohttp application.

        Returns: the aiohttp application.

        Raises:
            ConfigurationError: something else answers at `/socket.io/`, such as another App.

        Example:
            >>> from aiohttp import web
            >>> application = App().mount(web.Application())
        """
        self._mount(application)
        self._mounted = True
        return application

    def _mount(self, application: web.Application) -> None:
        check_mountable(application)
        endpoint = Endpoint(self._admission.guard(self.sio.handle_request))

        async def start(application: web.Application) -> None:
            check_alone(application, endpoint)
            await self.open()
            try:
                await self.consume(works=Settings.from_env().works())
            except BaseException:
                await self.close()
                raise
            self._serving = application
            self._watch()

        router = application.router
        router.register_resource(endpoint)
        router.register_resource(Fallback(application, HEALTH, health))
        router.register_resource(Fallback(application, READINESS, self._readiness.answer))
        router.add_routes([*asset_routes(), *(file_route(path, file) for path, file in self._pages.items())])
        application[MOUNTED] = self
        application.on_startup.append(start)
        application.on_response_prepare.append(self._remember)
        application.on_shutdown.append(self._shut_down)
        application.on_cleanup.append(self._clean_up)

    async def _remember(self, request: web.Request, response: web.StreamResponse) -> None:
        hide_version(response)
        if isinstance(response, web.WebSocketResponse):
            self._websockets.add(response)

    def _watch(self) -> None:
        layers = {layer.where: layer.name for runtime in self.backends.values() for layer in runtime.layers}
        self._watchdog = Watchdog(HELD_SECONDS_DEBUG if self.backends.debug else HELD_SECONDS, layers)
        self._heap_trimmer = heap_trimmer()

    @property
    def is_open(self) -> bool:
        """Return whether it is started, with a port or without one."""
        return self._loop is not None

    @property
    def is_busy(self) -> bool:
        """Return whether it works on something: a request, an event, a log or an emit."""
        return self._at_work > 0 or self.gateway.busy or self._consuming.is_busy

    def reopen(self, stores: Mapping[str, Store] | None = None) -> None:
        """Open all stores anew, as `app.test()` does: what they have in memory is lost. It must not be started.

        Parameters:
            stores: stores by the names of backends, to be used instead of theirs.

        Raises:
            ConfigurationError: it is started.
        """
        if self.backends.frozen:
            raise ConfigurationError(RUNS_ALREADY)
        for name, runtime in self.backends.items():
            self.gateway.add(runtime, (stores or {}).get(name))

    async def open(self, *, outside: bool = False, migrate: bool = True) -> None:
        """Start the backends without a port, as `app.test()` does; `close` is to follow.

        Parameters:
            outside: whether the clients are those of other processes, as with `bbio.open`: then what would reach
                none of them is refused.
            migrate: whether stores may make and change tables.

        Raises:
            ConfigurationError: it is started already.
        """
        if self.backends.frozen:
            raise ConfigurationError(RUNS_ALREADY)
        self._early = [] if self._early is None else self._early
        self._at_rest = asyncio.Event()
        self._at_rest.set()
        for runtime in self.backends.values():
            runtime.prepare(outside=outside, migrate=migrate)
        self.gateway.open()
        self._admission.stopping = False
        self.sio.handler_seconds = self.limits.deadline
        self.backends.frozen = True
        try:
            for runtime in self.backends.values():
                await runtime.start()
                self._started.append(runtime)
            await self.gateway.follow()
            self._notices.open()
            self._readiness.open()
        except BaseException:
            await self.close()
            raise
        with self._starting:
            early, self._early = self._early, None
            self._thread = threading.get_ident()
            self._loop = asyncio.get_running_loop()
        for work in early:
            self._spawn(work)

    async def revoke(
        self,
        *,
        user: Any = None,
        session: str | None = None,
        channel: str | None = None,
        backend: str | None = None,
    ) -> int:
        """End what connections may do: those of a user, of a session, or all that listen to a channel.

        Connections of a user or of a session are told nothing more, and may ask nothing, until their clients say again
        who they are, with a new token or over a new connection: have sessions deleted and tokens refused before.
        Whoever listens to a channel does so no more; who asks to listen again is asked about anew, as clients of bbio
        do at once: take permissions away before.

        Other processes that serve backends from the same database do the same within a second, or once they can reach
        it again.

        Parameters:
            user: the user, as `req.user` is, or the user's id alone.
            session: the id of a session on the server, as `req.session_id` is.
            channel: the name of a channel; `""` is the default channel.
            backend: the name of the channel's backend; the channel of each backend by default.

        Returns: how many sockets of this process were concerned.

        Raises:
            TypeError: none of the three is given, or several are.
            StackError: the user has no `id`.
            ConfigurationError: the application does not run, or there is no such backend.
            ValueError: the id of the user, or the name of the channel, cannot be one.
            SyncError: a database could not be reached, so that other processes may not know; in this one it is done.

        Example:
            `await app.revoke(channel="staff")`
        """
        given = [value for value in (user, session, channel) if value is not None]
        if len(given) != 1 or (backend is not None and channel is None):
            raise TypeError(
                "give one of them: revoke(user=...), revoke(session=...), revoke(channel=...) with or without backend="
            )
        subject = None if user is None else principal(user)
        if channel is not None:
            read_channel(channel)
        self._check_served("revoke", backend)
        return await self._on_loop(
            self._notices.tell("revoke", user=subject, session=session, channel=channel, backend=backend)
        )

    async def join(self, channel: str | None, *, user: Any, backend: str) -> int:
        """Let a user's present connections to a backend into a channel, whatever its rule says; see `Socket.join`.

        Other processes that serve the backend from the same database do the same.

        Parameters:
            channel: the channel; None for the default one.
            user: the user, as `req.user` is, or the user's id alone.
            backend: the name of the backend.

        Returns: how many sockets of this process were concerned.

        Raises:
            SyncError: a `before` layer of `read` refuses the user there, or a database could not be reached.
            StackError: the user has no `id`.
            ConfigurationError: the application does not run, or there is no such backend.
            ValueError: this cannot be a channel, or it is one too many.

        Example:
            `await app.join("project-7", user="ann", backend="tasks")`
        """
        return await self._move("join", channel, user, backend)

    async def leave(self, channel: str | None, *, user: Any, backend: str) -> int:
        """End that a user's present connections to a backend listen to a channel; see `Socket.leave`.

        Parameters:
            channel: the channel; None for the default one.
            user: the user, as `req.user` is, or the user's id alone.
            backend: the name of the backend.

        Returns: how many sockets of this process were concerned.

        Raises:
            SyncError: a database could not be reached.
            StackError: the user has no `id`.
            ConfigurationError: the application does not run, or there is no such backend.
            ValueError: this cannot be a channel.

        Example:
            `await app.leave("project-7", user="ann", backend="tasks")`
        """
        return await self._move("leave", channel, user, backend)

    async def _move(self, kind: Literal["join", "leave"], channel: str | None, user: Any, backend: str) -> int:
        name = read_channel(channel) or ""
        self._check_served(kind, backend)
        return await self._on_loop(self._notices.tell(kind, user=principal(user), channel=name, backend=backend))

    def _check_served(self, call: str, backend: str | None) -> None:
        if backend is not None and backend not in self.backends:
            served = ", ".join(self.backends) or "none"
            raise ConfigurationError(f"app.{call}(backend={backend!r}): there is no such backend; served: {served}")
        if self._loop is None:
            raise ConfigurationError(f"the application does not run; call app.{call}(...) while it runs")

    async def _on_loop(self, work: Coroutine[Any, Any, int]) -> int:
        """Do some work on the server's event loop, whatever the present one is."""
        loop = self._loop
        assert loop is not None, "it was looked at"
        if loop is asyncio.get_running_loop():
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, loop))

    async def _shut_down(self, application: web.Application) -> None:
        if application is not self._serving:
            return  # it has not started this one
        self._admission.stopping = True
        await self.gateway.drain(self.limits.drain_time)
        for _ in range(ANSWER_ROUNDS):
            await asyncio.sleep(0)
        self.sio.handler_seconds = CLOSE_SECONDS / 2
        await _finish(
            response.close(code=WSCloseCode.GOING_AWAY, message=b"the server is stopping")
            for response in list(self._websockets)
            if not response.closed
        )
        await _finish(socket.close(wait=False) for socket in list(self.sio.eio.sockets.values()))

    async def _clean_up(self, application: web.Application) -> None:
        if application is self._serving:
            self._serving = None
            assert self._watchdog is not None
            self._watchdog.stop()
            if self._heap_trimmer is not None:
                self._heap_trimmer.stop()
            if not self._binding:
                logger.info("stopped: %s served no more", ", ".join(self.backends) or "no backend")
            await self.close()

    async def finish(self) -> None:
        """Let calls and emits finish, for `limits.drain_time`; calls that do not are `Unavailable`.

        Called before `close`, where no server drains requests. The log tells of what did not finish.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self.limits.drain_time
        await asyncio.sleep(0)  # tasks that were made just now begin
        if unfinished := await self.gateway.calls.drain(self.limits.drain_time):
            logger.warning("%d calls were under way at the end and were given up; writes may be applied", unfinished)
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._at_rest.wait()
        if self._at_work:
            logger.warning("%d emits were under way at the end; clients may not be told of them", self._at_work)

    async def close(self) -> None:
        """Stop the backends: the end of `open`."""
        await self._consuming.close(self.limits.drain_time)
        await self._readiness.close()
        await self._notices.close()
        await self.gateway.close()
        while self._started:
            await self._started.pop().stop()
        if getattr(self.sio.eio, "service_task_handle", None) is not None:
            await self.sio.shutdown()
        await self.gateway.delivery.stepper.close()
        self._threads.close()
        self._loop = self._early = None
        self.backends.frozen = False

    async def start(
        self, host: str = "127.0.0.1", port: int = 0, *, application: web.Application | None = None
    ) -> None:
        """Serve on a port, in the running event loop; `url` and `port` then hold the address.

        Parameters:
            host: the address to listen on; `0.0.0.0` for all, `::` for all of IPv6 and IPv4.
            port: the TCP port; 0 takes a free one.
            application: the aiohttp application that this one is mounted on; by default one that has nothing else.

        Raises:
            ConfigurationError: the port is in use, this application runs already, or is not mounted on the other.
        """
        if self._runner is not None:
            raise ConfigurationError(RUNS_ALREADY)
        # Whoever else answers requests gets the time that those of backends get.
        shutdown_timeout = self.limits.drain_time
        if application is None:
            application, shutdown_timeout = web.Application(), 0.2
            self._mount(application)
        elif mounted_on(application) is not self:
            raise ConfigurationError("this App is not mounted on that application; call app.mount(application) first")
        runner = web.AppRunner(
            application,
            access_log=None,
            logger=http_logger,
            shutdown_timeout=shutdown_timeout,
            keepalive_timeout=KEEPALIVE_SECONDS,
        )
        self._binding = True
        try:
            await runner.setup()
            own(runner, Lobby(self.limits, self.gateway.addresses, self._admission.proxies.have_opened))
            await _listen(runner, host, port)
        except BaseException:
            await runner.cleanup()
            raise
        finally:
            self._binding = False
        self._runner = runner
        self.port = runner.addresses[0][1]
        shown = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)
        self.url = f"http://[{shown}]:{self.port}" if ":" in shown else f"http://{shown}:{self.port}"

    async def stop(self) -> None:
        """Stop: accept no connections, let requests finish for `limits.drain_time`, close the rest with code 1001."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    @asynccontextmanager
    async def running(
        self, host: str = "127.0.0.1", port: int = 0, *, application: web.Application | None = None
    ) -> AsyncIterator[str]:
        """Start the application, and stop it at the end: `async with app.running() as url:`. See `start`."""
        await self.start(host, port, application=application)
        try:
            yield self.url
        finally:
            await self.stop()

    def run(
        self,
        host: str | None = None,
        port: int | None = None,
        log_level: str | None = None,
        *,
        application: web.Application | None = None,
    ) -> None:
        """Serve until SIGTERM or Ctrl-C.

        Parameters:
            host: the address to listen on, `0.0.0.0` for all, `::` for all of IPv6 and IPv4; $BBIO_HOST or 127.0.0.1
                by default.
            port: the TCP port; $BBIO_PORT or 3000 by default.
            log_level: the logging level, from `debug` to `critical`; $BBIO_LOG_LEVEL or `info` by default.
            application: the aiohttp application that this one is mounted on; by default one that has nothing else.

        Raises:
            ConfigurationError: a setting is not valid, or the port is in use.
        """
        settings = Settings.from_env()
        host = host or settings.host
        if port is None:
            port = settings.port_number()
        level = log_level or settings.log_level
        if level.lower() not in LOG_LEVELS:
            raise ConfigurationError(f"{level!r} is not a log level; choose one of {', '.join(LOG_LEVELS)}")
        handler = logging.StreamHandler()
        handler.setFormatter(IndentingFormatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
        logging.basicConfig(level=level.upper(), handlers=[handler])
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(self._run(host, port, application))

    def test(self, *, seed: int = 0, stores: Literal["fresh", "real"] | Mapping[str, Store] = "fresh") -> Harness:
        """Run the application for a test, with clients in the same process: `async with app.test() as t:`.

        A test does not touch the files and databases of the application: its stores begin empty, in other places.

        Parameters:
            seed: the seed of everything that is left to chance, such as the pause before a client connects again.
            stores: `"real"` for the stores as they are declared, with all their data; or stores by the names of
                backends, to be used instead of theirs.

        Raises:
            ConfigurationError: there is no such choice of stores; or, when the test begins, a store does not know how
                to keep its data elsewhere.

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

        return Harness(self, seed=seed, stores=stores)

    async def _run(self, host: str, port: int, application: web.Application | None) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            with suppress(NotImplementedError, RuntimeError):
                loop.add_signal_handler(number, stopped.set)
        async with self.running(host, port, application=application):
            click.echo(f"bbio serves {', '.join(self.backends) or 'no backend'} on {self.url} (Ctrl-C stops it)")
            # What was imported stays: Python need not look through all of it for garbage, while everybody waits.
            gc.collect()
            gc.freeze()
            await stopped.wait()


# The App that is mounted on an aiohttp application.
MOUNTED = web.AppKey("bbio", App)


def mounted_on(application: web.Application) -> App | None:
    """Return the App that is mounted on an aiohttp application, or on one that was added to it."""
    if MOUNTED in application:
        return application[MOUNTED]
    added = [resource.get_info().get("app") for resource in application.router.resources()]
    return next((app for each in added if each is not None and (app := mounted_on(each)) is not None), None)


async def _finish(closing: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """Close several things at the same time; what takes longer than CLOSE_SECONDS is given up, what fails ignored."""
    tasks = [asyncio.ensure_future(each) for each in closing]
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=CLOSE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        if host == "::":
            # Of itself asyncio takes IPv6 alone.
            there = socket.create_server((host, port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
            await web.SockSite(runner, there, backlog=BACKLOG).start()
        else:
            await web.TCPSite(runner, host, port, backlog=BACKLOG).start()
    except OSError as err:
        raise ConfigurationError(_why_not(err, host, port)) from None


def _why_not(err: OSError, host: str, port: int) -> str:
    if err.errno == errno.EADDRINUSE:
        return f"port {port} of {host} is in use; stop what uses it, or choose another port"
    if err.errno == errno.EACCES:
        return f"port {port} is for privileged users; choose one above 1023"
    return f"cannot listen on {host}:{port}: {err.strerror}; choose an address of this machine, or 0.0.0.0 for all"


def _fast_server() -> type[FastServer]:
    try:
        from bbio.server.fast.server import FastServer
    except ImportError as err:
        raise ConfigurationError(
            f"the fast engine relies on what the installed versions of its libraries do not have ({err}); "
            f'install the versions that bbio names, or use App(engine="plain")'
        ) from None
    return FastServer


def _public(event: str, public: Mapping[str, Any]) -> dict[str, Any]:
    try:
        told = dict(public)
        encode(told)
    except (TypeError, ValueError) as err:
        raise ConfigurationError(f"App(public={public!r}): every client gets it, as a JSON object: {err}") from None
    own = sorted({"client", "error", "event", "streams", "user", "v"} & told.keys())
    if own:
        raise ConfigurationError(f"App(public=...): {own[0]!r} is bbio's own; name it otherwise")
    return {**told, "event": event}
