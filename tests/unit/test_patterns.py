"""Patterns of channel names: which names they have, whatever these hold, and which of them could be asked about one."""

import re
import unicodedata
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bbio import DefinitionError
from bbio.patterns import ChannelPattern, is_clean

ID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def parse(text):
    return ChannelPattern.parse(text)


@pytest.mark.parametrize(
    ("pattern", "name", "parts"),
    [
        ("", "", ()),
        ("", "a", None),
        ("lobby", "lobby", ()),
        ("lobby", "lobby ", None),
        ("lobby", "Lobby", None),
        ("project-{project}", "project-a-b", ("a-b",)),
        ("project-{project}", "project-", None),
        ("project-{project}", "Project-a", None),
        ("{room}", "", None),
        ("{room}", "a/b", ("a/b",)),
        ("{org}/{project}", "acme/a/b", ("acme", "a/b")),
        ("{org}/{project}", "/a", None),
        ("{org}/{project}", "a/", None),
        ("{org}/{project}/x", "a/b/x/x", ("a", "b/x")),
        ("{org}/{project}/x", "a/x", None),
        ("{a}aa{b}", "aaaa", ("a", "a")),
        ("{a}--{b}--{c}", "1--2--3", ("1", "2", "3")),
        ("x{a}x", "xx", None),
        ("x{a}x", "x", None),
        ("x{a}x", "xxx", ("x",)),
        ("n{n:int}", "n0", (0,)),
        ("n{n:int}", "n" + "9" * 18, (10**18 - 1,)),
        ("n{n:int}", "n" + "9" * 19, None),
        ("n{n:int}", "n01", None),
        ("n{n:int}", "n-1", None),
        ("n{n:int}", "n1\n", None),
        ("n{n:int}", "n\u0661", None),
        ("{id:uuid}", ID, (UUID(ID),)),
        ("{id:uuid}", ID.upper(), None),
        ("{id:uuid}", ID.replace("-", ""), None),
    ],
)
def test_what_a_name_is_to_a_pattern(pattern, name, parts):
    """A part ends where the text that follows it stands first, and has at least one character."""
    assert parse(pattern).match(name) == parts


@pytest.mark.parametrize(
    ("name", "clean"),
    [
        ("zoë", True),
        ("zoe\u0308", False),
        ("שלום", True),
        ("سلام‌علیکم", True),
        ("👩‍🚀", True),
        ("a b", True),
        ("a\nb", False),
        ("a\0b", False),
        ("a\x7f", False),
        ("a\u202eb", False),
        ("a\u200fb", False),
        ("a\u2028b", False),
        ("\ud800", False),
        ("\uffff", False),
        ("\ue000", False),
    ],
)
def test_a_part_shows_all_that_it_is(name, clean):
    """No two names look alike for how they are spelled, and none has what nobody sees."""
    assert is_clean(name) is clean
    assert parse("room-{room}").match(f"room-{name}") == ((name,) if clean else None)


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (7, "name the channels"),
        ("a{b", "a part is not closed"),
        ("a}b", "'}' closes nothing"),
        ("{a}}", "'}' closes nothing"),
        ("{{a}}", "a part is not closed"),
        ("{}", "cannot name a part"),
        ("{1}", "cannot name a part"),
        ("{class}", "cannot name a part"),
        ("{req}", "cannot name a part"),
        ("{self}", "cannot name a part"),
        ("{a}-{a}", "is there twice"),
        ("{a}{b}", "nothing parts two parts"),
        ("{a:float}", r"there is no kind 'float'; write \{a\}"),
        ("x" * 256, "at most 255 characters"),
        ("a\n", "none of control"),
        ("e\u0301", "in the form NFC"),
    ],
)
def test_what_is_no_pattern(pattern, text):
    """The text shows the fix."""
    with pytest.raises(DefinitionError, match=text):
        parse(pattern)


@pytest.mark.parametrize(
    ("one", "other", "overlap"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("", "{a}", False),
        ("lobby", "{room}", True),
        ("room-{a}", "project-{a}", False),
        ("room-{a}", "room-{b}-x", True),
        ("a{x}", "{y}b", True),
        ("{a}/x", "{b}/y", False),
        ("{a}/x", "{b}/{c}", True),
        ("n-{n:int}", "n-{text}", True),
        ("n-{n:int}", "n-x{text}", False),
        ("{n:int}", "{id:uuid}", True),
        ("{id:uuid}", "user-{name}", False),
    ],
)
def test_which_patterns_could_be_asked_about_one_name(one, other, overlap):
    """The same whichever comes first."""
    assert parse(one).overlaps(parse(other)) is overlap
    assert parse(other).overlaps(parse(one)) is overlap


def expression(pattern):
    """Return a regular expression of the same names, for short ones."""
    return re.compile("(.+)".join(map(re.escape, pattern.literals)), re.DOTALL)


PATTERNS = st.lists(st.sampled_from(["a", "b", "ab", "{x}", "{y}"]), max_size=5).map("".join)


def _try(text):
    try:
        return parse(text)
    except DefinitionError:
        return None


@given(PATTERNS, st.text("ab", max_size=8))
@example("{x}ab{y}b", "aabab")
def test_a_name_is_of_a_pattern_as_a_regular_expression_says(text, name):
    """Nothing is refused because a part ended too early, and nothing is let in."""
    pattern = _try(text)
    if pattern is not None:
        parts = pattern.match(name)
        assert (parts is not None) == (expression(pattern).fullmatch(name) is not None)
        if parts is not None:
            assert "".join(a + b for a, b in zip(pattern.literals, (*parts, ""), strict=True)) == name


@given(PATTERNS, PATTERNS, st.text("ab", max_size=8))
def test_patterns_that_do_not_overlap_have_no_name_in_common(one, other, name):
    """What is not refused at definition leaves no doubt which rule is asked."""
    patterns = [each for each in (_try(one), _try(other)) if each is not None]
    if len(patterns) == 2 and not patterns[0].overlaps(patterns[1]):
        assert None in [each.match(name) for each in patterns]


@given(st.text(max_size=255))
def test_any_text_is_looked_at_without_fail(name):
    """Whatever a client sends, it is of the pattern or not."""
    parts = parse("{a}/{b}").match(name)
    if parts is not None:
        assert "/".join(parts) == name
        assert unicodedata.is_normalized("NFC", name) or "/" in name


def test_no_name_takes_long():
    """Each character is looked at a few times, whatever they are: nothing is tried again and again."""
    looked = []

    class Counting(str):
        def find(self, *args):
            looked.append(args)
            return super().find(*args)

    pattern = parse("{a}a{b}a{c}a{d}a{e}x")
    assert pattern.match(Counting("a" * 255)) is None
    assert pattern.match(Counting("a" * 254 + "x")) is not None
    assert len(looked) == 4
