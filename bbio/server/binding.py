"""The owner of a session: a client that polls names it in every URL, and proxies keep URLs in their logs."""

from __future__ import annotations

import msgspec
from aiohttp import web

from bbio.handshake import read_cookies

# Characters of a cookie's value from which on nobody guesses it.
UNGUESSABLE_CHARACTERS = 16


class Binding(msgspec.Struct, eq=False):
    """The proof that the requests of a session must show: a cookie of the last one, else the client's address.

    Parameters:
        cookies: the cookies that nobody guesses, `name=value` each; they may change one after the other.
        remote: the client's address.
    """

    cookies: frozenset[str]
    remote: str

    def admits(self, request: web.BaseRequest, remote: str) -> bool:
        """Return whether a request comes from the same client."""
        if not self.cookies:
            return remote == self.remote
        shown = cookies_of(request)
        if self.cookies.isdisjoint(shown):
            return False
        self.cookies = shown
        return True


def cookies_of(request: web.BaseRequest) -> frozenset[str]:
    """The cookies of a request that nobody guesses."""
    cookies = read_cookies(request.headers).items()
    return frozenset(f"{name}={value}" for name, value in cookies if len(value) >= UNGUESSABLE_CHARACTERS)
