"""The command line, in the process of the test: what it loads, prints and starts again."""

import os
import signal
import socket
import sys
import textwrap

import pytest
from click.testing import CliRunner

from bbio import __version__, cli
from bbio.commands import serving

SERVED = """
from bbio import App, Backend, before, read
from bbio.builtin import Logger, MemoryStore

class Todos(Backend):
    middleware = [Logger()]
    store = MemoryStore()

    @before("create")
    def check(self, req):
        pass

class Notes(Backend):
    @before("read", "delete")
    def admit(self, req):
        pass

    @read
    def find(self, next):
        return next()

app = App().serve(Todos, Notes)
other = 1
"""


@pytest.fixture
def served(tmp_path, monkeypatch):
    """`served(source)`: the name of a module with that source, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    names = (f"served_{os.urandom(4).hex()}_{n}" for n in range(9))

    def served(source=SERVED):
        name = next(names)
        (tmp_path / f"{name}.py").write_text(source)
        return name

    yield served
    for name in set(sys.modules) - before:
        if name.startswith("served_"):
            del sys.modules[name]


def invoke(*arguments):
    """What a command prints, with its status."""
    done = CliRunner().invoke(cli.main, arguments)
    return done.exit_code, " ".join(done.output.split())


def test_stacks_are_printed(served):
    """Every backend, method and layer, with its place, and the store or the bottom below; and who may listen."""
    name = served()
    status, text = invoke("stacks", f"{name}:app")
    assert status == 0
    assert "todos (Todos) create use Logger." in text
    assert f"before Todos.check {os.path.realpath(f'{name}.py')}:9 store MemoryStore read" in text
    place = os.path.realpath(f"{name}.py")
    assert "notes (Notes) create bottom nothing answers: the client gets back the model that it sent read" in text
    assert f"handler Notes.find {place}:18 bottom answers with the model, where nothing above did update" in text
    assert "listen everybody may listen: no `before` layer is for read notes" in text
    assert text.endswith(f"listen before Notes.admit {place}:14")


NARROWING = """
from bbio import App, Backend, use
from bbio.builtin import MemoryStore

class Todos(Backend):
    store = MemoryStore()

    @use("read")
    async def own(self, req, next):
        return [todo for todo in await next() if todo["owner"] == req.user]

app = App().serve(Todos)
"""


def test_stacks_show_rules_of_channels_and_what_runs_once(served):
    """Each with its pattern and its place."""
    source = """
    from bbio import App, Backend, channel, on_connect
    from bbio.builtin import Session

    class Tasks(Backend):
        middleware = [Session(secret="x" * 40)]

        @channel("project-{project}")
        def members(self, project): ...

        @channel("")
        def default(self): ...

        @on_connect
        def greet(self): ...

    app = App().serve(Tasks)
    """
    name = served(textwrap.dedent(source))
    status, text = invoke("stacks", f"{name}:app")
    place = os.path.realpath(f"{name}.py")
    assert status == 0
    assert f"before channel {place}:8 channel 'project-{{project}}': Tasks.members {place}:8" in text
    assert f"channel '': Tasks.default {place}:11 connect before Session.identify" in text
    assert f"before Tasks.greet {place}:14" in text


def test_stacks_warn_of_reads_that_leave_out_what_others_are_told(served):
    """With the layer and its line."""
    name = served(NARROWING)
    status, text = invoke("stacks", f"{name}:app")
    assert status == 0
    assert text.endswith(f"warning others are told what Todos.own leaves out {os.path.realpath(f'{name}.py')}:8")


def test_stacks_show_what_is_done_once_for_each_write(served):
    """Below what each request passes."""
    source = """
    from bbio import App, Backend, after
    from bbio.builtin import SQLiteStore

    class Todos(Backend):
        store = SQLiteStore("todos.db")

        @after("create", once=True)
        async def mail(self, event): ...

    app = App().serve(Todos)
    """
    status, text = invoke("stacks", f"{served(textwrap.dedent(source))}:app")
    assert status == 0
    assert text.endswith("consumer todos.mail at least once for each write, apart from the request")


MISSPELT = """
class Typo(Backend):
    @before("raed")
    def check(self): ...
"""


@pytest.mark.parametrize(
    ("source", "attribute", "text"),
    [
        (SERVED, "nothing", "{} has no 'nothing'; did you mean {}:app?"),
        (SERVED, "other", "{}:other is not a bbio.App; did you mean {}:app?"),
        (SERVED, "Todos", "{}:Todos is not a bbio.App; did you mean {}:app?"),
        ("", "app", "{} has no 'app'; it must be one: app = App(); app.serve(...)"),
        ("import no_such", "app", "{} cannot be imported: ModuleNotFoundError: No module named 'no_such' ({file}:1)"),
        ("\n1 / 0", "app", "{} cannot be imported: ZeroDivisionError: division by zero ({file}:2)"),
        ("import sys; sys.exit(3)", "app", "{} cannot be imported: SystemExit: 3 ({file}:1)"),
        ("from bbio import App; App(engine='fats')", "app", "{} cannot be imported: App(engine='fats')"),
        (SERVED + MISSPELT, "app", "there is no sync method 'raed'; did you mean 'read'?"),
        (SERVED.replace("Todos, Notes", "Todos, Todos"), "app", "two backends are named 'todos'"),
        (SERVED.replace("Todos, Notes", "Todos, int"), "app", "app.serve(<class 'int'>): that is not a backend"),
    ],
)
def test_what_cannot_be_loaded_is_told(served, source, attribute, text):
    """On one line, with the module's name, what is wrong, where, and how to mend it."""
    name = served(source)
    done = CliRunner().invoke(cli.main, ["stacks", f"{name}:{attribute}"])
    assert done.exit_code == 1
    assert done.output.startswith("Error: ")
    assert text.format(name, name, file=os.path.realpath(f"{name}.py")) in done.output
    assert done.output.count("\n") == 1


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("app", "'app' names no application; write module:app"),
        (":app", "':app' names no application"),
        ("todos:", "'todos:' names no application"),
        ("todos.py:app", "'todos.py:app' names a file; write todos:app"),
        ("./site/todos.py:app", "'./site/todos.py:app' names a file; write site.todos:app"),
        ("site/todos:app", "'site/todos:app' names a file; write site.todos:app"),
        ("no_such:app", "there is no module 'no_such'; run bbio in the folder that holds it"),
        ("no_such.module:app", "there is no module 'no_such'; run bbio in the folder that holds it"),
    ],
)
def test_what_names_no_application_is_told(served, target, text):
    """Before anything is imported."""
    status, told = invoke("run", target)
    assert status == 1
    assert text in told


MOUNTED = (
    SERVED
    + """
from aiohttp import web

async def hello(request):
    return web.Response(text="hello")

bare = web.Application()
application = web.Application()
application.router.add_get("/hello", hello)
app.mount(application)
"""
)


def test_a_mounted_application_is_an_application(served):
    """All commands take it; where the name is wrong, it is the one to name, for it serves all pages."""
    name = served(MOUNTED)
    status, text = invoke("stacks", f"{name}:application")
    assert (status, "todos (Todos)" in text) == (0, True)
    for wrong in ("nothing", "other"):
        assert f"did you mean {name}:application?" in invoke("run", f"{name}:{wrong}")[1]
    assert f"no App is mounted on {name}:bare; write app.mount(bare)" in invoke("run", f"{name}:bare")[1]


def test_a_syntax_error_is_told_with_its_own_place(served):
    """Not with that of the code that imports modules."""
    status, told = invoke("stacks", f"{served('def f(:')}:app")
    assert status == 1
    assert told.endswith(".py, line 1)")


def test_an_error_of_the_start_is_told(served):
    """As a message, not as a traceback."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        status, told = invoke("run", f"{served()}:app", "--port", str(taken.getsockname()[1]))
    assert status == 1
    assert "is in use" in told
    assert "Traceback" not in told


@pytest.mark.parametrize("command", sorted(cli.main.commands))
def test_every_command_explains_itself(command):
    """Each has a help of its own."""
    status, text = invoke(command, "--help")
    assert status == 0
    assert text.startswith("Usage: ")
    assert command in text


def test_the_version_is_told():
    """That of the package."""
    assert invoke("--version") == (0, f"bbio, version {__version__}")


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_command_is_run_again_when_a_file_changes(tmp_path, monkeypatch, capfd, end):
    """Until it is told to end; then the command is ended too."""
    monkeypatch.chdir(tmp_path)
    command = f"""
import os, pathlib, signal, time
if pathlib.Path("ran").exists():
    os.kill(os.getppid(), {end:d})
    signal.pause()
pathlib.Path("ran").touch()
while True:  # nobody says when the folder is first looked at
    pathlib.Path("new.py").touch()
    time.sleep(0.05)
"""
    before = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    # A shell may have started the tests with Ctrl-C ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as caught:
            serving._reload([sys.executable, "-c", command])
    finally:
        for number, handler in before:
            signal.signal(number, handler)
    assert caught.value.code == 0
    assert capfd.readouterr().out == "a file changed: starting again\n"


def test_reloading_runs_the_same_command(served, monkeypatch):
    """With the settings that were given."""
    commands = []

    def reload(command):
        commands.append(command)
        sys.exit(0)

    monkeypatch.setattr(serving, "_reload", reload)
    status, _ = invoke("run", "served:app", "--reload", "--port", "1", "--cors-origins", "*")
    assert status == 0
    (command,) = commands
    assert command[1:5] == ["-m", "bbio", "run", "served:app"]
    assert {"--port=1", "--cors-origins=*", "--host=127.0.0.1", "--log-level=info"} == set(command[5:])
