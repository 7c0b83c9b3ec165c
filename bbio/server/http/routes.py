"""Routes that bbio adds to an aiohttp application beside those of its own."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from bbio.errors import ConfigurationError
from bbio.server.http.admission import Handler

SOCKET_IO = "/socket.io/"


class Endpoint(web.PlainResource):
    """The resource of Socket.IO's requests, whatever their method.

    Its route is not among `application.router.routes()`: set-ups that go over all routes, such as those of
    aiohttp_cors, have nothing to add here. `App(cors=...)` says which origins may connect.
    """

    def __init__(self, handler: Handler) -> None:
        super().__init__(SOCKET_IO)
        super().add_route("*", handler)

    def add_route(self, *args: Any, **options: Any) -> Any:
        raise ConfigurationError(
            f"bbio answers all requests for {self.canonical}; App(cors=...) names the other sites that may connect"
        )

    def __iter__(self) -> Any:
        return iter(())

    def __len__(self) -> int:
        return 0


class Fallback(web.PlainResource):
    """A route that answers unless the application has one at the same path, added before or after.

    Parameters:
        application: the application.
        path: the path.
        handler: what answers GET and HEAD.
    """

    def __init__(self, application: web.Application, path: str, handler: Handler) -> None:
        super().__init__(path)
        self._application = application
        for method in ("GET", "HEAD"):
            self.add_route(method, handler)

    async def resolve(self, request: web.Request) -> Any:
        if is_taken(self._application, self):
            return None, set()
        return await super().resolve(request)


def is_taken(application: web.Application, resource: web.AbstractResource) -> bool:
    """Return whether an application has another resource at the same path."""
    return any(
        other is not resource and other.canonical == resource.canonical for other in application.router.resources()
    )


def check_mountable(application: web.Application) -> None:
    """Raise `ConfigurationError` when Socket.IO cannot have its path in an application."""
    if application.router.frozen:
        raise ConfigurationError("app.mount(application) comes too late: mount before it starts or is added to another")
    for resource in application.router.resources():
        if resource.canonical == SOCKET_IO:
            raise ConfigurationError(_who_else(resource))


def check_alone(application: web.Application, endpoint: Endpoint) -> None:
    """Raise `ConfigurationError` when something was added at an endpoint's path: it would never be reached."""
    for resource in application.router.resources():
        if resource is not endpoint and resource.canonical == endpoint.canonical:
            raise ConfigurationError(_who_else(resource))


def _who_else(resource: web.AbstractResource) -> str:
    if isinstance(resource, Endpoint):
        return "another App is mounted on this application: serve all backends by one App, App().serve(A).serve(B)"
    return (
        f"something else answers at {resource.canonical} of this application, such as a python-socketio server: "
        "app.sio is one, or attach yours elsewhere: sio.attach(application, socketio_path='other')"
    )
