"""How long a caller waits: what was said, within what is allowed."""

import pytest

from unet_factory_service.preferences import Preference, parse_prefer


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], Preference(30)),
        (["wait=5"], Preference(5, "wait=5")),
        (["wait=0"], Preference(0, "wait=0")),
        (["WAIT = 5"], Preference(5, "wait=5")),
        (["respond-async, wait=5"], Preference(5, "wait=5")),
        (["respond-async", "wait=5"], Preference(5, "wait=5")),
        (["respond-async"], Preference(0, "respond-async")),
        (["wait=99999"], Preference(60, "wait=60")),
        (["wait=99999999999999999999"], Preference(30)),
        (["wait=-1"], Preference(30)),
        (["wait=soon"], Preference(30)),
        (["return=minimal; foo=1"], Preference(30)),
    ],
)
def test_the_prefer_header(values: list[str], expected: Preference) -> None:
    assert parse_prefer(values, default_s=30, max_s=60) == expected
