"""The cookie of a session: its name, which cookie of a request counts, and how responses set it."""

from __future__ import annotations

from collections.abc import Mapping
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any, Protocol

import attrs

from bbio.handshake import is_on_loopback, read_cookies

if TYPE_CHECKING:
    from aiohttp import web

# Browsers take a cookie of such a name from the host itself alone, over HTTPS: no neighbouring site can set it.
HOST_PREFIX = "__Host-"
# Seconds.
FORTNIGHT = 14 * 86_400


class HasHeaders(Protocol):
    """A request of any framework: of aiohttp, Starlette, Flask and Django alike."""

    @property
    def headers(self) -> Any:
        """The HTTP headers, a mapping, whatever the case of their names."""


AnyRequest = HasHeaders | None


@attrs.frozen
class SessionCookie:
    """The cookie of a session.

    Parameters:
        name: its name, before which `__Host-` is put if browsers send it over HTTPS only.
        secure: whether they do; None for: unless the site is on this machine itself.
    """

    name: str
    secure: bool | None
    _host_name: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_host_name", HOST_PREFIX + self.name)

    def full_name(self, secure: bool) -> str:
        """Return the name with its prefix."""
        return self._host_name if secure else self.name

    def find(self, cookies: Mapping[str, str], headers: Mapping[str, str]) -> str | None:
        """Return the value that counts of a request with these cookies and headers; None if there is none."""
        value = None if self.secure is False else cookies.get(self._host_name)
        if value is not None:
            return value
        value = cookies.get(self.name)
        # Elsewhere than on this machine a cookie without the prefix may be another site's of the same domain.
        if value is not None and (is_on_loopback(headers) if self.secure is None else not self.secure):
            return value
        return None

    def find_in(self, request: HasHeaders) -> str | None:
        """Return the value that counts of a request; None if there is none."""
        return self.find(read_cookies(request.headers), request.headers)

    def is_secure_for(self, request: AnyRequest) -> bool:
        """Return whether the answer to a request sets it for HTTPS only."""
        if self.secure is not None:
            return self.secure
        return request is None or getattr(request, "secure", None) is True or not is_on_loopback(request.headers)

    def attributes(self, secure: bool, max_age: int) -> dict[str, Any]:
        """Return the attributes that it is set with, as aiohttp's `set_cookie` takes them."""
        return {"max_age": max_age, "path": "/", "httponly": True, "samesite": "Lax", "secure": secure}

    def set_on(self, response: web.StreamResponse, request: AnyRequest, value: str, max_age: int) -> None:
        """Set it on a response of aiohttp's."""
        secure = self.is_secure_for(request)
        response.set_cookie(self.full_name(secure), value, **self.attributes(secure, max_age))

    def clear_on(self, response: web.StreamResponse) -> None:
        """Remove it with a response of aiohttp's."""
        for secure in (True, False) if self.secure is None else (self.secure,):
            response.del_cookie(self.full_name(secure), httponly=True, samesite="Lax", secure=secure)

    def header(self, request: AnyRequest, value: str, max_age: int) -> str:
        """Return the value of a `Set-Cookie` header that sets it, or that removes it with a `max_age` of 0."""
        secure = self.is_secure_for(request)
        if not max_age and request is not None and self.secure is None:
            # The one that the browser has, whichever way it got it.
            secure = secure or self._host_name in read_cookies(request.headers)
        name = self.full_name(secure)
        jar: SimpleCookie = SimpleCookie({name: value})
        for attribute, setting in self.attributes(secure, max_age).items():
            jar[name][attribute.replace("_", "-")] = setting
        return jar[name].OutputString()
