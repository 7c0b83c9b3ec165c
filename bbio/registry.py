"""The registry: backend names, and the one way from a request to its backend's stack."""

from __future__ import annotations

import logging
import secrets
import traceback
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any

from bbio.backend import Backend, check_name
from bbio.errors import ConfigurationError, DefinitionError, FrozenError, InternalError, SyncError
from bbio.ratelimit import RateLimitedLog, one_line
from bbio.requests import Request, Response

logger = logging.getLogger("bbio")


class Registry(Mapping[str, Backend]):
    """The served backends by name.

    Parameters:
        debug: whether unexpected errors reach clients with message and stack.
    """

    def __init__(self, debug: bool = False) -> None:
        self.debug = debug
        self.frozen = False
        self._backends: dict[str, Backend] = {}
        self._log = RateLimitedLog(logger)

    def __getitem__(self, name: str) -> Backend:
        try:
            return self._backends[name]
        except KeyError:
            served = ", ".join(self._backends) or "none"
            raise KeyError(f"no backend {name!r} is served; served: {served}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._backends)

    def __len__(self) -> int:
        return len(self._backends)

    def add(self, backend: Any, name: str | None = None) -> Backend:
        """Add a backend class or instance.

        Parameters:
            backend: a subclass of Backend, or an instance of one.
            name: its name; the class's own by default.

        Raises:
            ConfigurationError: it is no backend, or the name is taken.
            FrozenError: the application has started.
        """
        if self.frozen:
            raise FrozenError("app.serve(...) came after the application had started; call it before app.run()")
        if isinstance(backend, type) and issubclass(backend, Backend) and backend is not Backend:
            backend = backend()
        if not isinstance(backend, Backend) or type(backend) is Backend:
            raise ConfigurationError(
                f"app.serve({backend!r}): that is no backend; serve a subclass of bbio.Backend: class Todos(Backend)"
            )
        try:
            name = check_name(backend.name if name is None else name)
        except DefinitionError as err:
            raise ConfigurationError(f"app.serve(...): {err}") from None
        taken = self._backends.get(name)
        if taken is not None:
            raise ConfigurationError(
                f"two backends are named {name!r} ({type(taken).__name__} and {type(backend).__name__}); "
                f"name one of them: app.serve(other_name={type(backend).__name__})"
            )
        self._backends[name] = backend
        return backend

    def dispatch(self, req: Request) -> Awaitable[Response]:
        """Run a sync through its backend's stack. The response's failure, if any, is a `SyncError`."""
        answer: Awaitable[Response] = req.backend.stacks[req.method].run(req, self.internal_error)
        return answer

    async def admit(self, req: Request) -> SyncError | None:
        """Ask the `before` layers of `read` whether a client may listen; None when it may."""
        res = await req.backend.stacks["read"].admit(req, self.internal_error)
        failure: SyncError | None = res.failure
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
