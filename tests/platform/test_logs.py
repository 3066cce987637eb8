"""What peers can provoke leaves one line in a while, with a count."""

import logging

import pytest

from unet_factory.platform.logs import OncePerMinute


def test_a_line_that_repeats_is_let_through_once_in_a_while_with_its_count(caplog: pytest.LogCaptureFixture) -> None:
    logger, quiet = logging.getLogger("tests.flooded"), OncePerMinute(every_s=60)
    times = iter([0.0, 1.0, 2.0, 59.0, 61.0, 62.0, 63.0])

    def at_its_time(record: logging.LogRecord) -> bool:
        record.created = next(times)
        return True

    logger.addFilter(at_its_time)
    logger.addFilter(quiet)
    try:
        for text in ("bad %d", "bad %d", "other %d", "bad %d", "bad %d", "bad %d", "other %d"):
            logger.warning(text, 7)
    finally:
        logger.removeFilter(at_its_time)
        logger.removeFilter(quiet)
    assert [record.getMessage() for record in caplog.records] == [
        "bad 7",
        "other 7",
        "bad 7 (2 times more since the last line)",
        "other 7",
    ]
