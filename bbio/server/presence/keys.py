"""Keys of members: they tell members apart, and say nothing of who they are."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import blake2b
from typing import NamedTuple

from bbio.cluster.presence import Topic
from bbio.identity import principal
from bbio.requests import Request
from bbio.server.connection import ClientSocket


class Subject(NamedTuple):
    """The owner of an entry.

    Parameters:
        text: a text that is the same each time, and another one for everybody else.
        returns: whether it is the same after the connection was lost.
    """

    text: str
    returns: bool


def subject_of(req: Request, socket: ClientSocket) -> Subject:
    """Return whose a request is: a user's, else that of a client with an id of its own, else that of its socket.

    Parameters:
        req: the request, after the layers that say who asks.
        socket: the socket that it came from.

    Raises:
        StackError: the user has no id that is the same each time.
    """
    if req.user is not None:
        return Subject(f"user {principal(req.user)}", True)
    if socket.public_client:
        return Subject(f"client {socket.public_client}", True)
    return Subject(f"socket {socket.sid}", False)


def member_key(secret: bytes, topic: Topic, subject: Subject) -> str:
    """Return the key of a subject in a channel: nobody finds the subject by it, nor its keys in other channels.

    Parameters:
        secret: the server's secret.
        topic: the backend and the channel.
        subject: the subject.

    Example:
        >>> key = member_key(b"secret", ("todos", ""), Subject("user ann", True))
        >>> len(key), key == member_key(b"secret", ("todos", "home"), Subject("user ann", True))
        (16, False)
    """
    # No name of a backend or a channel holds NUL.
    text = "\0".join((*topic, subject.text)).encode("utf-8", "surrogatepass")
    return urlsafe_b64encode(blake2b(text, digest_size=12, key=secret, person=b"bbio member").digest()).decode()
