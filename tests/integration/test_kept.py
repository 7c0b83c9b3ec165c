"""What users see first keeps their data: the demo, the examples and the quick starts, over a restart."""

import re
import signal
from pathlib import Path

import pytest

from tests.support.servers import ServerProcess
from tests.support.services import free_port
from tests.support.wire import LegacyClient

pytestmark = pytest.mark.once  # what is asked is what a server keeps, not a Python

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def quick_start(guide):
    """The first server of a guide, as a module."""
    return FENCE.search((ROOT / guide).read_text())[1]


@pytest.mark.parametrize(
    ("command", "source", "backend", "file"),
    [
        (["demo"], "", "messages", "bbio-demo.db"),
        (["run", "examples.messages.app:app"], "", "messages", "messages.db"),
        (["run", "examples.todos.app:app"], "", "todos", "todos.db"),
        (["run", "todos:app"], quick_start("README.md"), "todos", "todos.db"),
        (["run", "todos:app"], quick_start("docs/quickstart.md"), "todos", "todos.db"),
    ],
    ids=["demo", "messages", "todos", "README", "quickstart"],
)
async def test_models_are_there_after_a_restart(tmp_path, command, source, backend, file):
    """Start, create, stop, start, read: the model is there, in a file of the folder that the server runs in."""
    (tmp_path / "todos.py").write_text(source)
    (tmp_path / "index.html").touch()
    port = free_port()
    made = []
    for _ in range(2):
        server = ServerProcess(*command, "--port", str(port), cwd=tmp_path, port=port, forked=True)
        try:
            await server.start()
            client = await LegacyClient.open(server.url, backend)
            await client.listen("home")
            assert await client.sync("read") == made
            if not made:
                field = {"messages": "text", "todos": "title"}[backend]
                made.append(await client.sync("create", {field: "hello"}))
            await client.close()
            server.signal(signal.SIGTERM)
            assert await server.ended() == 0
        finally:
            await server.stop()
        assert sorted(path.name for path in tmp_path.glob("*.db*")) == [file]
    if command == ["demo"]:
        assert f"messages are kept in {tmp_path / file}" in server.output


async def test_the_demo_may_keep_messages_in_memory(tmp_path):
    """With `--memory` it leaves no file."""
    port = free_port()
    server = ServerProcess("demo", "--memory", "--port", str(port), cwd=tmp_path, port=port)
    try:
        await server.start()
        client = await LegacyClient.open(server.url, "messages")
        await client.sync("create", {"text": "hello"})
        await client.close()
        assert list(tmp_path.iterdir()) == []
        assert "are kept in" not in server.output
    finally:
        await server.stop()
