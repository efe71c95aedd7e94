"""Images that are changed at random: cleaned or refused, never more."""

from __future__ import annotations

import warnings

import pytest

from server.domain.images import Limits
from testkit.clean_photos import assert_nothing_but_pixels
from testkit.mutations import mutated
from testkit.originals import REFUSED, originals
from tests.server.adapters.imaging.pictures import cleaned, refusal
from tryon.protocol.errors import TryOnError

MUTATIONS = 1_000


@pytest.mark.parametrize("name", originals())
def test_originals_are_cleaned_or_refused_by_kind(name: str) -> None:
    """What mutations begin with reaches a decoder, or is of no accepted kind."""
    if name in REFUSED:
        assert refusal(originals()[name]) in ("unsupported_image", "unreadable_image")
    else:
        image = cleaned(originals()[name], Limits(min_side=32))
        assert_nothing_but_pixels(image)


def test_mutated_images_raise_only_domain_errors() -> None:
    """No other exception and no warning leaves the cleaner."""
    limits = Limits(max_pixels=1_000_000)
    outcomes = set()
    with warnings.catch_warnings(record=True) as leaked:
        warnings.simplefilter("always")
        for number in range(MUTATIONS):
            name, data = mutated(7, number)
            try:
                image = cleaned(data, limits)
                outcomes.add("fine")
                assert_nothing_but_pixels(image)
            except TryOnError as error:
                outcomes.add(error.code)
            except Exception as error:
                raise AssertionError(f"{name}, 7/{number}") from error
    assert leaked == []
    assert outcomes >= {"fine", "unreadable_image", "unsupported_image", "too_many_pixels", "image_too_small"}
    assert outcomes <= {
        "fine", "unreadable_image", "unsupported_image", "too_many_pixels", "image_too_large", "image_too_small"
    }  # fmt: skip


def test_text_that_became_a_table_is_the_only_rest() -> None:
    """A lying length makes 64 bytes of EXIF a quantization table, which is kept."""
    _, data = mutated(13, 168_932)
    assert_nothing_but_pixels(cleaned(data))
