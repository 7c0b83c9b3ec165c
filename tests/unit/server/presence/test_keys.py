"""Keys of members: one for each subject and channel, which nobody finds the subject by."""

from types import SimpleNamespace
from uuid import UUID

import pytest

from bbio import Request, StackError
from bbio.server.presence.keys import Subject, member_key, subject_of

SOCKET = SimpleNamespace(sid="s1", public_client="~digest")
STRANGER = SimpleNamespace(sid="s2", public_client="")


def subject(user, socket=SOCKET):
    return subject_of(Request("read", user=user), socket)


def test_a_user_is_known_by_its_id():
    """Of whatever kind, on every socket; a client by its own id, and else by its socket, which does not return."""
    assert subject({"id": 7}) == subject({"sub": "7"}, STRANGER) == subject(7) == Subject("user 7", True)
    assert subject(UUID(int=1)).text == "user 00000000-0000-0000-0000-000000000001"
    assert subject(None) == Subject("client ~digest", True)
    assert subject(None, STRANGER) == Subject("socket s2", False)
    with pytest.raises(StackError):
        subject({"name": "ann"})


def test_no_two_subjects_share_a_key():
    """A user who is named like a client is none; keys differ by channel, backend and secret."""
    subjects = [
        subject("client ~digest"),
        subject("~digest"),
        subject(None),
        subject(None, STRANGER),
        subject("socket s2"),
    ]
    keys = {member_key(b"secret", ("todos", "home"), each) for each in subjects}
    assert len(keys) == len(subjects)
    one = subjects[0]
    places = [("todos", ""), ("todos", "home"), ("notes", "home"), ("todoshome", "")]
    keys |= {member_key(b"secret", topic, one) for topic in places}
    keys.add(member_key(b"another", ("todos", "home"), one))
    assert len(keys) == len(subjects) + len(places) - 1 + 1
    assert all("digest" not in key and len(key) == 16 for key in keys)
