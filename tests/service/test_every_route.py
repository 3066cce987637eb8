"""Every documented route, asked with made-up requests by every kind of key: it answers as documented, and never 500."""

from collections import Counter
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.service.keyed import Asker, KeyedGateway, keyed_gateway, small_scan
from unet_factory.platform.api_keys import Scope

KINDS = {"none": (), "read": (Scope.READ,), "segment": (Scope.SEGMENT, Scope.READ), "admin": (Scope.ADMIN,)}
EXAMPLES = {"none": 1, "read": 2, "segment": 3, "admin": 6}
HONEST = (501, 503, 507)  # of the answers from 500 on

STOW = 'multipart/related; type="application/dicom"'

pytestmark = pytest.mark.slow


@schemathesis.serializer(STOW)
def _parts(_context: object, value: Any) -> bytes:
    """Made-up bytes as instances."""
    parts = value if isinstance(value, list) else [value]
    return b"".join(b"--b\r\nContent-Type: application/dicom\r\n\r\n" + _octets(part) for part in parts) + b"--b--\r\n"


def _octets(part: Any) -> bytes:
    return (part if isinstance(part, bytes) else repr(part).encode()) + b"\r\n"


@pytest.fixture
def keyed(settings: FactorySettings, redis: Redis) -> Iterator[KeyedGateway]:
    with keyed_gateway(settings, redis, key_requests_per_minute=0, max_wait_s=0.2) as keyed:
        yield keyed


@pytest.mark.parametrize("kind", KINDS)
def test_it_answers_as_documented(keyed: KeyedGateway, kind: str, tmp_path: Path) -> None:
    asker = keyed.asker(*KINDS[kind]) if KINDS[kind] else None
    job_id = (asker or keyed.asker(Scope.SEGMENT)).submit(small_scan(tmp_path)).json().get("id", "0" * 32)
    document = httpx.get(f"{keyed.gateway.url}/openapi.json", trust_env=False).json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=keyed.gateway.url)
    wrong: Counter[str] = Counter()
    asked = 0
    operations: Any = schema.get_all_operations()
    for found in operations:
        asked += _ask(found.ok(), asker, job_id, EXAMPLES[kind], wrong)
    assert not wrong, dict(wrong)
    assert asked >= len(document["paths"])


def _ask(operation: Any, asker: Asker | None, job_id: str, examples: int, wrong: Counter[str]) -> int:
    """How many requests were made; what is not as documented is counted in ``wrong``."""
    documented = operation.definition.raw["responses"]
    headers = {"Authorization": f"Bearer {asker.token}"} if asker else {}
    numbers = count()

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        if next(numbers) % 2 and "job_id" in case.path_parameters:
            case.path_parameters["job_id"] = job_id
        boundary = {"Content-Type": f"{STOW}; boundary=b"} if case.media_type == STOW else {}
        answer = case.call(headers=headers | boundary, timeout=30)
        status = answer.status_code
        media_type = answer.headers.get("content-type", [""])[0].partition(";")[0]
        if str(status) not in documented or (status >= 500 and status not in HONEST):
            wrong[f"{operation.label} {status}: {answer.text[:200]}"] += 1
        elif status >= 400 and media_type not in documented[str(status)]["content"]:
            wrong[f"{operation.label} {status} is {media_type}"] += 1

    ask()
    return next(numbers)
