"""URLs of Sentinels; what they lead to is tested by a failover in tests/system."""

import pytest
from pydantic import ValidationError

from unet_factory.platform.redis_url import as_celery_spells_it
from unet_factory.platform.settings import Settings


def test_celery_is_told_of_every_sentinel_and_of_the_service() -> None:
    url, options = as_celery_spells_it("redis+sentinel://me:p%40ss@a:1,b:2,[::1]/jobs/3")
    assert url == "sentinel://me:p%40ss@a:1/3;sentinel://me:p%40ss@b:2/3;sentinel://me:p%40ss@::1:26379/3"
    assert options["master_name"] == "jobs"


@pytest.mark.parametrize(
    ("url", "celery"),
    [
        ("redis://a:1/2", "redis://a:1/2"),
        ("unix:///run/redis", "redis+socket:///run/redis"),
        ("rediss://a", "rediss://a"),
    ],
)
def test_other_urls_lead_to_one_server(url: str, celery: str) -> None:
    assert as_celery_spells_it(url) == (celery, {})


@pytest.mark.parametrize("url", ["redis+sentinel://a:1", "redis+sentinel:///jobs", "redis+sentinel://a/jobs/first"])
def test_a_url_that_names_no_service_or_no_sentinel_is_refused(url: str) -> None:
    with pytest.raises(ValidationError, match=r"redis\+sentinel://HOST:PORT"):
        Settings(redis_url=url)
