"""What tests of streams and of those who follow them have in common."""

import pytest

from tests.support.listeners import Server, Todos


@pytest.fixture
async def server():
    """A gateway with a store that others write to as well."""
    server = Server(Todos)
    yield server
    await server.close()
