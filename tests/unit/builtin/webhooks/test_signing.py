"""Signatures of webhooks, checked by the package `standardwebhooks`."""

import base64
import time

import pytest
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError

from bbio import ConfigurationError
from bbio.builtin.webhooks.signing import make_secret, read_secrets, sign


def headers(keys, body, message_id="evt_1"):
    now = int(time.time())
    signature = sign(keys, message_id, now, body)
    return {"webhook-id": message_id, "webhook-timestamp": str(now), "webhook-signature": signature}


def test_a_signature_is_that_of_standard_webhooks():
    body, secret = '{"title":"Müll"}'.encode(), make_secret()
    sent = headers(read_secrets(secret), body)
    assert Verifier(secret).verify(body, sent) == {"title": "Müll"}
    for changed in ({"webhook-id": "evt_2"}, {"webhook-timestamp": str(int(time.time()) + 1)}):
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body, {**sent, **changed})
    for wrong, key in ((body + b" ", secret), (body, make_secret())):
        with pytest.raises(WebhookVerificationError):
            Verifier(key).verify(wrong, sent)


def test_several_secrets():
    """A receiver with either of them takes it."""
    old, new = make_secret(), make_secret()
    sent = headers(read_secrets([new, old]), b"{}")
    assert sent["webhook-signature"].count("v1,") == 2
    assert Verifier(old).verify(b"{}", sent) == Verifier(new).verify(b"{}", sent) == {}


def whsec(size):
    return "whsec_" + base64.b64encode(b"x" * size).decode()


@pytest.mark.parametrize("size", [24, 32, 64])
def test_sizes_of_secrets(size):
    assert read_secrets(whsec(size)) == [b"x" * size]


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "hunter2",
        base64.b64encode(b"x" * 32).decode(),
        "whsec_",
        "whsec_hunter2",
        "whsec_" + "ü" * 40,
        whsec(23),
        whsec(65),
        whsec(32)[:-1],
        whsec(32) + "\n",
        [],
        [whsec(32)] * 9,
        [whsec(32), "hunter2"],
        [whsec(32), 7],
        [b"x" * 32],
    ],
)
def test_secrets_that_are_none(secret):
    """The text says how to make one, and quotes nothing."""
    with pytest.raises(ConfigurationError, match=r"make_secret|1 to 8") as caught:
        read_secrets(secret)
    assert "hunter2" not in str(caught.value)


def test_new_secrets():
    assert len({make_secret() for _ in range(10)}) == 10
    assert len(read_secrets(make_secret())[0]) == 32
