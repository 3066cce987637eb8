"""Fields on every line of a block; and what peers can provoke leaves one line in a while, with a count."""

import json
import logging
import threading
from contextvars import copy_context
from typing import Literal

import pytest

from unet_factory.platform.logs import OncePerMinute, add_log_field, configure_logging, log_fields


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


@pytest.mark.parametrize("style", ["json", "plain"])
def test_lines_of_a_block_have_its_fields_also_those_added_in_a_thread(
    style: Literal["json", "plain"], capsys: pytest.CaptureFixture[str]
) -> None:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    try:
        configure_logging(style)
        with log_fields(request="first", job=""):
            thread = threading.Thread(target=copy_context().run, args=(add_log_field, "job", "0af"))
            thread.start()
            thread.join()
            logging.getLogger("tests.fields").info("inside")
        logging.getLogger("tests.fields").info("outside")
    finally:
        root.handlers[:], root.level = before
    inside, outside = capsys.readouterr().err.splitlines()
    if style == "json":
        assert {"request": "first", "job": "0af", "message": "inside"}.items() <= json.loads(inside).items()
        assert not {"request", "job"} & json.loads(outside).keys()
    else:
        assert "INFO tests.fields request=first job=0af: inside" in inside
        assert "INFO tests.fields: outside" in outside
