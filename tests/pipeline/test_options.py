"""Recipe sections read off signatures."""

from typing import Annotated, Literal

import pytest
from pydantic import Field

from tests.data.trees import refusal
from weakseg.pipeline.options import checked_options


class Thing:
    def __init__(
        self,
        given: int,
        *,
        alpha: float = 2.0,
        mode: Literal["a", "b"] = "a",
        sizes: tuple[int, ...] = (),
        share: Annotated[float, Field(le=1)] = 0.5,
        limit: int | None = None,
    ) -> None:
        raise AssertionError("only looked at")


def function(images, *, needed: int, often: bool = True):
    raise AssertionError("only looked at")


def test_defaults_stand_in_the_signature():
    assert checked_options(Thing, {}, "x") == {"alpha": 2.0, "mode": "a", "sizes": (), "share": 0.5, "limit": None}


def test_values_are_brought_to_their_type():
    found = checked_options(Thing, {"alpha": 3, "sizes": [1, 2], "limit": "4"}, "x")
    assert found["alpha"] == 3.0
    assert found["sizes"] == (1, 2)
    assert found["limit"] == 4


def test_functions_have_options_too():
    assert checked_options(function, {"needed": 1}, "x") == {"needed": 1, "often": True}


@pytest.mark.parametrize(
    ("target", "options", "words"),
    [
        (Thing, {"alhpa": 1}, ("unknown key 'x.alhpa'", "'alpha'")),
        (Thing, {"given": 1}, ("unknown key 'x.given'",)),
        (Thing, {"alpha": "much"}, ("'x.alpha' is 'much'", "number")),
        (Thing, {"alpha": None}, ("'x.alpha' is None",)),
        (Thing, {"mode": "c"}, ("'x.mode' is 'c'", "'a' or 'b'")),
        (Thing, {"share": 3}, ("'x.share' is 3", "less than or equal to 1")),
        (Thing, {"sizes": ["q" * 200]}, ("'x.sizes.0' is", "...")),
        (function, {}, ("'x.needed' is missing", "--set x.needed=VALUE")),
    ],
)
def test_what_is_refused(target, options, words):
    assert len(refusal(lambda: checked_options(target, options, "x"), *words)) < 250
