"""A frozen value with some fields changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ergosphere.core.copying import changed
from ergosphere.core.fraction import opened
from ergosphere.core.model import Cause


def test_it_gives_what_replace_gives_and_leaves_the_value_as_it_was() -> None:
    account = opened(7_000.0, 8, 60.0)
    assert changed(account, rate=4.0, cause=Cause.SHRINK) == replace(account, rate=4.0, cause=Cause.SHRINK)
    assert account == opened(7_000.0, 8, 60.0)


def test_a_field_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(KeyError):
        changed(opened(7_000.0, 8), speed=1.0)
