"""`bbio stacks`."""

from __future__ import annotations

import click

from bbio.commands.target import load
from bbio.requests import METHODS


@click.command()
@click.argument("target", metavar="MODULE:APP")
def stacks(target: str) -> None:
    """Print what each sync passes, with file and line.

    For every backend of the application APP of MODULE, and every sync method, the layers of its stack in order; at
    `listen`, those that decide who may listen. A warning names a layer that leaves something out of reads, of which
    others are told all the same.
    """

    def show(kind: str, name: str, where: str = "") -> None:
        click.echo(f"    {kind:<9} {name:<40} {where}".rstrip())

    for name, runtime in load(target).backends.items():
        click.echo(f"{name} ({type(runtime.backend).__name__})")
        for method in METHODS:
            click.echo(f"  {method}")
            stack = runtime.stacks[method]
            for layer in stack.layers:
                show(layer.kind, layer.name, layer.where)
            if runtime.store is not None:
                show("store", type(runtime.store).__name__)
            elif stack.may_answer:
                show("bottom", "answers with the model, where nothing above did")
            else:
                show("bottom", "nothing answers: the client gets back the model that it sent")
        click.echo("  listen")
        admitting = [layer for layer in runtime.stacks["read"].layers if layer.kind == "before"]
        for layer in admitting:
            show(layer.kind, layer.name, layer.where)
        if not admitting:
            show("everybody", "may listen: no `before` layer is for read")
        for rule in runtime.rules.layers:
            assert rule.pattern is not None, "each has one"
            show("channel", f"{rule.pattern.text!r}: {rule.name}", rule.where)
        if runtime.connecting is not None:
            click.echo("  connect")
            for layer in runtime.connecting.layers:
                show(layer.kind, layer.name, layer.where)
        for consumer in runtime.consumers:
            show("consumer", consumer.name, "at least once for each write, apart from the request")
        for layer in runtime.narrowing:
            show("warning", f"others are told what {layer.name} leaves out", layer.where)
