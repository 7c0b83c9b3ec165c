"""Identity: whose it is."""

from bbio.identity import Identity


class Plain:
    """A user without an id."""


def test_the_subject_of_an_identity():
    """The text of the user's id, where there is one; a session id is not shown."""
    assert Identity({"id": 7}).subject == "7"
    assert Identity({"name": "ann"}).subject is None
    assert Identity(None).subject is None
    assert "secret" not in repr(Identity("ann", "secret"))


def test_the_same_user():
    """By the subject; without one, by what the user is."""
    assert Identity({"id": "ann"}).is_of_same_user(Identity("ann"))
    assert not Identity("ann").is_of_same_user(Identity("bob"))
    assert not Identity("ann").is_of_same_user(Identity({"name": "ann"}))
    assert Identity({"name": "ann"}).is_of_same_user(Identity({"name": "ann"}))
    assert not Identity(Plain()).is_of_same_user(Identity(Plain()))
