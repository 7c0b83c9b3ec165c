"""Signatures of webhooks, as Standard Webhooks 1.0 has them: HMAC-SHA256 of id, timestamp and body."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Iterable

from bbio import ConfigurationError

PREFIX = "whsec_"
# Bytes of a secret, and secrets that one message is signed with: a receiver tries each signature.
LEAST_SECRET_BYTES = 24
MOST_SECRET_BYTES = 64
NEW_SECRET_BYTES = 32
MOST_SECRETS = 8


def make_secret() -> str:
    """Return a new secret, `whsec_...`."""
    return PREFIX + base64.b64encode(secrets.token_bytes(NEW_SECRET_BYTES)).decode()


def read_secrets(given: str | Iterable[str]) -> list[bytes]:
    """Return the keys in secrets.

    Parameters:
        given: a secret, `whsec_` and 24 to 64 bytes in base64; or several.

    Raises:
        ConfigurationError: one of them is no secret, there is none, or there are too many. The text quotes nothing.
    """
    texts = [given] if isinstance(given, str) else list(given)
    if not 0 < len(texts) <= MOST_SECRETS:
        raise ConfigurationError(f"Webhook(secret=...): give 1 to {MOST_SECRETS} secrets, not {len(texts)}")
    return [_read_secret(text) for text in texts]


def _read_secret(text: str) -> bytes:
    if not isinstance(text, str) or not text.startswith(PREFIX):
        raise ConfigurationError(
            f"Webhook(secret=...): a secret begins with {PREFIX!r}; make one with Webhook.make_secret()"
        )
    try:
        key = base64.b64decode(text[len(PREFIX) :], validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not LEAST_SECRET_BYTES <= len(key) <= MOST_SECRET_BYTES:
        raise ConfigurationError(
            f"Webhook(secret=...): after {PREFIX!r} a secret has {LEAST_SECRET_BYTES} to {MOST_SECRET_BYTES} bytes in "
            "base64; make one with Webhook.make_secret()"
        )
    return key


def sign(keys: Iterable[bytes], message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one signature for each key.

    Parameters:
        keys: the keys, as `read_secrets` returns them.
        message_id: the value of `webhook-id`.
        timestamp: the value of `webhook-timestamp`, in seconds since 1970.
        body: the bytes that are sent.
    """
    signed = b"%s.%d.%s" % (message_id.encode(), timestamp, body)
    digests = (hmac.new(key, signed, hashlib.sha256).digest() for key in keys)
    return " ".join(f"v1,{base64.b64encode(digest).decode()}" for digest in digests)
