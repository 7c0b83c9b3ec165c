"""The guide on writing from the server does what it says."""

from __future__ import annotations

import asyncio
import importlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from bbio import NotFound, Unauthorized
from tests.support.guides import files

PAGE = Path(__file__).parents[2] / "docs" / "server-writes.md"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """`run(function)`: the module of the page, and what the example with that function defines."""
    monkeypatch.syspath_prepend(tmp_path)
    text = PAGE.read_text()
    for name, content in files(text).items():
        (tmp_path / name).write_text(content)
    shop = importlib.import_module("shop")
    monkeypatch.delitem(sys.modules, "shop")

    def run(function: str) -> ModuleType:
        code = next(part.partition("```")[0] for part in text.split("```python\n")[1:] if f"def {function}(" in part)
        module = ModuleType("example")
        sys.modules["shop"] = shop
        try:
            exec(code, vars(module))
        finally:
            del sys.modules["shop"]
        return module

    run.shop = shop  # type: ignore[attr-defined]
    return run


async def test_orders_reserve_stock_and_are_closed(run) -> None:
    """A handler changes another backend, which clients may not; a job goes through pages; both are told."""
    shop = run.shop
    async with shop.app.test() as t:
        page = await t.client(backend="orders")
        shown = await page.collection()
        for _ in range(3):
            await page.create({"product": "milk", "count": 2})
        assert (await shop.app.backends[shop.Products].read("milk")).stock == 1
        with pytest.raises(Unauthorized):
            await t.connect().backend("products").patch({"id": "milk", "stock": 99})
        with pytest.raises(NotFound):
            await page.create({"product": "beer"})
        await shop.close_orders()
        await shown.until(lambda orders: {order["state"] for order in orders.values()} == {"closed"}, timeout=60)
        daily = run("order_daily")
        first, again = await daily.order_daily("2026-01-02"), await daily.order_daily("2026-01-02")
        assert first.id == again.id
        made = await run("import_in_a_thread").import_in_a_thread([{"product": "milk"}, {"product": "milk"}])
        assert [order.reserved for order in made] == [True, True]


async def test_an_export_goes_on_where_it_ended(run, tmp_path) -> None:
    """Each order is in the file, over two runs; a history that is gone is said."""
    export, kept, file = run("export").export, tmp_path / "position", io.StringIO()
    orders = run.shop.app.backends["orders"]
    async with run.shop.app.test():
        for count in range(1, 3):
            task = asyncio.create_task(export(file, kept))
            while not run.shop.app.gateway.subscribers["orders"]._watchers:  # noqa: ASYNC110 - nobody is woken
                await asyncio.sleep(0.01)
            await orders.create({"product": "milk", "count": count})
            while len(file.getvalue().splitlines()) < count:  # noqa: ASYNC110 - nobody is woken
                await asyncio.sleep(0.01)
            task.cancel()
            await asyncio.wait([task])
        assert [line[:10] for line in file.getvalue().splitlines()] == ['["create",', '["create",']
