"""Messages of other clients, as they wait to be read."""

from bbio.client.messages import Message, Messages


async def test_what_waits_is_read_before_the_end():
    """Also where nobody is to be told of the end; what comes after it is not taken."""
    messages = Messages(("typing",), limit=2)
    for name in ("typing", "other", "typing"):
        messages.put(Message(name, name, "key"))
    messages.close()
    messages.put(Message("typing", "late", "key"))
    assert [message.data async for message in messages] == ["typing", "typing"]
