"""The registry: served backends by name, and what becomes of unexpected errors."""

import pytest

from bbio import App, Backend, ConfigurationError, FrozenError
from bbio.registry import Registry


class Todos(Backend): ...


class Notes(Backend): ...


@pytest.fixture
def registry():
    return Registry(lambda work: None)


def test_backends_are_found_by_name(registry):
    """By that of the class, or another; in the order in which they were added."""
    todos, notes = registry.add(Todos), registry.add(Notes, "memos")
    assert dict(registry) == {"todos": todos, "memos": notes}
    assert len(registry) == 2
    with pytest.raises(KeyError, match="no backend 'notes' is served; served: todos, memos"):
        registry["notes"]


def test_a_name_is_taken_once(registry):
    """The error says how to mend it."""
    registry.add(Todos)
    with pytest.raises(ConfigurationError, match=r"name one of them: app\.serve\(other_name=Notes\)"):
        registry.add(Notes, "todos")


def test_none_is_added_after_the_start(registry):
    """Clients have been told by then what there is."""
    registry.frozen = True
    with pytest.raises(FrozenError, match=r"call it before app\.run"):
        registry.add(Todos)


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_is_logged_whole_and_told_by_its_id(debug, caplog):
    """Its text is for those who develop alone."""
    registry = Registry(lambda work: None, debug=debug)
    try:
        raise ZeroDivisionError("by the password")
    except ZeroDivisionError as err:
        told = registry.report(err, "todos create", "10.0.0.1")
    assert "todos create of 10.0.0.1 failed" in caplog.text
    assert told.values["id"] in caplog.text
    assert ("by the password" in str(told)) is ("stack" in told.values) is debug


def test_the_backends_of_an_application_are_a_registry():
    """As `app.backends`."""
    assert isinstance(App().serve(Todos).backends, Registry)
