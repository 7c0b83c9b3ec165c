"""Token: who a client is, by the token that it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import attrs

from bbio import ConfigurationError, Middleware, Request, Unauthorized, before
from bbio.builtin.sessions.found import own_copy
from bbio.builtin.tokens.keys import FetchedKeys
from bbio.builtin.tokens.opaque import OpaqueTokens, Verify
from bbio.builtin.tokens.signed import BAD_TOKEN, KeySource, SignedTokens
from bbio.identity import WARN_SECONDS, Identity
from bbio.requests import Socket

# Characters of a token.
MAX_TOKEN = 8_192
BEARER = "bearer "


@attrs.frozen(eq=False)
class Verified:
    """A token that a connection has shown and that was found valid."""

    identity: Identity
    # Until when it is to be believed: never longer than its identity lasts.
    fresh_until: float


class Token(Middleware):
    """Sets `req.user` from a token: that of Socket.IO's `auth`, `{token}`, or else of `Authorization: Bearer`.

    It checks signed tokens (JSON Web Tokens) with `key` or `jwks`, or any others with `verify`. Give one of the three.
    A client may show a new token of the same user on a connection that stays; see docs/tokens.md.

    Parameters:
        key: the key that signed tokens are checked with: a secret, or a public key in PEM. Several, so that one can be
            replaced: a list, or a dict by their names (`kid`).
        jwks: the https address of a JSON Web Key Set, such as your identity provider names.
        verify: a function, async or not, that gets a token and returns `(user, end)`, the end in seconds since 1970 or
            None for never; or None for a token that is not valid.
        algorithms: the algorithms that signed tokens may have, such as `["RS256"]`. Never those that a token names.
        audience: for whom signed tokens must be, the `aud`; one of several. Tokens that say one are refused without it.
        issuer: who must have issued signed tokens, the `iss`; one of several.
        leeway: seconds by which the clocks of issuer and server may differ.
        user: makes `req.user` of what a signed token says; by default all of it, a dict with `sub`.
        required: whether a client without a token is refused; else it has no user. A bad token is always refused.
        warn: seconds before the end of a token at which the client is told.
        cache_seconds: seconds for which an answer of `verify` is believed, at most until the token's end.

    Raises:
        ConfigurationError: an argument is not valid, or PyJWT is missing: `pip install "bbio[auth]"`.

    Example:
        >>> from bbio import Backend
        >>> class Todos(Backend):
        ...     middleware = [Token("for examples only, never for a real site", algorithms=["HS256"])]
    """

    def __init__(
        self,
        key: KeySource | None = None,
        *,
        jwks: str | None = None,
        verify: Verify | None = None,
        algorithms: Iterable[str] = (),
        audience: str | Iterable[str] | None = None,
        issuer: str | Iterable[str] | None = None,
        leeway: float = 0.0,
        user: Callable[[dict[str, Any]], Any] | None = None,
        required: bool = True,
        warn: float = WARN_SECONDS,
        cache_seconds: float = 60.0,
    ) -> None:
        if sum(each is not None for each in (key, jwks, verify)) != 1:
            raise ConfigurationError("Token(key), Token(jwks=...) or Token(verify=...): give one of the three")
        for name, seconds in (("leeway", leeway), ("warn", warn), ("cache_seconds", cache_seconds)):
            if not 0 <= seconds < float("inf"):
                raise ConfigurationError(f"Token({name}={seconds!r}): give seconds, 0 or more")
        self._user = user
        self._required = required
        self._warn = warn
        self._opaque = None if verify is None else OpaqueTokens(verify, cache_seconds)
        self._signed = None
        if verify is None:
            self._signed = SignedTokens(key, jwks, algorithms, audience, issuer, leeway)

    async def stop(self) -> None:
        """End what is under way."""
        if self._opaque is not None:
            await self._opaque.close()
        elif self._signed is not None and isinstance(self._signed.keys, FetchedKeys):
            await self._signed.keys.close()

    @before(bulk=True)
    def identify(self, req: Request) -> Any:
        """Set `req.user`."""
        socket = req.socket
        if socket is None:
            return None  # a call of the server, for a user or for itself
        known = socket.memo.get(self)
        if known is not None and socket.now() < known.fresh_until:
            identity = known.identity
            return req.take(identity, own_copy(identity.user))
        return self._identify(req, socket)

    async def _identify(self, req: Request, socket: Socket) -> None:
        memo = socket.memo
        token = _token_of(socket)
        if token is None:
            if self._required:
                raise Unauthorized("a token is needed: log in first")
            return
        if len(token) > MAX_TOKEN:
            raise Unauthorized(BAD_TOKEN)
        revocations, verified = socket.revocations, await self._check(token, socket)
        while revocations != socket.revocations:
            # What was found out before somebody was revoked counts no more.
            revocations, verified = socket.revocations, await self._check(token, socket)
        memo[self] = verified
        if memo is not socket.memo:
            # Its client has shown another token meanwhile, which has been looked at.
            await self._identify(req, socket)
            return
        req.take(verified.identity, own_copy(verified.identity.user))

    async def _check(self, token: str, socket: Socket) -> Verified:
        now = socket.now()
        if self._opaque is not None:
            user, end, fresh_until = await self._opaque.check(token, now, socket.revocations)
        else:
            assert self._signed is not None, "it is one of the two"
            claims, end = await self._signed.check(token, now)
            user, fresh_until = claims if self._user is None else self._user(claims), end
        if user is None:
            raise Unauthorized(BAD_TOKEN)
        return Verified(Identity(user, None, end, self._warn), min(fresh_until, fresh_until if end is None else end))


def _token_of(socket: Socket) -> str | None:
    """Return the token that a client shows; None if it shows none.

    Raises:
        Unauthorized: it is no string.
    """
    token = (socket.auth or {}).get("token")
    if token is None:
        header = socket.headers.get("Authorization", "")
        token = header[len(BEARER) :].strip() if header[: len(BEARER)].lower() == BEARER else None
    if token is not None and not isinstance(token, str):
        raise Unauthorized(BAD_TOKEN)
    return token
