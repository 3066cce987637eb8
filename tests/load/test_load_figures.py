"""The figures of ``make load``: what counts as flat, and what the page says."""

from tests.load.__main__ import Watched, page

ROW = {"Name": "GET /unet", "Request Count": "10", "Failure Count": "0", "50%": "120", "99%": "2500", "Requests/s": "5"}


def test_growth_after_the_warm_up_is_not_flat() -> None:
    flat = Watched([(100.0 + 300 * (n < 10), 40 + n % 3) for n in range(80)])
    leaking = Watched([(100.0 + n, 40) for n in range(80)])
    leaking_files = Watched([(100.0, 40 + n) for n in range(80)])
    assert flat.flat
    assert not leaking.flat
    assert not leaking_files.flat


def test_the_page_names_wrong_answers_and_roles() -> None:
    watched = {"gateway": Watched([(100.0, 40)] * 80)}
    told = page([ROW, ROW | {"Name": "Aggregated", "Failure Count": "3"}], watched, 10, 50)
    assert "| `GET /unet` | 10 | 0.12 s | 2.5 s | 0 |" in told
    assert "**3 wrong answers**" in told
    assert "| gateway | 100 | 100 | 40 | 40 | yes |" in told
