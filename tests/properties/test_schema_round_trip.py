"""Models of random classes: what is written reads back as it was, and what is not JSON of the class is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bbio import Schema
from bbio.model.scalars import Wrong
from bbio.protocol import decode, encode
from tests.properties.models import classes, json_values


@given(st.data())
def test_what_is_written_reads_back(data):
    """`structure(unstructure(x)) == x`, also through the JSON of the wire."""
    cls, instances = data.draw(classes())
    instance = data.draw(instances)
    schema = Schema(cls)
    written = schema.unstructure(instance)
    assert decode(encode(written)) == written
    assert schema.structure(written) == instance


@given(st.data())
def test_what_is_read_is_a_model_or_wrong_in_words(data):
    """Any JSON in any field gives an instance, which is written as valid JSON, or messages by field; nothing else."""
    cls, instances = data.draw(classes())
    schema = Schema(cls)
    model = schema.unstructure(data.draw(instances))
    names = [*model, "other"]
    model.update(data.draw(st.dictionaries(st.sampled_from(names), json_values, min_size=1)))
    wrong: dict[str, str] = {}
    instance = None
    try:
        instance = schema.structure(model)
    except Wrong as err:
        wrong = err.fields
    for path, message in wrong.items():
        assert path.split(".")[0] in names
        assert message.startswith(("must ", "is ", "has "))
        assert not any(sign in message for sign in ("<", "attr", "object at", "Error"))
    if not wrong:
        assert type(instance) is cls
        assert "other" not in model
        assert schema.structure(schema.unstructure(instance)) == instance
