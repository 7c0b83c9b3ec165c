"""Readers of the sessions of Flask, Starlette (FastAPI) and aiohttp-session, which are whole in their cookies."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any
from uuid import UUID

from itsdangerous import BadData, TimestampSigner, URLSafeTimedSerializer

from bbio import ConfigurationError
from bbio.builtin.sessions.cookies import FORTNIGHT, SessionCookie
from bbio.builtin.sessions.found import FoundSession
from bbio.builtin.sessions.identified import STORE_SECONDS, CookieSessions

MONTH = 31 * 86_400.0

UserOf = str | Callable[[dict[str, Any]], Any]
"""The key of the user in a session, or a function of the session that returns the user."""


def secrets_of(kind: str, secret_key: str | bytes | Iterable[str | bytes]) -> list[bytes]:
    """Return the secrets that a reader was given, of which the first is the current one.

    Raises:
        ConfigurationError: there is none, or one is empty.
    """
    given = [secret_key] if isinstance(secret_key, (str, bytes)) else list(secret_key)
    secrets = [each.encode() if isinstance(each, str) else bytes(each) for each in given]
    if not secrets or not all(secrets):
        raise ConfigurationError(f"{kind} needs the secret that the site signs its sessions with: {kind}(SECRET_KEY)")
    return secrets


class SignedSessions(CookieSessions):
    """Base class of readers of sessions that are whole in their cookies.

    Parameters:
        cookie: the name of the cookie.
        max_age: seconds for which a cookie is valid.
        user: the key of the user in the session, or a function of the session that returns the user.
    """

    def __init__(self, cookie: str, max_age: float, user: UserOf) -> None:
        # The site chooses the name and how its cookie is sent: it is read as it comes.
        super().__init__(SessionCookie(cookie, secure=False), cache_seconds=max_age, timeout=STORE_SECONDS)
        self._max_age = max_age
        self._user = user

    async def _still_living(self, ids: Collection[str]) -> Mapping[str, float | None]:
        return dict.fromkeys(ids)  # none has an id

    @abstractmethod
    def _read(self, value: str) -> tuple[dict[str, Any], float] | None:
        """Return the session that a cookie holds and when it was signed; None if it is not valid."""

    async def _find(self, value: str) -> FoundSession | None:
        read = self._read(value)
        if read is None or not isinstance(read[0], dict):
            return None
        session, signed_at = read
        expires = signed_at + self._max_age
        if expires <= time.time():
            return None
        is_key = isinstance(self._user, str)
        user = self._user if isinstance(self._user, str) else self._user(session)
        return FoundSession(session, user=user, is_key=is_key, expires=expires, ends=expires, size=len(value))


class FlaskSessions(SignedSessions):
    """Sets `req.session` and `req.user` from the session cookie of a Flask site.

    It cannot be revoked before `max_age`: Flask keeps nothing of it on the server.

    Parameters:
        secret_key: the site's `SECRET_KEY`, or several, such as with its `SECRET_KEY_FALLBACKS`.
        user: the key of the user in the session, such as `_user_id` of Flask-Login; or a function of the session that
            returns the user.
        cookie: the site's `SESSION_COOKIE_NAME`.
        max_age: seconds of the site's `PERMANENT_SESSION_LIFETIME`.

    Raises:
        ConfigurationError: there is no secret.

    Example:
        >>> sessions = FlaskSessions("the site's SECRET_KEY", user="_user_id")
    """

    def __init__(
        self,
        secret_key: str | bytes | Iterable[str | bytes],
        *,
        user: UserOf = "user",
        cookie: str = "session",
        max_age: float = MONTH,
    ) -> None:
        super().__init__(cookie, max_age, user)
        self._serializer = URLSafeTimedSerializer(
            secrets_of("FlaskSessions", secret_key)[::-1],
            salt="cookie-session",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha1},
        )

    def _read(self, value: str) -> tuple[dict[str, Any], float] | None:
        try:
            session, signed_at = self._serializer.loads(value, return_timestamp=True)
            return untag(session), signed_at.timestamp()
        except (BadData, UnicodeEncodeError, ValueError, TypeError):
            return None


def untag(value: Any) -> Any:
    """Return what Flask has tagged in a session, such as dates and tuples, as it was."""
    if isinstance(value, list):
        return [untag(each) for each in value]
    if not isinstance(value, dict):
        return value
    value = {key: untag(each) for key, each in value.items()}
    if len(value) != 1:
        return value
    ((tag, tagged),) = value.items()
    if tag == " di":
        ((key, each),) = tagged.items()
        return {key[:-2]: each}
    return TAGS[tag](tagged) if tag in TAGS else value


# How Flask writes what JSON does not have.
TAGS: dict[str, Callable[[Any], Any]] = {
    " t": tuple,
    " b": base64.b64decode,
    " m": str,
    " u": UUID,
    " d": parsedate_to_datetime,
}


class StarletteSessions(SignedSessions):
    """Sets `req.session` and `req.user` from the session cookie of Starlette's `SessionMiddleware`, as FastAPI uses it.

    It cannot be revoked before `max_age`: Starlette keeps nothing of it on the server.

    Parameters:
        secret_key: the `secret_key` of the middleware, or several.
        user: the key of the user in the session, or a function of the session that returns the user.
        cookie: its `session_cookie`.
        max_age: its `max_age` in seconds.

    Raises:
        ConfigurationError: there is no secret.

    Example:
        >>> sessions = StarletteSessions("the secret_key of the middleware")
    """

    def __init__(
        self,
        secret_key: str | bytes | Iterable[str | bytes],
        *,
        user: UserOf = "user",
        cookie: str = "session",
        max_age: float = FORTNIGHT,
    ) -> None:
        super().__init__(cookie, max_age, user)
        self._signer = TimestampSigner(secrets_of("StarletteSessions", secret_key)[::-1])

    def _read(self, value: str) -> tuple[dict[str, Any], float] | None:
        try:
            data, signed_at = self._signer.unsign(value, return_timestamp=True)
            return json.loads(base64.b64decode(data)), signed_at.timestamp()
        except (BadData, ValueError):
            return None


class AiohttpSessions(SignedSessions):
    """Sets `req.session` and `req.user` from the cookie of aiohttp-session's `EncryptedCookieStorage` (extra `auth`).

    `SimpleCookieStorage` cannot be read: anybody can write its cookies, and be whoever they like.

    Parameters:
        secret_key: the key of the storage, 32 bytes or their text in base64, as it takes it; or several.
        user: the key of the user in the session, or a function of the session that returns the user.
        cookie: its `cookie_name`.
        max_age: its `max_age` in seconds.

    Raises:
        ConfigurationError: a key is not one of Fernet, or cryptography is not installed.

    Example:
        >>> sessions = AiohttpSessions(b"32 bytes, the key of the storage")
    """

    def __init__(
        self,
        secret_key: str | bytes | Iterable[str | bytes],
        *,
        user: UserOf = "user",
        cookie: str = "AIOHTTP_SESSION",
        max_age: float = FORTNIGHT,
    ) -> None:
        super().__init__(cookie, max_age, user)
        try:
            from cryptography.fernet import Fernet, InvalidToken
        except ImportError:
            raise ConfigurationError("AiohttpSessions needs cryptography: pip install bbio[auth]") from None
        self._invalid = InvalidToken
        given = [secret_key] if isinstance(secret_key, (str, bytes)) else list(secret_key)
        try:
            self._keys = [Fernet(base64.urlsafe_b64encode(key) if isinstance(key, bytes) else key) for key in given]
        except (ValueError, TypeError, AttributeError, binascii.Error):
            self._keys = []
        if not self._keys:
            raise ConfigurationError(
                "AiohttpSessions needs the key of an EncryptedCookieStorage, 32 bytes or their text in base64; the "
                "cookies of a SimpleCookieStorage can be forged by anybody, so they are not read"
            )

    def _read(self, value: str) -> tuple[dict[str, Any], float] | None:
        for key in self._keys:
            try:
                token = value.encode("ascii")
                content = json.loads(key.decrypt(token))
                # An emptied one holds no session.
                return content.get("session", {}), float(key.extract_timestamp(token))
            except (self._invalid, ValueError, AttributeError):
                continue
        return None
