"""What a user's own are held to: a store that keeps models in a JSON file, and one that is a log as well."""

import json
from pathlib import Path
from uuid import uuid4

from bbio import BadRequest, NotFound, Store
from bbio.conformance import LOG_CLAIMS, LogConformance, StoreConformance
from tests.support.guides import files


class FileStore(Store):
    """Writes the whole file at every change. Not atomic: events and operations end with the process."""

    def __init__(self, path):
        self.path = path

    async def start(self):
        if not self.path.exists():
            self.path.write_text("{}")

    def load(self):
        return json.loads(self.path.read_text())

    def save(self, models):
        self.path.write_text(json.dumps(models))

    def find_model(self, req):
        id = req.model.get("id")
        found = self.load().get(id) if isinstance(id, str) else None
        if found is None:
            raise NotFound()
        return found

    async def read(self, req):
        return self.find_model(req) if "id" in req.model else list(self.load().values())

    async def create(self, req):
        if "id" in req.model:
            raise BadRequest("ids are given by the server")
        model = {**req.model, "id": uuid4().hex}
        self.save({**self.load(), model["id"]: model})
        return model

    async def update(self, req):
        self.find_model(req)
        self.save({**self.load(), req.model["id"]: req.model})
        return req.model

    async def patch(self, req):
        req.model = {**self.find_model(req), **req.model}
        return await self.update(req)

    async def delete(self, req):
        model = self.find_model(req)
        self.save({id: other for id, other in self.load().items() if id != model["id"]})
        return model


class TestFileStore(StoreConformance):
    claims = frozenset({"ids", "persistent"})

    def make_store(self, **options):
        return FileStore(self.folder / "models.json", **options)


PAGE = Path(__file__).parents[2] / "docs/stores.md"


def ledger(path):
    """The example of the documentation."""
    names = {}
    exec(compile(files(PAGE.read_text())["ledger.py"], "ledger.py", "exec"), names)
    return names["Ledger"](path)


class TestLedger(StoreConformance):
    claims = frozenset({"ids", "persistent", "atomic"})

    def make_store(self, **options):
        return ledger(self.folder / "ledger.db")


class TestLedgerAsLog(LogConformance):
    claims = LOG_CLAIMS - {"history", "was"}

    def make_log(self, **options):
        return ledger(self.folder / "ledger.db")
