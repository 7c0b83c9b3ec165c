"""The guide on writing from the server does what it says."""

from __future__ import annotations

import asyncio
import importlib
import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from bbio import Forbidden, NotFound
from tests.support.guides import files
from tests.support.servers import ServerProcess
from tests.support.services import free_port

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
        with pytest.raises(Forbidden):
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


@pytest.mark.once  # what is asked is what two processes do, not a Python
async def test_programs_beside_the_server_write_what_its_clients_hear(join, tmp_path, monkeypatch) -> None:
    """A script, a function without an event loop, a command of Django, and a worker that Celery has forked."""
    text = PAGE.read_text()
    for name, content in files(text).items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("orders", "nightly", "close"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    port = free_port()
    server = ServerProcess("run", "orders:app", "--port", str(port), cwd=tmp_path, port=port, forked=True)
    await server.start()
    try:
        page = await join(server.url, "orders")
        ids = [(await page.sync("create", {"product": "milk", "state": "open"}))["id"] for _ in range(4)]
        close = importlib.import_module("close")
        assert (await asyncio.to_thread(close.close_order, ids[0]))["state"] == "closed"
        commands = example(text, "class Command(")
        await asyncio.to_thread(commands.Command(stdout=io.StringIO()).handle, id=ids[1])
        worker = celery_worker(text, monkeypatch)
        await asyncio.to_thread(worker.open_backends)
        task = SimpleNamespace(request=SimpleNamespace(id="7"))
        for _ in range(2):  # Celery may run it again
            await asyncio.to_thread(worker.close_order, task, ids[2])
        await asyncio.to_thread(worker.close_backends)
        await importlib.import_module("nightly").close_orders()
        for id in ids:
            assert await page.synced() == ("update", {"id": id, "product": "milk", "state": "closed"})
    finally:
        await server.stop()
        for name in ("orders", "nightly", "close"):
            sys.modules.pop(name, None)


def example(text: str, part: str) -> ModuleType:
    """Return what the example with that text defines."""
    code = next(each for each in re.findall(r"^```(?:python|py)\n(.*?)^```$", text, re.M | re.S) if part in each)
    module = ModuleType("example")
    exec(code, vars(module))
    return module


def celery_worker(text: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Return the module of Celery's tasks; what it imports of Celery returns its functions as they are."""
    celery, signals = ModuleType("celery"), ModuleType("celery.signals")
    celery.shared_task = lambda **options: lambda function: function  # type: ignore[attr-defined]
    for name in ("worker_process_init", "worker_process_shutdown"):
        setattr(signals, name, SimpleNamespace(connect=lambda function: function))
    for module in (celery, signals):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return example(text, "shared_task")
