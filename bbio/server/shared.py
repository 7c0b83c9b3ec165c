"""A Socket.IO server whose namespaces bbio and the application share.

python-socketio keeps one handler for each event of a namespace, so the later of two would replace the earlier. Here
bbio's handlers of a backend's namespace and those of the application are called beside each other.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import socketio

from bbio import protocol
from bbio.errors import ConfigurationError
from bbio.ratelimit import RateLimitedLog
from bbio.registry import Registry
from bbio.server.gateway import Gateway
from bbio.server.http.admission import REMOTE
from bbio.server.limits import Limits
from bbio.server.memory import Addresses

logger = logging.getLogger("bbio")

Handler = Callable[..., Any]


class SharedServer(socketio.AsyncServer):
    """The Socket.IO server beneath an application, `app.sio`.

    Handlers of `connect` and `disconnect` get what python-socketio gives them. One that refuses a client, by `False` or
    `ConnectionRefusedError`, keeps it out of the backend too. One that fails, or takes longer than `Limits.deadline`,
    is logged: a failed `connect` refuses the client, a failed `disconnect` changes nothing.

    Parameters:
        registry: the served backends.
        limits: what a client may ask for.
        addresses: where clients come from.
        public: what clients are told in the reply to a `listen`, `event` among it.
        options: passed on to `socketio.AsyncServer`.
    """

    # Options of an engine's own.
    library_options: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        registry: Registry,
        limits: Limits,
        addresses: Addresses,
        public: dict[str, Any],
        **options: Any,
    ) -> None:
        self.gateway = Gateway(registry, limits, addresses, self, public)
        self._limits = limits
        self._addresses = addresses
        self._depth = limits.depth + 2  # the packet's array and the sync's object
        # How long a handler of connect or disconnect may take.
        self.handler_seconds = limits.deadline
        # By namespace: bbio's handlers. By namespace and event: the application's functions.
        self._backends: dict[str, dict[str, Handler]] = {}
        # By namespace: the events that the backend alone answers.
        self._answered: dict[str, tuple[str, ...]] = {}
        self._functions: dict[tuple[str, str], Handler] = {}
        self._log = RateLimitedLog(logger)
        # What clients do, apart from errors.
        self.quiet = RateLimitedLog(logger)
        super().__init__(**self.library_options, **options)

    @abstractmethod
    def deliver(self, peers: Iterable[Any], skip: Any, namespace: str, text: bytes) -> None:
        """Send a Socket.IO event, given as JSON, to all peers but one."""

    def keep(self, namespace: str, events: tuple[str, ...] = protocol.EVENTS, **handlers: Handler) -> None:
        """Register bbio's handlers of a backend's namespace; those of the application stay beside them.

        Parameters:
            namespace: the namespace.
            events: the events that the backend alone answers.
            handlers: the handlers, by event. Those of other events are for when the application has none.

        Raises:
            ConfigurationError: the application handles an event that the backend answers.
        """
        its_own = self.namespace_handlers.get(namespace)
        taken = self.handlers.get(namespace, {}).keys() & events
        if taken or _has_method_for(its_own, events):
            raise _refusal(namespace, events)
        self._backends[namespace] = handlers
        self._answered[namespace] = events
        self._dispatch(namespace)
        for event in handlers.keys() - {"connect", "disconnect"}:
            if event in events or not self.is_handled(namespace, event):
                super().on(event, handlers[event], namespace)

    def is_handled(self, namespace: str, event: str) -> bool:
        """Return whether the application has a handler of an event, and the backend none of its own."""
        own = self._backends.get(namespace, {}).get(event)
        names = {*self.handlers.get(namespace, {}), *self.handlers.get("*", {})}
        registered = self.handlers.get(namespace, {}).get(event)
        if registered is not None and registered is not own:
            return True
        if "*" in names or event in self.handlers.get("*", {}):
            return True
        classes = (self.namespace_handlers.get(namespace), self.namespace_handlers.get("*"))
        return any(_has_method_for(each, (event,)) for each in classes)

    def on(self, event: str, handler: Handler | None = None, namespace: str | None = None) -> Any:
        """Register a handler of the application, as python-socketio does; also as a decorator.

        Raises:
            ConfigurationError: it is for an event that a backend answers.
        """
        if handler is None:
            return partial(self._decorate, event, namespace)
        namespace = namespace or "/"
        if event in self._answered.get(namespace, ()):
            raise _refusal(namespace, self._answered[namespace])
        if event in ("connect", "disconnect"):
            self._functions[namespace, event] = handler
            self._dispatch(namespace)
        else:
            super().on(event, handler, namespace)
            if event == "*":
                self._give_way(namespace)
        return None

    def _decorate(self, event: str, namespace: str | None, handler: Handler) -> Handler:
        self.on(event, handler, namespace)
        return handler

    def register_namespace(self, namespace_handler: Any) -> None:
        """Register a class-based handler of the application, as python-socketio does.

        Raises:
            ConfigurationError: it has methods for events that a backend answers.
        """
        namespace = namespace_handler.namespace
        events = self._answered.get(namespace, ())
        if _has_method_for(namespace_handler, events):
            raise _refusal(namespace, events)
        super().register_namespace(namespace_handler)
        # A function comes before a class.
        self._give_way(namespace)
        self._dispatch(namespace)

    def _give_way(self, namespace: str) -> None:
        """Remove what bbio answers for want of another handler, where there is one by now."""
        handlers = self.handlers.get(namespace, {})
        for event in protocol.EPHEMERAL:
            if event not in self._answered.get(namespace, ()) and self.is_handled(namespace, event):
                own = self._backends.get(namespace, {}).get(event)
                if own is not None and handlers.get(event) is own:
                    del handlers[event]

    def _dispatch(self, namespace: str) -> None:
        """Have clients of a namespace, `*` for any, come and go through here."""
        several = namespace == "*"
        super().on("connect", self._connect if several else partial(self._connect, namespace), namespace)
        super().on("disconnect", self._disconnect if several else partial(self._disconnect, namespace), namespace)

    def has_namespace(self, namespace: str) -> bool:
        """Return whether clients may join a namespace, that of a backend or of the application."""
        return namespace == "/" or namespace in self.handlers or namespace in self.namespace_handlers

    def refuse_namespace(self, namespace: str) -> str:
        """Log that there is no such backend, and which there are; return what the client is told, those in debug mode.

        Parameters:
            namespace: what a client wanted to join.
        """
        registry = self.gateway.registry
        text, served = f"no backend is named {namespace[1:]!r}", ", ".join(registry) or "none"
        self.quiet.info("refused the namespace %r: app.serve(...) serves it; served: %s", namespace, served)
        return f"{text}; served: {served}" if registry.debug else text

    async def _connect(self, namespace: str, sid: str, environ: dict[str, Any], auth: Any = None) -> Any:
        try:
            accepted = await self._call("connect", namespace, sid, environ, auth)
        except (socketio.exceptions.ConnectionRefusedError, ConnectionRefusedError):
            raise
        except Exception as err:
            self._log.error(err, "a handler of connect in the namespace %s failed for %s", namespace, _remote(environ))
            raise socketio.exceptions.ConnectionRefusedError("Internal error.") from None
        # The handler may have waited; a client that is gone by now would stay for ever, for nobody tells of it again.
        if accepted is False or self.get_environ(sid, namespace) is None:
            return False
        if namespace in self._backends:
            await self._backends[namespace]["connect"](sid, environ, auth)
        return accepted

    async def _disconnect(self, namespace: str, sid: str, reason: str) -> None:
        if namespace in self._backends:
            await self._backends[namespace]["disconnect"](sid, reason)
        try:
            await self._call("disconnect", namespace, sid, reason)
        except Exception as err:
            # Raised further, it would keep the client from leaving its other namespaces.
            self._log.error(err, "a handler of disconnect in the namespace %s failed", namespace)

    async def _call(self, event: str, namespace: str, *arguments: Any) -> Any:
        """Call the application's handler: a function before a class, one for the namespace before one for all."""
        registered = (
            (namespace, self._functions.get((namespace, event))),
            ("*", self._functions.get(("*", event))),
            (namespace, self.namespace_handlers.get(namespace)),
            ("*", self.namespace_handlers.get("*")),
        )
        place, handler = next((each for each in registered if each[1] is not None), ("", None))
        if handler is None:
            return None
        if place == "*":
            arguments = (namespace, *arguments)
        if isinstance(handler, socketio.AsyncNamespace):
            arguments = (event, *_accepted(getattr(handler, f"on_{event}", handler.trigger_event), arguments))
            handler = handler.trigger_event
        else:
            arguments = _accepted(handler, arguments)
        result = handler(*arguments)
        return await self._within(result) if inspect.isawaitable(result) else result

    async def _within(self, work: Awaitable[Any]) -> Any:
        # In a task of its own: an AsyncNamespace swallows that it is cancelled.
        task = asyncio.ensure_future(work)
        try:
            await asyncio.wait([task], timeout=self.handler_seconds)
            if not task.done():
                raise TimeoutError(f"it took longer than {self.handler_seconds} s")
            return task.result()
        finally:
            task.cancel()


def _remote(environ: dict[str, Any]) -> str:
    remote: str = environ["aiohttp.request"][REMOTE]
    return remote


def _accepted(handler: Handler, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments that a handler takes: `auth` and `reason`, the last, came to python-socketio later."""
    try:
        inspect.signature(handler).bind(*arguments)
    except TypeError:
        return arguments[:-1]
    return arguments


def _has_method_for(namespace_handler: Any, events: Iterable[str]) -> bool:
    return any(hasattr(namespace_handler, f"on_{event}") for event in events)


def _refusal(namespace: str, events: Iterable[str]) -> ConfigurationError:
    return ConfigurationError(
        f"app.sio: {', '.join(events)} of the namespace {namespace!r} are answered by the backend "
        f"{namespace[1:]!r}; write a handler or a layer in its class, or give the event another name"
    )
