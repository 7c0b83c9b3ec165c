"""Calls from outside: scripts, workers and commands that use the backends of an application beside its servers.

`bbio.open` starts an application without a port, over the database that its servers use. What is written goes the same
way as in a server, and the servers' clients are notified of it.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import weakref
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar, overload

from aiohttp import web

from bbio.app import App, new_event_loop
from bbio.backend import Backend
from bbio.calls import Blocking
from bbio.errors import ConfigurationError
from bbio.generic import M
from bbio.registry import Registry
from bbio.runtime import SHARING, Runtime
from bbio.server.calls import result_of
from bbio.target import app_of, find

T = TypeVar("T")

# The applications that are open in this process.
_open: weakref.WeakSet[App] = weakref.WeakSet()
_claiming = threading.Lock()


class BlockingBackend(Blocking[M]):
    """One backend for code without an event loop: its calls wait for their results. See `bbio.open`.

    It has the methods of `Runtime.blocking`, and `emit`.

    Parameters:
        runtime: the backend.

    Attributes:
        name: its name.

    Example:
        `with bbio.open("shop:app") as backends: backends["orders"].create({"product": "milk"})`
    """

    def __init__(self, runtime: Runtime[M]) -> None:
        super().__init__(runtime)
        self.name = runtime.name
        self.emit = runtime.emit

    def __repr__(self) -> str:
        return f"<BlockingBackend {self.name}>"


class BlockingBackends(Mapping[str, BlockingBackend[Any]]):
    """The backends of an application by name or class, for code without an event loop. See `bbio.open`.

    Parameters:
        registry: the backends.

    Example:
        `with bbio.open("shop:app") as backends: print(list(backends))`
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @overload
    def __getitem__(self, key: str, /) -> BlockingBackend[Any]: ...

    @overload
    def __getitem__(self, key: type[Backend[M]], /) -> BlockingBackend[M]: ...

    def __getitem__(self, key: str | type[Backend[Any]], /) -> BlockingBackend[Any]:
        """Return the backend of that name, or the one of that class.

        Raises:
            KeyError: there is none, or several of the class.
        """
        return BlockingBackend(self._registry[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._registry)

    def __len__(self) -> int:
        return len(self._registry)


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._started: concurrent.futures.Future[asyncio.AbstractEventLoop] = concurrent.futures.Future()
        # A program that forgets to close what it has opened can end all the same.
        self._thread = threading.Thread(target=self._run, name="bbio", daemon=True)
        self._thread.start()
        self._loop = self._started.result()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            loop = runner.get_loop()
            loop.call_soon(self._started.set_result, loop)
            loop.run_forever()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the loop, and wait for its result; Ctrl-C cancels it."""
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return result_of(future)
        except BaseException:
            future.cancel()
            raise

    def stop(self) -> None:
        """End what runs in the loop, and the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


class Opening:
    """An application that is to be opened beside its servers, made by `bbio.open`.

    Parameters:
        target: the application, or its name.
        migrate: whether stores may make and change tables.

    Example:
        See `bbio.open`.
    """

    def __init__(self, target: str | App | web.Application, *, migrate: bool = False) -> None:
        self._target = target
        self._migrate = migrate
        self._app: App | None = None
        self._thread: LoopThread | None = None
        self._closing = ExitStack()

    async def __aenter__(self) -> Registry:
        with ExitStack() as closing:
            app = self._claim(closing)
            await app.open(outside=True, migrate=self._migrate)
            self._closing = closing.pop_all()
        return app.backends

    async def __aexit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._closing:
            await self._leave()

    def __enter__(self) -> BlockingBackends:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            pass
        else:
            raise ConfigurationError(
                "`with bbio.open(...)` would hold up the event loop of this thread; write `async with bbio.open(...)`"
            )
        with ExitStack() as closing:
            app = self._claim(closing)
            thread = LoopThread()
            closing.callback(thread.stop)
            thread.run(app.open(outside=True, migrate=self._migrate))
            self._closing, self._thread = closing.pop_all(), thread
        return BlockingBackends(app.backends)

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, traceback: TracebackType | None
    ) -> None:
        thread, self._thread = self._thread, None
        assert thread is not None, "it was entered"
        with self._closing:
            thread.run(self._leave())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the event loop of the application, and wait for its result, within `with bbio.open(...)`.

        Parameters:
            work: the coroutine, such as one that goes through `app.backends["orders"].events()`.

        Raises:
            ConfigurationError: it is not open, or was opened with `async with`.

        Example:
            `opened.run(copy_all())`
        """
        if self._thread is None:
            work.close()
            raise ConfigurationError("run(...) is for within `with bbio.open(...)`; in `async with`, await it")
        return self._thread.run(work)

    def _claim(self, closing: ExitStack) -> App:
        """Find the application, and have nobody else open it in this process until it is closed."""
        app = app_of(find(self._target) if isinstance(self._target, str) else self._target)
        check_shared(app)
        with _claiming:
            if app in _open:
                raise ConfigurationError(
                    "this application is open already; open it once in each process, after a fork, and use what "
                    "that gives in all threads and tasks"
                )
            if app.backends.frozen:
                raise ConfigurationError("this application runs already in this process; use app.backends")
            _open.add(app)
        closing.callback(_open.discard, app)
        self._app = app
        return app

    async def _leave(self) -> None:
        """Let what is under way finish, and close the stores."""
        app = self._app
        assert app is not None, "it was entered"
        try:
            await app.finish()
        finally:
            await app.close()


def check_shared(app: App) -> None:
    """Raise where no backend of an application can be used from outside.

    Parameters:
        app: the application.

    Raises:
        ConfigurationError: it has no backends, or none has a store that processes share.
    """
    if not app.backends:
        raise ConfigurationError("this application serves no backend: app.serve(...) before it is opened")
    if not any(runtime.is_shared for runtime in app.backends.values()):
        raise ConfigurationError(
            f"no store of this application is shared by processes ({', '.join(app.backends)}), so that the server and "
            f"its clients would not have what is written here; of a backend for programs beside the server, {SHARING}"
        )


def open(target: str | App | web.Application, *, migrate: bool = False) -> Opening:
    """Open an application beside its servers, for scripts, workers and commands.

    `async with bbio.open(...) as backends` gives `app.backends`; `with bbio.open(...) as backends` gives the same for
    code without an event loop, where each call waits for its result: then the application runs in a thread. Calls go
    through the whole stack to the database that the servers share, and their clients are notified.

    At the end, calls and emits that are under way get `Limits.drain_time` to finish.

    Parameters:
        target: the application: `"module:app"`, the App, or an aiohttp application that it is mounted on.
        migrate: whether stores may make tables and bring them to this version, as servers do when they start.

    Raises (when it is entered):
        ConfigurationError: the application cannot be found, is open or runs already in this process, shares no store
            with other processes, or its database is not that of this version; the text says how to mend it.

    Example:
        >>> import asyncio, os, tempfile
        >>> from bbio import App, Backend
        >>> from bbio.builtin import SQLiteStore
        >>> folder = tempfile.TemporaryDirectory()
        >>> class Todos(Backend):
        ...     store = SQLiteStore(os.path.join(folder.name, "todos.db"))
        >>> app = App().serve(Todos)
        >>> async def main():
        ...     async with open(app, migrate=True) as backends:
        ...         return (await backends["todos"].create({"title": "milk"}))["title"]
        >>> asyncio.run(main())
        'milk'
        >>> with open(app) as backends:
        ...     [todo["title"] for todo in backends[Todos].query().models]
        ['milk']
        >>> folder.cleanup()
    """
    return Opening(target, migrate=migrate)
