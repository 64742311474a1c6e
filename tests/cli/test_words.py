import pytest

from ergosphere.cli.words import bytes_text, did_you_mean, job_name, span_s, span_text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("90", 90), ("500ms", 0.5), ("1.5h", 5400), ("1d", 86400)],
)
def test_a_span_of_time_is_read_in_all_its_spellings(text, seconds):
    assert span_s(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "5 apples", "-3s", "1h30", "m", "3s x"])
def test_what_is_no_span_of_time_is_refused(text):
    with pytest.raises(ValueError, match="no span of time"):
        span_s(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0, "0.0s"), (9.94, "9.9s"), (9.96, "10s"), (61, "1m01s"), (3700, "1h01m"), (90_000, "1d01h")],
)
def test_spans_are_written_with_two_units_at_most(seconds, text):
    assert span_text(seconds) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 kB"), (512_000_000, "512 MB")])
def test_sizes_are_written_in_three_digits(count, text):
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (("python", "train.py"), "train"),
        (("torchrun", "--nproc-per-node", "4", "src/digits ddp.py"), "digits-ddp"),
        (("python", "-m", "trainer.main"), "trainer.main"),
        (("./sieve",), "sieve"),
        (("/",), "job"),
    ],
)
def test_a_job_without_a_name_gets_its_scripts(command, name):
    assert job_name(command) == name


def test_the_nearest_name_is_found_and_a_far_one_is_not():
    assert did_you_mean("tiers", ["tier", "ranks"], "no") == "did you mean tier?"
    assert did_you_mean("zebra", ["tier", "ranks"], "no") == "no"
