"""`bbio shell`: programs that are piped to it, the console of Python at a terminal, and IPython."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner

from bbio import cli
from bbio.commands import shell as shell_command

ROOT = Path(__file__).resolve().parents[3]
DEADLINE_SECONDS = 100.0


@pytest.fixture
def piped(served):
    """`piped(source)`: the status and what a program prints that is piped to the shell."""
    target = f"{served()}:app"

    def piped(source, *arguments, target=target):
        done = CliRunner().invoke(cli.main, ["shell", target, *arguments], input=source)
        return done.exit_code, done.stdout, done.stderr

    assert piped("", "--migrate") == (0, "", "")
    return piped


def test_a_program_is_run_to_its_end(piped):
    """With `await` at the top, in the application's event loop; and without, in a thread that may block."""
    program = """
import asyncio
todos = backends["todos"]
async def first():
    async for event in todos.events():
        return event.model["title"]
reading = asyncio.ensure_future(first())
await asyncio.sleep(0)
milk = await todos.create({"title": "milk"})
print(milk["by"], list(app.backends), __name__, await reading)
"""
    assert piped(program) == (0, "server ['todos'] __main__ milk\n", "")
    assert piped("print([todo['title'] for todo in backends['todos'].blocking.query().models])")[1] == "['milk']\n"


def test_an_error_of_a_program_is_printed(piped):
    """From its own line on, with status 1; `exit` ends it with any status."""
    for program, line in (
        ("x = 1\nawait backends['todos'].read(7)", 'File "<stdin>", line 2'),
        ("x = 1\n1 / 0", 'File "<stdin>", line 2'),
        ("def f(:", 'File "<stdin>", line 1'),
    ):
        status, printed, told = piped(program)
        assert (status, printed) == (1, "")
        assert line in told
        assert "shell.py" not in told.partition(line)[0]
    assert "NotFound: there is no model with id 7" in piped("await backends['todos'].read(7)")[2]
    for program in ("raise SystemExit(3)", "await backends['todos'].query()\nraise SystemExit(3)"):
        assert piped(program) == (3, "", "")


def test_an_application_that_cannot_be_opened_is_told(served):
    done = CliRunner().invoke(cli.main, ["shell", f"{served()}:nothing"])
    assert done.exit_code == 1
    assert done.stderr.startswith("Error: this application serves no backend")


class Terminal:
    """A `bbio shell` at a terminal of its own."""

    def __init__(self, target, folder):
        self.here, there = pty.openpty()
        path = os.pathsep.join([str(folder), str(ROOT)])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bbio", "shell", target, "--migrate"],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path, "TERM": "dumb"},
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
        )
        os.close(there)
        self.output = ""

    def until(self, text):
        """Read until a text is there; return all up to it."""
        end = time.monotonic() + DEADLINE_SECONDS
        while text not in self.output:
            assert select.select([self.here], [], [], max(0.0, end - time.monotonic()))[0], self.output
            try:
                self.output += os.read(self.here, 1 << 16).decode()
            except OSError:  # it has ended
                raise AssertionError(self.output) from None
        found, _, self.output = self.output.partition(text)
        return found

    def type(self, line):
        os.write(self.here, line.encode())


@pytest.fixture
def terminal(served, tmp_path):
    """A shell that finds no IPython."""
    (tmp_path / "IPython.py").write_text("raise ImportError")
    shell = Terminal(f"{served()}:app", tmp_path)
    yield shell
    shell.process.kill()
    shell.process.wait()
    os.close(shell.here)


@pytest.mark.once  # what is asked is what a terminal does
def test_the_console_awaits_at_the_top(terminal):
    """It shows results and errors, completes names, and goes on after Ctrl-C; Ctrl-D closes the stores."""
    assert "await backends['todos'].query()" in terminal.until(">>> ")
    terminal.type('(await backends["todos"].create({"title": "milk"}))["title"] * 2\n')
    terminal.until("'milkmilk'")
    terminal.until(">>> ")
    terminal.type('await backends["todos"].read(7)\n')
    terminal.until("NotFound: there is no model with id 7")
    terminal.until(">>> ")
    terminal.type("backe\t['todos'].name\n")
    terminal.until("'todos'")
    terminal.until(">>> ")
    terminal.type("import asyncio; print('wai' + 'ting'); await asyncio.sleep(3600)\n")
    terminal.until("waiting\r\n")
    terminal.process.send_signal(signal.SIGINT)
    terminal.until("KeyboardInterrupt")
    terminal.until(">>> ")
    terminal.type("await asyncio.sleep(0); exit(3)\n")
    assert terminal.process.wait(DEADLINE_SECONDS) == 3


def test_ipython_is_used_where_it_is_installed(served, monkeypatch):
    """With the names and the banner, and an event loop of its own, in which calls can be awaited."""
    started = []
    ipython, config = ModuleType("IPython"), ModuleType("traitlets.config")

    def start_ipython(**options):
        started.append(options)
        options["made"] = asyncio.run(options["user_ns"]["backends"]["todos"].create({"title": "milk"}))

    ipython.start_ipython = start_ipython
    config.Config = lambda: SimpleNamespace(TerminalInteractiveShell=SimpleNamespace())
    for name, module in (("IPython", ipython), ("traitlets", ModuleType("traitlets")), ("traitlets.config", config)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: True))
    target = f"{served()}:app"
    shell_command.shell.callback(target, migrate=True)
    (options,) = started
    assert (options["argv"], options["made"]["title"]) == ([], "milk")
    assert options["config"].TerminalInteractiveShell.banner2.startswith(f"The backends of {target}: todos\n")
    monkeypatch.setitem(sys.modules, "IPython", None)
    assert not shell_command.run_ipython({}, "")
