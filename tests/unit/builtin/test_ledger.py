"""Ledgers in databases: what they answer when a statement fails."""

from __future__ import annotations

from functools import partial

import pytest

from bbio import Backend, SyncError
from bbio.builtin import PostgresStore, SQLiteStore
from bbio.conformance import opened


@pytest.fixture(params=["sqlite", "postgres"])
def make_store(request, tmp_path):
    """A store in a database."""
    if request.param == "postgres":
        return partial(PostgresStore, request.getfixturevalue("database_url"))
    return partial(SQLiteStore, tmp_path / "models.db")


async def test_a_statement_that_fails_leaves_nothing_open(make_store):
    """Whoever asked is told that the database cannot be used; the next transaction is as ever."""
    async with opened(make_store()) as models:
        ledger = models.log.consumers
        with pytest.raises(SyncError):
            await ledger.run("SELECT nothing FROM nowhere", ())
        await ledger.register("mailer", None, "e", {})
        fence = await ledger.claim("mailer", "one", 60.0)
        with pytest.raises(SyncError):
            await ledger.run("UPDATE bbio_consumers SET lost = 7 RETURNING id", (), [("SELECT nothing FROM x", [()])])
        (state,) = await ledger.states()
        assert (state.lost, await ledger.renew("mailer", fence, 60.0)) == (0, True)


def test_the_store_is_as_declared():
    """Before it is started, there is no ledger."""

    class Models(Backend):
        store = SQLiteStore("models.db")

    assert Models.store.consumers is None
