"""CookieParser: the handshake's cookies in `req.state`."""

from __future__ import annotations

from bbio import Middleware, Request, before


class CookieParser(Middleware):
    """Puts the cookies of the client's handshake into `req.state["cookies"]`, a dict for each request.

    `req.cookies` has them too, read-only.

    Example:
        >>> from bbio import Backend, before
        >>> class Todos(Backend):
        ...     middleware = [CookieParser()]
        ...
        ...     @before
        ...     def choose_language(self, req):
        ...         req.state["language"] = req.state["cookies"].get("language", "en")
    """

    @before(bulk=True)
    def parse(self, req: Request) -> None:
        req.state["cookies"] = dict(req.cookies)
