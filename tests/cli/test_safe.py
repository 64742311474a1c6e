from hypothesis import given, settings
from hypothesis import strategies as st

from ergosphere.cli.safe import SafeText, safe_line


def shown(data: bytes, *, colours: bool = False) -> str:
    return SafeText(colours).feed(data, last=True)


def test_text_of_all_languages_passes_as_it_is():
    text = "loss 0.1\tÄpfel 日本 👩‍🚀\r\n"
    assert shown(text.encode()) == text


def test_what_would_drive_the_terminal_is_escaped():
    assert shown(b"a\x1b[2Jb\x07\x1b]0;title\x07") == "a\\x1b[2Jb\\x07\\x1b]0;title\\x07"
    assert shown("\u202eevil\u2066\x9b2J".encode()) == "\\u202eevil\\u2066\\x9b2J"


def test_bytes_of_another_encoding_are_escaped_one_by_one():
    assert shown("naïve".encode("latin-1")) == "na\\xefve"
    assert shown(b"\xff\xfe\x00h") == "\\xff\\xfe\\x00h"


def test_colours_pass_on_a_terminal_only():
    red = b"\x1b[31mred\x1b[0m"
    assert shown(red, colours=True) == red.decode()
    assert shown(red) == "\\x1b[31mred\\x1b[0m"


def test_a_character_or_colour_cut_in_two_stays_whole():
    safe = SafeText(colours=True)
    assert safe.feed("ä".encode()[:1]) == ""
    assert safe.feed("ä".encode()[1:] + b"\x1b[3") == "ä"
    assert safe.feed(b"1mred") == "\x1b[31mred"
    assert safe.coloured


def test_an_endless_sequence_is_not_held_back_for_ever():
    safe = SafeText(colours=True)
    assert safe.feed(b"\x1b[" + b"1;" * 100).startswith("\\x1b[1;")


def test_names_of_others_stay_on_one_line():
    assert safe_line("a\nb\x1b[1m") == "a\\nb\\x1b[1m"


@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, 200), st.booleans())
def test_however_bytes_are_cut_the_same_is_shown(data, cut, colours):
    safe = SafeText(colours)
    assert safe.feed(data[:cut]) + safe.feed(data[cut:], last=True) == shown(data, colours=colours)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_nothing_that_is_shown_can_drive_a_terminal(data):
    assert not [c for c in shown(data) if (ord(c) < 32 and c not in "\t\n\r") or 0x7F <= ord(c) < 0xA0]
