"""The registry: the served backends by name, and the way that requests take to them."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any, overload

from bbio.backend import Backend, check_name
from bbio.errors import ConfigurationError, DefinitionError, FrozenError, InternalError, SyncError
from bbio.generic import M
from bbio.ratelimit import RateLimitedLog, one_line
from bbio.requests import Request
from bbio.runtime import Runtime, Spawn
from bbio.stack.stack import Run
from bbio.stack.threads import Threads
from bbio.view import View

logger = logging.getLogger("bbio")


# Why a client may not listen, None when it may; and what it sees of the events, None where all see the same.
JoinDecision = tuple[SyncError | None, View | None]


class Registry(Mapping[str, Runtime]):
    """The served backends by name.

    Parameters:
        spawn: has the server do some work for a backend, from any thread.
        debug: whether unexpected errors reach clients with message and stack.
        threads: where layers run that block.
    """

    def __init__(self, spawn: Spawn, *, debug: bool = False, threads: Threads | None = None) -> None:
        self._spawn = spawn
        self._threads = threads
        self.debug = debug
        self.frozen = False
        self._runtimes: dict[str, Runtime] = {}
        self._log = RateLimitedLog(logger)

    @overload
    def __getitem__(self, key: str, /) -> Runtime: ...

    @overload
    def __getitem__(self, key: type[Backend[M]], /) -> Runtime[M]: ...

    def __getitem__(self, key: str | type[Backend[Any]], /) -> Runtime[Any]:
        """Return the backend of that name, or the one of that class.

        Raises:
            KeyError: there is none, or several of the class.
        """
        if isinstance(key, type):
            found = [runtime for runtime in self._runtimes.values() if type(runtime.backend) is key]
            if len(found) == 1:
                return found[0]
            if found:
                names = " or ".join(repr(runtime.name) for runtime in found)
                raise KeyError(f"{key.__name__} is served more than once; name one: backends[{names}]")
            key = key.__name__
        try:
            return self._runtimes[key]
        except KeyError:
            served = ", ".join(self._runtimes) or "none"
            raise KeyError(f"no backend {key!r} is served; served: {served}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._runtimes)

    def __len__(self) -> int:
        return len(self._runtimes)

    def add(self, backend: Any, name: str | None = None) -> Runtime:
        """Add a backend class or instance; `open` of what is returned is still to come.

        Parameters:
            backend: a subclass of Backend, or an instance of one.
            name: its name; the class's own by default.

        Raises:
            ConfigurationError: it is not a backend, is served already, or the name is taken.
            FrozenError: the application has started.
        """
        if self.frozen:
            raise FrozenError("app.serve(...) came after the application had started; call it before app.run()")
        if isinstance(backend, type) and issubclass(backend, Backend) and backend is not Backend:
            backend = backend()
        if not isinstance(backend, Backend) or type(backend) is Backend:
            raise ConfigurationError(
                f"app.serve({backend!r}): that is not a backend; serve a subclass of bbio.Backend: class Todos(Backend)"
            )
        try:
            name = check_name(backend.name if name is None else name)
        except DefinitionError as err:
            raise ConfigurationError(f"app.serve(...): {err}") from None
        taken = self._runtimes.get(name)
        if taken is not None:
            raise ConfigurationError(
                f"two backends are named {name!r} ({type(taken.backend).__name__} and {type(backend).__name__}); "
                f"name one of them: app.serve(other_name={type(backend).__name__})"
            )
        runtime = self._runtimes[name] = Runtime(backend, name, self._spawn, self._threads)
        return runtime

    def dispatch(self, runtime: Runtime, req: Request, res: Run | None = None) -> Awaitable[Run]:
        """Run a sync through its backend's stack. The response's failure, if any, is a `SyncError`.

        Parameters:
            runtime: the backend.
            req: the sync.
            res: the response to fill, where the caller looks at it meanwhile.
        """
        return runtime.stacks[req.method].run(req, self.internal_error, res)

    async def admit(self, runtime: Runtime, req: Request) -> JoinDecision:
        """Ask the `before` layers of `read` whether a client may listen, and what it then sees."""
        failure = await self.permit(runtime, req)
        return failure, View.of_listener(runtime.schema, req) if failure is None and runtime.has_views else None

    async def permit(self, runtime: Runtime, req: Request) -> SyncError | None:
        """Ask the `before` layers of `read` whether a client may do something besides syncs; return why it may not."""
        failure = (await runtime.stacks["read"].admit(req, self.internal_error)).failure
        assert failure is None or isinstance(failure, SyncError)
        return failure

    def internal_error(self, err: BaseException, req: Request) -> InternalError:
        """Log an unexpected error of a request whole, under an id; the id alone is for the client."""
        remote = "the server itself" if req.socket is None else req.socket.remote
        return self.report(err, f"{getattr(req.backend, 'name', '?')} {req.method}", remote)

    def report(self, err: BaseException, work: str, remote: str) -> InternalError:
        """Log an unexpected error of some work whole, under an id; the id alone is for the client.

        Parameters:
            err: the error.
            work: what has failed.
            remote: the address of the client whose work it was, which may be blocked if it causes too many.
        """
        correlation = secrets.token_hex(8)
        self._log.error(err, "%s of %s failed [%s]", work, one_line(remote), correlation, correlation_id=correlation)
        if not self.debug:
            return InternalError(id=correlation)
        message, stack = (
            # Whatever the text of an error holds, it can travel.
            "".join(lines).encode("utf-8", "backslashreplace").decode()
            for lines in (traceback.format_exception_only(err), traceback.format_exception(err))
        )
        return InternalError(message.strip(), id=correlation, stack=stack)
