"""Signed tokens, JSON Web Tokens: checked with PyJWT and the keys and algorithms that the application names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bbio import ConfigurationError, Unauthorized
from bbio.builtin.tokens.keys import FetchedKeys, Key, Keys, NamedKeys
from bbio.identity import is_seconds

# The least bytes of a shared secret, by the algorithm (RFC 7518, 3.2).
SECRET_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
BAD_TOKEN = "the token is not valid"

KeySource = str | bytes | Iterable[Any] | Mapping[str, Any]


def import_jwt() -> Any:
    """Return PyJWT.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import cryptography  # noqa: F401 - without it PyJWT knows shared secrets alone
        import jwt
    except ImportError:
        raise ConfigurationError("Token needs PyJWT to check signed tokens: pip install 'bbio[auth]'") from None
    return jwt


class SignedTokens:
    """Checks signed tokens.

    Parameters:
        key: the key, several, or several by their names; None with `jwks`.
        jwks: the address of a JSON Web Key Set; None with `key`.
        algorithms: the algorithms that are allowed.
        audience: for whom tokens must be; one of several. None for tokens that say none.
        issuer: who must have issued them; one of several. None for anybody with the key.
        leeway: seconds by which clocks may differ.

    Raises:
        ConfigurationError: an argument is not valid, or PyJWT is missing.
    """

    def __init__(
        self,
        key: KeySource | None,
        jwks: str | None,
        algorithms: Iterable[str],
        audience: str | Iterable[str] | None,
        issuer: str | Iterable[str] | None,
        leeway: float,
    ) -> None:
        self._jwt = import_jwt()
        self._algorithms = [algorithms] if isinstance(algorithms, str) else list(algorithms)
        self._check_algorithms(has_jwks=jwks is not None)
        self._audience = audience if audience is None or isinstance(audience, str) else list(audience)
        self._issuer = issuer if issuer is None or isinstance(issuer, str) else list(issuer)
        self._leeway = leeway
        self.keys: Keys = NamedKeys(self._named(key)) if jwks is None else FetchedKeys(jwks, self._read)

    def _check_algorithms(self, has_jwks: bool) -> None:
        known = set(self._jwt.algorithms.get_default_algorithms()) - {"none"}
        wrong = [each for each in self._algorithms if each not in known]
        if wrong or not self._algorithms:
            raise ConfigurationError(
                f"Token(algorithms={self._algorithms!r}): name those that tokens are signed with, such as "
                f'["RS256"]; there are {", ".join(sorted(known))}'
            )
        shared = [each for each in self._algorithms if each in SECRET_BYTES]
        if shared and (has_jwks or len(shared) < len(self._algorithms)):
            raise ConfigurationError(
                f"Token(algorithms={self._algorithms!r}): {shared[0]} is for a secret that both sides share; together "
                "with public keys, or a key set, anybody could sign with what everybody knows"
            )

    def _named(self, key: KeySource | None) -> list[Key]:
        if isinstance(key, Mapping):
            named = [Key(each, kid) for kid, each in key.items()]
        elif key is None or isinstance(key, (str, bytes)) or not isinstance(key, Iterable):
            named = [] if key is None else [Key(key)]
        else:
            named = [Key(each) for each in key]
        if not named or not all(each.key for each in named):
            raise ConfigurationError("Token(key=...): give the key that tokens are signed with; it is empty")
        found = [each for key in named for each in self._prepared(key)]
        unused = [each for each in self._algorithms if all(key.algorithm != each for key in found)]
        if unused:
            raise ConfigurationError(f"Token(key=...): there is no key for {', '.join(unused)}")
        return found

    def _prepared(self, named: Key) -> list[Key]:
        """Return a key as each algorithm that it fits takes it."""
        key, found = named.key, []
        for name in self._algorithms:
            least = SECRET_BYTES.get(name, 0)
            size = len(key.encode() if isinstance(key, str) else key) if isinstance(key, (str, bytes)) else least
            if size < least:
                raise ConfigurationError(f"Token(key=...): a secret for {name} has at least {least} bytes, not {size}")
            try:
                prepared = self._jwt.algorithms.get_default_algorithms()[name].prepare_key(key)
            except Exception:  # its text may quote the key; it may be for another algorithm
                continue
            if hasattr(prepared, "private_bytes"):
                raise ConfigurationError(
                    "Token(key=...): this key is private; give the public one, which checks tokens"
                )
            found.append(Key(prepared, named.kid, name))
        if not found:
            raise ConfigurationError(f"Token(key=...): it is no key for {', '.join(self._algorithms)}")
        return found

    def _read(self, entry: Mapping[str, Any]) -> Key | None:
        """Return a key of a key set; None for one that is not for signatures of these algorithms."""
        algorithm, kid = entry.get("alg"), entry.get("kid")
        # A shared secret in a set that anybody can read is none.
        if entry.get("kty") == "oct" or entry.get("use", "sig") != "sig" or not isinstance(kid, str | None):
            return None
        if algorithm is not None and algorithm not in self._algorithms:
            return None
        try:
            key = self._jwt.PyJWK(dict(entry)).key
        except self._jwt.PyJWTError:
            return None
        # Nor is a private key that anybody can read.
        return None if hasattr(key, "private_bytes") else Key(key, kid, algorithm)

    async def check(self, token: str, now: float) -> tuple[dict[str, Any], float]:
        """Return what a token says, and when it ends.

        Raises:
            Unauthorized: it is not valid. The message quotes nothing of it.
            Unavailable: the keys cannot be had.
        """
        jwt = self._jwt
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized(BAD_TOKEN) from None
        kid, algorithm = header.get("kid"), header.get("alg")
        if algorithm not in self._algorithms or not isinstance(kid, str | None):
            raise Unauthorized(BAD_TOKEN)
        while True:
            keys = await self.keys.find(kid, algorithm)
            for key in keys:
                claims = self._verify(token, key.key, algorithm)
                if claims is not None:
                    return claims, self._end_of(claims, now)
            # Keys without a name may have been replaced.
            if all(key.kid is not None for key in keys) or not await self.keys.renew():
                raise Unauthorized(BAD_TOKEN)

    def _verify(self, token: str, key: Any, algorithm: str) -> dict[str, Any] | None:
        """Return what a token says; None if it is not signed with this key."""
        jwt = self._jwt
        # The times are looked at below, by the clock of the application.
        options = {"require": ["exp", "sub"], "verify_exp": False, "verify_nbf": False, "verify_iat": False}
        try:
            claims: dict[str, Any] = jwt.decode(
                token, key, [algorithm], options, audience=self._audience, issuer=self._issuer
            )
        except (jwt.InvalidSignatureError, jwt.InvalidKeyError, TypeError):
            return None
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Unauthorized(BAD_TOKEN) from None
        return claims

    def _end_of(self, claims: Mapping[str, Any], now: float) -> float:
        times = {name: claims[name] for name in ("exp", "nbf", "iat") if claims.get(name) is not None}
        if not claims.get("sub") or not all(is_seconds(each) for each in times.values()) or "exp" not in times:
            raise Unauthorized(BAD_TOKEN)
        end = float(times["exp"]) + self._leeway
        if end <= now:
            raise Unauthorized("the token has expired", expired=True)
        if max(times.get("nbf", now), times.get("iat", now)) > now + self._leeway:
            raise Unauthorized("the token is not valid yet")
        return end
