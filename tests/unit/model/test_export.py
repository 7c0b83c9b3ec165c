"""Descriptions of models: JSON Schema, TypeScript and AsyncAPI, each held to its own standard."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import attrs
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from jsonschema.exceptions import ValidationError

from bbio import Schema, field
from bbio.cli import main
from bbio.model.export import asyncapi, json_schema, typescript
from tests.properties.models import classes
from tests.unit.model.test_schema import FULL, Address, Everything, Node
from tools.npm import run_npm

CLIENT = Path(__file__).parents[3] / "client"


@attrs.define
class User:
    """Who sees and gives what."""

    name: str = attrs.field(validator=[attrs.validators.min_len(1), attrs.validators.max_len(9)])
    age: int | None = attrs.field(
        default=None, validator=attrs.validators.optional([attrs.validators.ge(0), attrs.validators.lt(200)])
    )
    tags: list[str] = attrs.field(factory=list, validator=attrs.validators.max_len(3))
    when: Any = attrs.field(default=None, validator=attrs.validators.max_len(3))
    kind: str = attrs.field(default="a", validator=attrs.validators.in_(["a", "b"]))
    password: str = field(private=True, default="")
    hash: str = field(private=True, read_only=True, default="")
    score: int = field(read_only=True, default=0)
    notes: str = field(roles=("support", "admin"), default="")
    address: Address | None = field(read_only=True, default=None)
    home: Address = field(read_only=True, factory=lambda: Address(""))


def named(name: str, **members: Any) -> type:
    """A class of that name."""
    return attrs.make_class(name, {key: attrs.field(type=type_) for key, type_ in members.items()})


def serving(**models: Any) -> dict[str, Any]:
    """Backends by name, as far as a description looks at them."""
    return {
        name: SimpleNamespace(schema=model if model is None or isinstance(model, Schema) else Schema(model))
        for name, model in models.items()
    }


def test_json_schema_says_who_gives_and_gets_a_field():
    """`readOnly`, `writeOnly`, `x-roles` and the limits of validators; what nobody outside has is not there."""
    described = json_schema(serving(users=User))
    Draft202012Validator.check_schema(described)
    user = described["$defs"]["User"]
    assert user == {
        "title": "User",
        "type": "object",
        "properties": {
            "id": {"anyOf": [{"type": "string"}, {"type": "integer"}], "readOnly": True},
            "name": {"type": "string", "minLength": 1, "maxLength": 9},
            "age": {"type": ["integer", "null"], "minimum": 0, "exclusiveMaximum": 200},
            "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 3},
            "when": {},
            "kind": {"type": "string"},
            "password": {"type": "string", "writeOnly": True},
            "score": {"type": "integer", "readOnly": True},
            "notes": {"type": "string", "x-roles": ["support", "admin"]},
            "address": {"anyOf": [{"$ref": "#/$defs/Address"}, {"type": "null"}], "readOnly": True},
            "home": {"allOf": [{"$ref": "#/$defs/Address"}], "readOnly": True},
        },
        "required": ["name"],
        "additionalProperties": False,
    }
    assert described["$defs"]["Address"]["required"] == ["city"]


def test_an_id_that_is_declared_is_never_null_outside():
    """It is None in Python alone, before there is one."""
    todo = attrs.make_class("Todo", {"id": attrs.field(type=str | None, default=None)})
    properties = json_schema(serving(todos=todo))["$defs"]["Todo"]["properties"]
    assert properties == {"id": {"type": "string", "readOnly": True}}


def test_json_schema_has_a_form_for_every_type():
    """Valid by the metaschema, and true of a model with everything."""
    described = json_schema(serving(all=Everything, open=Schema(Node, unknown="drop")))
    Draft202012Validator.check_schema(described)
    validator = Draft202012Validator({**described, "$ref": "#/$defs/Everything"})
    validator.validate({"id": "1", **FULL})
    for wrong in ({"price": "x"}, {"at": 1}, {"size": "l"}, {"either": []}, {"address": {}}, {"extra": 1}):
        with pytest.raises(ValidationError):
            validator.validate({**FULL, **wrong})
    assert "additionalProperties" not in described["$defs"]["Node"]


@given(st.data())
def test_json_schema_is_true_of_every_model(data):
    """What is written of any instance of any class is valid by the class's schema."""
    cls, instances = data.draw(classes())
    schema = Schema(cls)
    described = json_schema(serving(models=schema))
    Draft202012Validator.check_schema(described)
    record = schema.unstructure(data.draw(instances))
    Draft202012Validator({**described, "$ref": f"#/$defs/{cls.__name__}"}).validate(record)


def test_classes_of_one_name_are_told_apart():
    """The second has a number; and no class takes the name of what is new of another."""
    one, two = named("Todo", a=str), named("Todo", b=int)
    new, thing, news = named("NewTodo", c=str), named("Thing", x=two), named("NewThing", d=bool)
    described = json_schema(serving(one=one, two=two, new=new, thing=thing, news=news, again=one))
    assert list(described["$defs"]) == ["Todo", "Todo2", "NewTodo3", "Thing", "NewThing2"]
    assert described["$defs"]["Thing"]["properties"]["x"] == {"$ref": "#/$defs/Todo2"}
    assert list(json_schema(serving(news=news, thing=thing))["$defs"]) == ["NewThing", "Thing2", "Todo"]


def test_a_class_within_another_model_is_described_as_the_model_it_is():
    """Whichever comes first."""
    plain = json_schema(serving(addresses=Address, users=User))["$defs"]
    assert plain["Address"]["properties"]["id"]["readOnly"]
    assert json_schema(serving(users=User, addresses=Address))["$defs"] == plain


USE = """
import type { Backends, Everything, NewEverything, NewUser, User } from './models';

const add: NewUser = { name: 'Ann', password: 'x' };
const user: User = {
  id: 1, name: 'Ann', age: null, tags: [], when: 5, kind: 'a', score: 1, address: { city: 'Rome', zip: '' },
  home: { city: 'Rome', zip: '' },
};
const notes: string | undefined = user.notes;
const few: NewEverything = { text: 'a', address: { city: 'Rome' }, color: 'red', size: 1 };
const root: Backends['odd-name'] = {} as Everything;
// @ts-expect-error it is read-only
user.score = 2;
// @ts-expect-error it never leaves the server
user.password;
// @ts-expect-error nobody may give it
add.score = 1;
// @ts-expect-error a name is required
const bad: NewUser = {};
// @ts-expect-error there is no such color
few.color = 'green';
export { add, notes, root, bad };
"""


@pytest.mark.once  # asks the compiler
def test_typescript_compiles_and_tells_right_from_wrong(tmp_path):
    """By the TypeScript compiler: what a client may write is accepted, what it may not is an error."""
    backends = serving(**{"users": User, "odd-name": Everything, "odd": named("Odd", ünï=str, x=Literal["a"])})
    (tmp_path / "models.d.ts").write_text(typescript(backends))
    (tmp_path / "use.ts").write_text(USE)
    options = {"strict": True, "noEmit": True, "types": [], "lib": ["es2022"], "target": "es2022", "module": "esnext"}
    (tmp_path / "tsconfig.json").write_text(json.dumps({"compilerOptions": options}))
    run_npm(CLIENT, "exec", "--offline", "--", "tsc", "-p", str(tmp_path))


def test_asyncapi_is_valid_by_its_official_schema():
    """Every backend is a channel, with a model or without."""
    described = asyncapi(serving(**{"users": User, "all/of": Everything, "plain": None}), "todos:app")
    official = json.loads((CLIENT / "node_modules/@asyncapi/specs/schemas/3.0.0-without-$id.json").read_text())
    Draft7Validator(official).validate(described)
    assert described["channels"]["all_of"]["address"] == "/all/of"
    assert set(described["operations"]) == {
        f"{name}.{kind}" for name in ("users", "all_of", "plain") for kind in ("listen", "sync", "synced")
    }
    assert set(described["components"]["schemas"]) == {"User", "Address", "Everything", "Node"}
    _check_references(described, described)
    broken = {**described, "channels": {"x": {"adress": "/x"}}}
    with pytest.raises(ValidationError):
        Draft7Validator(official).validate(broken)


def test_asyncapi_payloads_are_what_travels():
    """The messages of a backend, held against messages of the wire."""
    described = asyncapi(serving(users=User), "app")

    def check(kind: str, payload: Any) -> bool:
        schema = described["components"]["messages"][f"users.{kind}"]["payload"]
        return Draft7Validator({**schema, "components": described["components"]}).is_valid(payload)

    assert check("listen", [None])
    assert not check("listen", [1])
    assert check("sync", [{"method": "create", "model": {"name": "Ann"}}])
    assert check("sync", [{"method": "read", "model": {}}])
    assert check("sync", [{"method": "patch", "model": {"id": 1}}])
    assert not check("sync", [{"method": "create", "model": {}}])
    assert not check("sync", [{"method": "make"}])
    assert check("syncReply", [None, {"name": "Ann"}])
    assert check("syncReply", [{"error": {"name": "Invalid", "message": "no", "code": 422}}])
    assert not check("syncReply", [{"problem": 1}])
    assert check("synced", ["create", {"id": "1", "name": "Ann"}])
    assert not check("synced", ["create", {"id": "1", "name": 1}])


def _check_references(value: Any, whole: Any) -> None:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            found = whole
            for step in value["$ref"].removeprefix("#/").split("/"):
                found = found[step]
        for each in value.values():
            _check_references(each, whole)
    elif isinstance(value, list):
        for each in value:
            _check_references(each, whole)


MODULE = """
import attrs
from bbio import App, Backend

@attrs.define
class Todo:
    title: str

class Todos(Backend):
    model = Todo

class Plain(Backend):
    pass

app = App().serve(Todos)
plain = App().serve(Plain)
"""


def test_the_command_prints_each_format(tmp_path, monkeypatch):
    """`bbio schema module:app --format ...`; without any model it says what to do."""
    (tmp_path / "described.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run = CliRunner().invoke
    assert json.loads(run(main, ["schema", "described:app"]).output)["$defs"]["Todo"]["required"] == ["title"]
    assert run(main, ["schema", "described:app", "--format", "typescript"]).output == (
        "// Made by `bbio schema --format typescript`.\n\n"
        "export interface Todo {\n  readonly id: string | number;\n  title: string;\n}\n\n"
        "export interface NewTodo {\n  title: string;\n}\n\n"
        "/** The model of each backend. */\nexport interface Backends {\n  todos: Todo;\n}\n"
    )
    described = json.loads(run(main, ["schema", "described:plain", "--format", "asyncapi"]).output)
    assert described["info"]["title"] == "described:plain"
    refused = run(main, ["schema", "described:plain"])
    assert refused.exit_code == 1
    assert "no backend of described:plain has a model; give one `model = SomeAttrsClass`" in refused.output
