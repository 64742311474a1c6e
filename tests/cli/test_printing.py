import io

from ergosphere.cli.output import last_lines
from ergosphere.cli.printing import LinePrinter, PlainPrinter, RawPrinter, prefix_of


def test_one_rank_alone_is_shown_as_it_comes_unfinished_lines_included():
    out = io.BytesIO()
    printer = PlainPrinter(out, "utf-8", colours=False)
    printer.feed(b"step 1")
    assert out.getvalue() == b"step 1"
    printer.feed(b"\x07\n")
    printer.close()
    assert out.getvalue() == b"step 1\\x07\n"


def test_several_ranks_speak_in_whole_lines_behind_their_number():
    out = io.BytesIO()
    two = LinePrinter(out, "utf-8", colours=False, prefix=prefix_of(2, 12, colours=False))
    two.feed(b"half a ")
    assert out.getvalue() == b""
    two.feed(b"line\nlast")
    two.close()
    assert out.getvalue() == b"[rank  2] half a line\n[rank  2] last\n"


def test_a_progress_bar_drawn_over_and_over_shows_its_last_state():
    out = io.BytesIO()
    printer = LinePrinter(out, "utf-8", colours=False, prefix="")
    printer.feed(b"\r10 %\r50 %\r100 %\r\ndone\n")
    assert out.getvalue() == b"100 %\ndone\n"


def test_a_colour_left_on_does_not_leak_out_of_its_line():
    out = io.BytesIO()
    printer = LinePrinter(out, "utf-8", colours=True, prefix="")
    printer.feed(b"\x1b[31mred\nplain\n")
    assert out.getvalue() == b"\x1b[31mred\x1b[0m\nplain\n"


def test_raw_means_the_very_bytes():
    out = io.BytesIO()
    printer = RawPrinter(out)
    printer.feed(b"\xff\x1b[2J\x00")
    printer.close()
    assert out.getvalue() == b"\xff\x1b[2J\x00"


def test_a_terminal_that_knows_ascii_only_gets_escapes():
    out = io.BytesIO()
    PlainPrinter(out, "ascii", colours=False).feed("ä\n".encode())
    assert out.getvalue() == b"\\xe4\n"


def test_the_last_lines_are_found_with_and_without_a_final_newline():
    assert b"a\nb\nc\n"[last_lines(b"a\nb\nc\n", 2) :] == b"b\nc\n"
    assert b"a\nb\nc"[last_lines(b"a\nb\nc", 1) :] == b"c"
    assert last_lines(b"a\nb\n", 0) == 4
    assert last_lines(b"a\nb\n", 2) is None
    assert last_lines(b"", 3) is None
