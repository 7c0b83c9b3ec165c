"""Session: the user's identity, and other data of a client, in a signed cookie."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from itsdangerous import BadData, URLSafeTimedSerializer

from bbio import ConfigurationError, Middleware, Request, before
from bbio.builtin.sessions.cookies import FORTNIGHT, AnyRequest, HasHeaders, SessionCookie
from bbio.builtin.sessions.found import FoundSession, as_json
from bbio.settings import Settings

if TYPE_CHECKING:
    from aiohttp import web

logger = logging.getLogger("bbio")

MAX_WRITTEN_COOKIE = 4000
# How many cookies are remembered as valid: a connection shows the same one with every request.
KNOWN_COOKIES = 10_000
SHORTEST = 32
MAKE_ONE = "python -c 'import secrets; print(secrets.token_urlsafe(32))' makes one"


class Session(Middleware):
    """Sets `req.session` from a signed cookie of the handshake; `{}` when there is no valid one.

    HTTP handlers of the application set the cookie with `save`, after a login, and remove it with `clear`. A browser
    cannot change it, but its user can read it. The session's `user` becomes `req.user`, unless a layer above has set
    that.

    Parameters:
        secret: the string that cookies are signed with. Of several, the first signs and all are accepted, so that one
            can be replaced. `$BBIO_SECRET_KEY` by default, several separated by spaces.
        cookie: the cookie's name; `__Host-` is put before it if browsers send it over HTTPS only.
        max_age: seconds for which a cookie is valid.
        secure: whether browsers send it over HTTPS only; by default unless the site is on this machine itself, such as
            `http://localhost:3000`.

    Raises:
        ConfigurationError: there is no secret.

    Example:
        >>> from bbio import Backend, Unauthorized, before
        >>> sessions = Session(secret="for examples only, never for a site")
        >>> class Todos(Backend):
        ...     middleware = [sessions]
        ...
        ...     @before("write")
        ...     def require_user(self, req):
        ...         if not req.session.get("user"):
        ...             raise Unauthorized("log in first")
    """

    def __init__(
        self,
        secret: str | Iterable[str] | None = None,
        *,
        cookie: str = "bbio_session",
        max_age: float = FORTNIGHT,
        secure: bool | None = None,
    ) -> None:
        if secret is None:
            secret = Settings.from_env().secret_key
        secrets = [secret] if isinstance(secret, str) else list(secret)
        if not secrets or not all(secrets):
            raise ConfigurationError(f"Session needs a secret: Session(secret=...) or $BBIO_SECRET_KEY; {MAKE_ONE}")
        self.cookie = cookie
        self.max_age = max_age
        self.secure = secure
        self._cookie = SessionCookie(cookie, secure)
        self._short = min(map(len, secrets)) < SHORTEST
        # Cookies whose signature was found right.
        self._known: dict[str, FoundSession] = {}
        # The serializer signs with the last of its secrets, and a cookie of another name has another salt.
        self._serializer = URLSafeTimedSerializer(
            secrets[::-1], salt=f"bbio session {cookie}", signer_kwargs={"digest_method": hashlib.sha256}
        )

    async def start(self, backend: Any) -> None:
        if self._short:
            logger.warning("the secret of Session is short enough to be guessed; %s", MAKE_ONE)

    @before(bulk=True)
    def identify(self, req: Request) -> None:
        socket = req.socket
        if socket is None:  # a call of the server, for a user or for itself
            req.session = {} if req.user is None else {"user": req.user}
            return
        value = self._cookie.find(socket.cookies, socket.headers)
        known = None if value is None else self._verified(value)
        if known is None:
            req.session = {}
        else:
            req.session = known.own_session()
            known.introduce(req, req.session)

    def save(self, response: web.StreamResponse, session: Mapping[str, Any], request: AnyRequest = None) -> None:
        """Set the session's cookie on an aiohttp response.

        A connection keeps the cookie it was opened with: afterwards a page connects again, with
        `Backbone.io.connect()`.

        Parameters:
            response: the response.
            session: the later `req.session`, a dict that can be written as JSON.
            request: the request that is answered; without it the cookie is for HTTPS only, unless `secure=False`.

        Raises:
            ValueError: the session is too large for a cookie.

        Example:
            >>> from aiohttp import web
            >>> response = web.HTTPNoContent()
            >>> Session(secret="for examples only, never for a site").save(response, {"user": {"id": "ann"}})
            >>> list(response.cookies)
            ['__Host-bbio_session']
        """
        self._cookie.set_on(response, request, self._signed(session), int(self.max_age))

    def save_header(self, session: Mapping[str, Any], request: AnyRequest = None) -> str:
        """Return the value of a `Set-Cookie` header that sets the session's cookie, for the response of any framework.

        Parameters:
            session: see `save`.
            request: the request that is answered, of any framework whose requests have `headers`.

        Raises:
            ValueError: the session is too large for a cookie.

        Example:
            `response.headers.append("Set-Cookie", sessions.save_header({"user": {"id": "ann"}}, request))`
        """
        return self._cookie.header(request, self._signed(session), int(self.max_age))

    def load(self, request: HasHeaders) -> dict[str, Any]:
        """Return the session of an HTTP request; `{}` when it has no valid one.

        Parameters:
            request: the request, of aiohttp or another framework.
        """
        value = self._cookie.find_in(request)
        known = None if value is None else self._verified(value)
        return {} if known is None else known.own_session()

    def clear(self, response: web.StreamResponse) -> None:
        """Remove the session's cookie with an aiohttp response.

        Parameters:
            response: the response.
        """
        self._cookie.clear_on(response)

    def clear_header(self, request: AnyRequest = None) -> str:
        """Return the value of a `Set-Cookie` header that removes the session's cookie.

        Parameters:
            request: the request that is answered.
        """
        return self._cookie.header(request, "", 0)

    def _signed(self, session: Mapping[str, Any]) -> str:
        value = self._serializer.dumps({**session})
        if len(value) > MAX_WRITTEN_COOKIE:
            raise ValueError(
                f"a session of {len(value)} characters fits in no cookie; keep an id in it, and the rest elsewhere"
            )
        return value

    def _verified(self, value: str) -> FoundSession | None:
        """Return the session of a cookie; None if the cookie is not valid."""
        known = self._known.get(value)
        if known is None:
            try:
                session, signed_at = self._serializer.loads(value, return_timestamp=True)
            except (BadData, UnicodeEncodeError):
                return None
            if len(self._known) >= KNOWN_COOKIES:
                del self._known[next(iter(self._known))]
            ends = signed_at.timestamp() + self.max_age
            known = self._known[value] = FoundSession(session, as_json(session), "user", is_key=True, ends=ends)
        assert known.ends is not None
        return known if time.time() < known.ends else None
