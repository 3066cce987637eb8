"""Asking an archive whether it would work with us: a real Orthanc that does, and faults that an operator makes."""

import gc
from collections.abc import Callable, Iterator

import httpx
import pytest

from tests.system.orthanc import AE_TITLE, Orthanc, needs_orthanc
from tests.system.processes import free_port
from unet_factory.destinations import DicomWeb, Dimse
from unet_factory_courier.outcomes import TryAgain
from unet_factory_courier.probes import echo, offer, search

pytestmark = needs_orthanc


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    users = {"AuthenticationEnabled": True, "RegisteredUsers": {"factory": "secret"}}
    with Orthanc.running(tmp_path_factory.mktemp("orthanc"), DicomCheckCalledAet=True, **users) as orthanc:
        yield orthanc


@pytest.fixture
def web(orthanc: Orthanc, monkeypatch: pytest.MonkeyPatch) -> DicomWeb:
    monkeypatch.setenv("ARCHIVE_PASSWORD", "secret")
    basic = {"username": "factory", "password": {"env": "ARCHIVE_PASSWORD"}}
    return DicomWeb.model_validate({"url": orthanc.dicomweb_url, "auth": {"basic": basic}, "timeout_s": 10})


def test_an_archive_that_works_is_asked_without_storing_anything(orthanc: Orthanc, web: DicomWeb) -> None:
    search(web)
    offer(web)
    echo(Dimse(host="127.0.0.1", port=orthanc.dicom_port, called_aet=AE_TITLE))
    assert httpx.get(f"{orthanc.url}/instances", auth=("factory", "secret"), timeout=10).json() == []


@pytest.mark.parametrize("ask", [search, offer])
def test_a_wrong_password_or_path_is_told(
    web: DicomWeb, monkeypatch: pytest.MonkeyPatch, ask: Callable[[DicomWeb], None]
) -> None:
    with pytest.raises(TryAgain, match="404"):
        ask(web.model_copy(update={"url": f"{web.url}-elsewhere"}))
    monkeypatch.setenv("ARCHIVE_PASSWORD", "another")
    with pytest.raises(TryAgain, match="401"):
        ask(web)
    with pytest.raises(TryAgain, match="cannot be reached"):
        ask(web.model_copy(update={"url": f"http://127.0.0.1:{free_port()}/dicom-web"}))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves its socket to gc
def test_a_wrong_title_or_port_is_told(orthanc: Orthanc) -> None:
    with pytest.raises(TryAgain, match="rejected"):
        echo(Dimse(host="127.0.0.1", port=orthanc.dicom_port, called_aet="SOMEBODY", timeout_s=10))
    with pytest.raises(TryAgain, match="no answer"):
        echo(Dimse(host="127.0.0.1", port=free_port(), called_aet=AE_TITLE, timeout_s=10))
    gc.collect()
