"""Settings by the environment: where an application listens, what it logs, whom it lets in, where models are kept."""

import logging
import re
from pathlib import Path
from unittest.mock import ANY

import attrs
import pytest
from click.testing import CliRunner

from bbio import App, Backend, ConfigurationError, SyncError
from bbio.builtin import MemoryStore, PostgresStore, SQLiteStore, store_from_env
from bbio.cli import main
from bbio.commands.demo import demo_backend
from bbio.settings import Settings, variable
from examples.messages.app import Messages


@pytest.fixture
def ran(monkeypatch):
    """What applications were run with, instead of being run."""
    runs = []

    async def run(self, host, port, application):
        runs.append((self, host, port))

    monkeypatch.setattr(App, "_run", run)
    monkeypatch.setattr(logging, "basicConfig", lambda **options: runs.append(options))
    for name in ("HOST", "PORT", "LOG_LEVEL", "CORS_ORIGINS", "DATABASE_URL"):
        monkeypatch.delenv(f"BBIO_{name}", raising=False)
    return runs


def test_an_application_runs_where_nothing_is_said(ran):
    """On this machine, on port 3000."""
    App().run()
    assert ran == [{"level": "INFO", "handlers": [ANY]}, (ANY, "127.0.0.1", 3000)]


def test_an_application_runs_where_the_environment_says(ran, monkeypatch):
    """What the code says is stronger."""
    monkeypatch.setenv("BBIO_HOST", "0.0.0.0")
    monkeypatch.setenv("BBIO_PORT", "8080")
    monkeypatch.setenv("BBIO_LOG_LEVEL", "Warning")
    App().run()
    assert ran == [{"level": "WARNING", "handlers": [ANY]}, (ANY, "0.0.0.0", 8080)]
    App().run("127.0.0.2", 0, "debug")
    assert ran[2:] == [{"level": "DEBUG", "handlers": [ANY]}, (ANY, "127.0.0.2", 0)]


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("BBIO_PORT", "http", "BBIO_PORT is 'http'; a port is a number"),
        ("BBIO_PORT", "65536", "BBIO_PORT is '65536'; a port is a number"),
        ("BBIO_PORT", "-1", "BBIO_PORT is '-1'; a port is a number"),
        ("BBIO_LOG_LEVEL", "loud", "'loud' is not a log level; choose one of debug, info"),
    ],
)
def test_settings_without_sense_are_told(ran, monkeypatch, name, value, text):
    """The message says what they may be."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=text):
        App().run()
    assert ran == []


@pytest.mark.parametrize(
    ("value", "allowed", "refused"),
    [
        ("", [], ["https://a.example"]),
        ("https://a.example", ["https://a.example"], ["https://b.example"]),
        ("https://a.example, https://b.example", ["https://a.example", "https://b.example"], ["https://c.example"]),
        ("*", ["https://a.example"], []),
    ],
)
async def test_origins_may_be_allowed_by_the_environment(monkeypatch, value, allowed, refused):
    """Where the application itself names none."""
    monkeypatch.setenv("BBIO_CORS_ORIGINS", value)

    class Notes(Backend):
        store = MemoryStore()

    for app, origins in ((App(), allowed), (App(cors=[]), [])):
        async with app.serve(Notes).running() as url:
            for origin in (*allowed, *refused):
                assert await admitted(url, origin) is (origin in origins)


def test_a_wrong_origin_of_the_environment_is_told_as_such(monkeypatch):
    """The application itself names none, and has no line to mend."""
    monkeypatch.setenv("BBIO_CORS_ORIGINS", "https://a.example, b.example")
    with pytest.raises(ConfigurationError, match=r"^BBIO_CORS_ORIGINS='b\.example': .* write 'https://b\.example'$"):
        App()


async def admitted(url, origin):
    """Whether the server lets a page of another site in."""
    import aiohttp

    async with aiohttp.ClientSession() as http:
        address = f"{url}/socket.io/?EIO=4&transport=polling"
        async with http.get(address, headers={"Origin": origin}) as answer:
            return answer.status == 200


@pytest.mark.parametrize(
    ("options", "env", "expected"),
    [
        ([], {}, ("127.0.0.1", 3000, "INFO")),
        ([], {"BBIO_HOST": "::1", "BBIO_PORT": "1", "BBIO_LOG_LEVEL": "error"}, ("::1", 1, "ERROR")),
        (["--host", "::", "--port", "2", "--log-level", "DEBUG"], {"BBIO_PORT": "1"}, ("::", 2, "DEBUG")),
    ],
)
@pytest.mark.parametrize("command", [["run", "served:app"], ["demo", "--memory"]])
def test_commands_take_options_first(ran, monkeypatch, tmp_path, command, options, env, expected):
    """An option is stronger than the environment."""
    (tmp_path / "served.py").write_text("from bbio import App\napp = App()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    done = CliRunner().invoke(main, [*command, *options], env=env)
    assert done.exit_code == 0, done.output
    assert (*ran[1][1:], ran[0]["level"]) == expected


def test_an_option_allows_origins(ran, monkeypatch):
    """It reaches an application that names none."""
    monkeypatch.setenv("BBIO_CORS_ORIGINS", "https://a.example")
    CliRunner().invoke(main, ["demo", "--memory", "--cors-origins", "https://b.example"])
    app = ran[1][0]
    assert "https://b.example" in app._admission._origins


def test_the_demo_says_where_it_keeps_messages(ran, monkeypatch, tmp_path):
    """In a file of the current folder, unless another place was named."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["demo"])
    assert f"messages are kept in {tmp_path / 'bbio-demo.db'}" in done.output.replace("\n", "")
    store = ran[1][0].backends["messages"].store
    assert (type(store), store.path) == (SQLiteStore, "bbio-demo.db")
    done = CliRunner().invoke(main, ["demo"], env={"BBIO_DATABASE_URL": "sqlite:///other.db"})
    assert done.output == ""
    assert ran[3][0].backends["messages"].store.path == "other.db"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--port", "x"], "'x' is not a valid integer range"),
        (["--log-level", "loud"], "'loud' is not one of 'debug'"),
    ],
)
def test_options_without_sense_are_told(ran, options, text):
    """By the command line itself."""
    done = CliRunner().invoke(main, ["demo", *options])
    assert done.exit_code == 2
    assert text in done.output


@pytest.mark.parametrize("messages", [demo_backend(MemoryStore()), Messages], ids=["demo", "example"])
async def test_the_demo_and_the_example_refuse_an_empty_message(messages):
    """Also when a message that is there would become one; other changes are let through."""
    backend = type("Messages", (messages,), {"store": MemoryStore()})
    async with App().serve(backend).test() as t:
        (ann,) = await t.clients(1, backend="messages")
        with pytest.raises(SyncError, match="a message needs"):
            await ann.create({"text": " "})
        hello = await ann.create({"text": "hello"})
        for write, changes in ((ann.update, {}), (ann.update, {"text": ""}), (ann.patch, {"text": " "})):
            with pytest.raises(SyncError, match="a message needs"):
                await write({"id": hello["id"], **changes})
        await ann.patch({"id": hello["id"], "read": True})
        assert await ann.read() == [{**hello, "read": True}]


@pytest.mark.parametrize(
    ("url", "default", "path"),
    [
        ("", "todos.db", "todos.db"),
        ("", "sqlite:///todos.db", "todos.db"),
        ("sqlite:///folder/todos.db", "x.db", "folder/todos.db"),
        ("sqlite:////var/lib/todos.db", "x.db", "/var/lib/todos.db"),
        ("/var/lib/todos.db", "x.db", "/var/lib/todos.db"),
    ],
)
def test_a_store_in_a_file(monkeypatch, url, default, path):
    """By a URL or by a path; the environment is stronger than the default."""
    monkeypatch.setenv("BBIO_DATABASE_URL", url)
    store = store_from_env(default, "things", upsert=True)
    assert isinstance(store, SQLiteStore)
    assert (store.path, store.table, store._upsert) == (path, "things", True)


@pytest.mark.parametrize("url", ["postgresql://localhost/x", "postgres://u:p@h:1/x"])
def test_a_store_in_a_database(monkeypatch, url):
    """PostgreSQL, by its two names."""
    monkeypatch.setenv("BBIO_DATABASE_URL", url)
    store = store_from_env("todos.db", "things", per_channel=True)
    assert isinstance(store, PostgresStore)
    assert (store.dsn, store.table, store._per_channel) == (url, "things", True)


@pytest.mark.parametrize("url", ["mysql://localhost/x", "redis://localhost", "sqlite://todos.db"])
def test_a_store_of_no_known_kind(monkeypatch, url):
    """The message says what there is."""
    monkeypatch.setenv("BBIO_DATABASE_URL", url)
    with pytest.raises(ConfigurationError, match="is not a database that bbio knows; BBIO_DATABASE_URL is postgresql"):
        store_from_env("todos.db")


def test_a_port_that_nobody_asks_for_is_not_read(monkeypatch):
    """Kubernetes sets `BBIO_PORT` to a URL where a service is called bbio; cookies and databases do not care."""
    monkeypatch.setenv("BBIO_PORT", "tcp://10.0.0.1:80")
    monkeypatch.setenv("BBIO_SECRET_KEY", "x" * 40)
    assert Settings.from_env().secret_key == ["x" * 40]
    with pytest.raises(ConfigurationError, match=r"BBIO_PORT is .tcp:.*; a port is a number"):
        Settings.from_env().port_number()


def test_the_page_of_settings_names_each_of_them():
    """With the default that the code has."""
    page = (Path(__file__).parents[2] / "docs" / "settings.md").read_text()
    rows = dict(re.findall(r"^\| `(BBIO_\w+)` \| (.*?) \|", page, re.MULTILINE))
    assert set(rows) == {variable(field.name) for field in attrs.fields(Settings)}
    for name in ("host", "port", "log_level"):
        assert rows[variable(name)] == f"`{getattr(Settings(), name)}`"


def test_whether_a_server_works_for_consumers():
    """It does where nothing is said; what is neither yes nor no is told."""
    assert Settings.from_env({}).works()
    assert Settings.from_env({"BBIO_CONSUMERS": "yes"}).works()
    assert not Settings.from_env({"BBIO_CONSUMERS": "no"}).works()
    with pytest.raises(ConfigurationError, match="BBIO_CONSUMERS is 'maybe'; it is yes, or no"):
        Settings.from_env({"BBIO_CONSUMERS": "maybe"}).works()
