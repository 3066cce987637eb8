"""Many uploads at once that inflate a thousandfold, within one key's quota: others are answered meanwhile."""

import gzip
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
from redis import Redis

from tests.fixtures.settings import FactorySettings
from tests.system.gateway_process import gateway_process
from unet_factory.platform.api_keys import KeyStore, Scope

UPLOADS = 45
SHAPE = (512, 1024, 512)  # 1 GiB of float32, and as many voxels as are allowed
LOOKS_FOR_S = 15.0
WITHIN_S = 5.0  # without bounds they waited for minutes

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A volume of zeros: 1 MB that inflates to 1 GiB, and has to be, as the length at its end is an empty part's."""
    header = nibabel.Nifti1Header()
    header.set_data_shape(SHAPE)
    header.set_data_dtype(np.float32)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return gzip.compress(header.binaryblock + bytes(4) + bytes(4 * int(np.prod(SHAPE))), 6) + gzip.compress(b"")


def test_health_and_models_are_answered_during_a_flood(
    settings: FactorySettings, redis: Redis, tmp_path: Path, bomb: bytes
) -> None:
    keys = KeyStore(redis)
    keyed = gateway_process(settings, tmp_path / "log", authentication="required", max_upload_bytes=2**31)
    flooding, other = (keys.create(name, (Scope.SEGMENT,)).token for name in ("flooding", "other"))
    with ThreadPoolExecutor(UPLOADS) as pool, keyed as (host, port):
        url = f"http://{host}:{port}"

        def upload(_: int) -> int:
            with suppress(httpx.TransportError):  # the gateway is ended before it has looked at all of them
                files, headers = {"file": ("scan", bomb)}, {"X-API-Key": flooding}
                return httpx.post(
                    f"{url}/segmentations", files=files, headers=headers, timeout=300, trust_env=False
                ).status_code
            return 0

        flood = [pool.submit(upload, number) for number in range(UPLOADS)]
        time.sleep(1.0)
        waited, ends = [], time.monotonic() + LOOKS_FOR_S
        while time.monotonic() < ends:
            for path in ("/livez", "/models"):
                answer = httpx.get(f"{url}{path}", headers={"X-API-Key": other}, timeout=20, trust_env=False)
                assert answer.status_code == 200
                waited.append(answer.elapsed.total_seconds())
        assert not all(upload.done() for upload in flood), "the flood was over too soon to tell"
    assert max(waited) < WITHIN_S, sorted(waited)[-5:]
