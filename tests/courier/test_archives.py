"""Pushes to and pulls from archives: a real Orthanc for what is right, scripted ones for what goes wrong."""

import gc
import json
import logging
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import MRImageStorage, generate_uid
from pynetdicom import AE, evt

from tests.courier.conftest import Configure, Finish, Run, Submit, worked_off
from tests.fixtures.dicom_files import mr_series, saved
from tests.fixtures.settings import FactorySettings
from tests.fixtures.webhook_receiver import receiving
from tests.system.orthanc import AE_TITLE, Orthanc, needs_orthanc
from tests.system.processes import free_port
from unet_factory.destinations import Destinations, DicomWeb, Dimse
from unet_factory.domain.jobs import Delivery, DeliveryKind, DeliveryState, JobState, PacsSeries
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore
from unet_factory.volume import read_header
from unet_factory_courier import dicomweb, dimse
from unet_factory_courier.courier_role import quiet_libraries
from unet_factory_courier.outcomes import GiveUp, TryAgain

Store = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc.running(tmp_path_factory.mktemp("orthanc")) as orthanc:
        yield orthanc


@pytest.fixture
def archives(configure: Configure, orthanc: Orthanc) -> Destinations:
    """The same Orthanc over both protocols."""
    dimse_side = {"host": "127.0.0.1", "port": orthanc.dicom_port, "called_aet": AE_TITLE}
    return configure({"pacs": {"web": {"dicomweb": {"url": orthanc.dicomweb_url}}, "old": {"dimse": dimse_side}}})


@pytest.fixture
def results(blobs: BlobStore, tmp_path: Path) -> Store:
    """Puts two DICOM objects where a worker leaves its results; returns their UIDs."""

    def put(job_id: str) -> list[str]:
        first, second = mr_series(2)
        for name, dataset in (("seg.dcm", first), ("report.dcm", second)):
            dataset.save_as(tmp_path / name, enforce_file_format=True)
            blobs.put(job_id, name, tmp_path / name)
        return sorted([first.SOPInstanceUID, second.SOPInstanceUID])

    return put


def push(kind: DeliveryKind) -> Delivery:
    return Delivery(kind=kind, destination="web" if kind is DeliveryKind.DICOMWEB else "old")


@needs_orthanc
@pytest.mark.parametrize("kind", [DeliveryKind.DICOMWEB, DeliveryKind.DIMSE])
def test_results_arrive_and_may_arrive_twice(
    orthanc: Orthanc,
    archives: Destinations,
    dispatcher: Run,
    submit: Submit,
    finish: Finish,
    results: Store,
    jobs: JobStore,
    deliveries: DeliveryStore,
    kind: DeliveryKind,
) -> None:
    job_id = submit(push(kind))
    uids, before = results(job_id), orthanc.instances()
    finish(job_id)
    courier = dispatcher(archives)
    (delivery,) = worked_off(courier, jobs, job_id)
    assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 1), delivery.last_error
    assert orthanc.instances() == sorted([*before, *uids])
    deliveries.replay(f"{job_id}-0")
    (delivery,) = worked_off(courier, jobs, job_id)
    assert delivery.state is DeliveryState.DELIVERED
    assert orthanc.instances() == sorted([*before, *uids])


@pytest.mark.parametrize("kind", [DeliveryKind.DICOMWEB, DeliveryKind.DIMSE])
@pytest.mark.parametrize("state", [JobState.FAILED, JobState.SUCCEEDED])
def test_without_a_dicom_result_there_is_nothing_to_push(
    configure: Configure,
    dispatcher: Run,
    submit: Submit,
    finish: Finish,
    jobs: JobStore,
    kind: DeliveryKind,
    state: JobState,
) -> None:
    destinations = configure(
        {
            "pacs": {
                "web": {"dicomweb": {"url": "http://127.0.0.1:9"}},
                "old": {"dimse": {"host": "127.0.0.1", "called_aet": "X"}},
            }
        }
    )
    job_id = submit(push(kind))
    finish(job_id, state)
    (delivery,) = worked_off(dispatcher(destinations), jobs, job_id)
    assert (delivery.state, delivery.attempts) == (DeliveryState.SKIPPED, 1)


def answer(*reasons: int | None) -> bytes:
    """A store's answer in which one instance is stored and some are not."""
    failed = [{} if reason is None else {"00081197": {"vr": "US", "Value": [reason]}} for reason in reasons]
    document: dict[str, Any] = {"00081199": {"vr": "SQ", "Value": [{}]}}
    return json.dumps(document | ({"00081198": {"vr": "SQ", "Value": failed}} if failed else {})).encode()


@pytest.mark.parametrize(
    ("status", "body", "ends"),
    [
        (200, answer(), None),
        (200, b"", None),
        (202, answer(0x0111), None),
        (409, answer(0x0111, 0x0111), None),
        (200, answer(0xA900), GiveUp),
        (202, answer(0xA900), GiveUp),
        (409, answer(0x0122), GiveUp),
        (202, answer(0xA700), TryAgain),
        (202, answer(0x0110, 0xA900), TryAgain),
        (409, answer(None), TryAgain),
        (202, b"", TryAgain),
        (409, b"<xml/>", TryAgain),
        (500, b"", TryAgain),
        (503, b"", TryAgain),
        (401, b"", TryAgain),
        (400, b"", GiveUp),
        (415, b"", GiveUp),
        (302, b"", GiveUp),
    ],
)
def test_an_archive_s_answer_is_judged_instance_by_instance(
    tmp_path: Path, status: int, body: bytes, ends: type[Exception] | None
) -> None:
    files = saved(mr_series(2), tmp_path / "results")
    headers = [("Content-Type", "application/dicom+json; charset=utf-8"), ("Location", "http://127.0.0.1:9/")]
    with receiving(status, body=body, headers=headers) as archive:
        where = DicomWeb(url=f"http://127.0.0.1:{archive.port}/dicom-web")
        if ends is None:
            dicomweb.store(where, files)
        else:
            with pytest.raises(ends):
                dicomweb.store(where, files)
        assert [path for path, _, _ in archive.requests] == ["/dicom-web/studies"]


def test_credentials_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = saved(mr_series(1), tmp_path / "results")
    monkeypatch.setenv("PASSWORD", "a secret")
    auths = {
        "Basic dXM6YSBzZWNyZXQ=": {"basic": {"username": "us", "password": {"env": "PASSWORD"}}},
        "Bearer a secret": {"bearer": {"env": "PASSWORD"}},
    }
    for header, auth in auths.items():
        with receiving(200) as archive:
            url = f"http://127.0.0.1:{archive.port}"
            dicomweb.store(DicomWeb.model_validate({"url": url, "auth": auth}), files)
            assert archive.requests[0][1]["authorization"] == header


@contextmanager
def scripted_scp(*statuses: int) -> Iterator[Dimse]:
    """An archive that answers C-STORE with these in turn; negative: it aborts."""
    answers = iter(statuses)

    def store(event: evt.Event) -> int:
        status = next(answers)
        if status < 0:
            event.assoc.abort()
        return abs(status)

    entity, port = AE("SCP"), free_port()
    entity.add_supported_context(MRImageStorage)
    server = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        yield Dimse(host="127.0.0.1", port=port, called_aet="SCP", timeout_s=5)
    finally:
        server.shutdown()


@pytest.mark.parametrize(
    ("statuses", "ends"),
    [
        ((0x0000, 0x0000), None),
        ((0xB000, 0x0111), None),
        ((0x0000, 0xA700), TryAgain),
        ((0x0000, 0x0110), TryAgain),
        ((0x0000, 0xA900), GiveUp),
        ((0xC000, 0x0000), GiveUp),
        ((0x0000, -1), TryAgain),
    ],
)
def test_c_store_statuses_are_judged(tmp_path: Path, statuses: tuple[int, ...], ends: type[Exception] | None) -> None:
    files = saved(mr_series(2), tmp_path / "results")
    with scripted_scp(*statuses) as archive:
        if ends is None:
            dimse.store(archive, files)
        else:
            with pytest.raises(ends):
                dimse.store(archive, files)


def test_an_archive_that_takes_no_such_instances_is_not_asked_again(tmp_path: Path) -> None:
    dataset = mr_series(1)[0]
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.66.4"
    with scripted_scp() as archive, pytest.raises(GiveUp, match="does not accept such instances"):
        dimse.store(archive, saved([dataset], tmp_path / "results"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # pynetdicom leaves its socket to gc
def test_nobody_at_the_archive_s_port_is_waited_for(tmp_path: Path) -> None:
    files = saved(mr_series(1), tmp_path / "results")
    with pytest.raises(TryAgain):
        dimse.store(Dimse(host="127.0.0.1", port=free_port(), called_aet="X", timeout_s=2), files)
    gc.collect()
    with pytest.raises(TryAgain):
        dicomweb.store(DicomWeb(url=f"http://127.0.0.1:{free_port()}"), files)


FETCH = Delivery(kind=DeliveryKind.FETCH, destination="web")


@needs_orthanc
def test_a_series_is_fetched_packed_checked_and_published(
    orthanc: Orthanc,
    archives: Destinations,
    dispatcher: Run,
    submit: Submit,
    jobs: JobStore,
    blobs: BlobStore,
    published: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quiet_libraries()
    wanted = mr_series(6)
    other = mr_series(3, seed=1, StudyInstanceUID=wanted[0].StudyInstanceUID)
    orthanc.upload_folder(saved([*wanted, *other], tmp_path / "study")[0].parent)
    series = PacsSeries(pacs="web", study_uid=wanted[0].StudyInstanceUID, series_uid=wanted[0].SeriesInstanceUID)
    with caplog.at_level(logging.DEBUG):
        job_id = submit(fetch=FETCH, series=series)
        worked_off(dispatcher(archives), jobs, job_id)
    job = jobs.get(job_id)
    assert job.fetch is not None
    assert (job.state, job.fetch.state) == (JobState.QUEUED, DeliveryState.DELIVERED), job.error
    assert job.spacing.native == (1, 1, 2)
    assert published == [job_id]
    with blobs.local(job_id, "input.zip") as packed:
        assert read_header(packed).shape == (16, 16, 6)
        with zipfile.ZipFile(packed) as archive:
            fetched = [dcmread(archive.open(name)) for name in archive.namelist()]
    assert {at.SOPInstanceUID: at.PixelData for at in fetched} == {at.SOPInstanceUID: at.PixelData for at in wanted}
    for uid in (series.study_uid, series.series_uid, wanted[0].SOPInstanceUID):
        assert uid not in caplog.text


@needs_orthanc
def test_a_series_that_is_not_there_fails_the_job_at_once(
    archives: Destinations, dispatcher: Run, submit: Submit, jobs: JobStore, published: list[str]
) -> None:
    series = PacsSeries(pacs="web", study_uid=generate_uid(), series_uid=generate_uid())
    job_id = submit(fetch=FETCH, series=series)
    worked_off(dispatcher(archives), jobs, job_id)
    job = jobs.get(job_id)
    assert job.error is not None
    assert job.fetch is not None
    assert (job.state, job.fetch.attempts, published) == (JobState.FAILED, 1, [])
    assert job.error.type.endswith(":series-not-found")
    assert series.series_uid not in job.model_dump_json()


@needs_orthanc
def test_a_series_that_cannot_be_segmented_fails_the_job_as_an_upload_of_it_would(
    orthanc: Orthanc, archives: Destinations, dispatcher: Run, submit: Submit, jobs: JobStore, tmp_path: Path
) -> None:
    gap = mr_series(8)
    del gap[4]
    orthanc.upload_folder(saved(gap, tmp_path / "study")[0].parent)
    series = PacsSeries(pacs="web", study_uid=gap[0].StudyInstanceUID, series_uid=gap[0].SeriesInstanceUID)
    job_id = submit(fetch=FETCH, series=series)
    worked_off(dispatcher(archives), jobs, job_id)
    job = jobs.get(job_id)
    assert job.error is not None
    assert (job.state, job.error.type.rpartition(":")[2]) == (JobState.FAILED, "slices-missing")


def test_an_archive_that_stays_away_fails_the_job_in_the_end(
    configure: Configure, dispatcher: Run, submit: Submit, jobs: JobStore, settings: FactorySettings
) -> None:
    destinations = configure({"pacs": {"web": {"dicomweb": {"url": f"http://127.0.0.1:{free_port()}"}}}})
    job_id = submit(fetch=FETCH, series=PacsSeries(pacs="web", study_uid="1.2", series_uid="1.2.3"))
    worked_off(dispatcher(destinations), jobs, job_id)
    job = jobs.get(job_id)
    assert job.error is not None
    assert job.fetch is not None
    assert (job.state, job.fetch.attempts) == (JobState.FAILED, settings.delivery_attempts)
    assert job.error.type.endswith(":fetch-failed")


def test_an_incomplete_or_foreign_answer_is_not_taken_for_the_series(tmp_path: Path) -> None:
    """An archive whose connection breaks, or that hands out a different series or too much."""
    wanted = mr_series(4)
    series = PacsSeries(pacs="web", study_uid=wanted[0].StudyInstanceUID, series_uid=wanted[0].SeriesInstanceUID)
    limit = 2**20
    with serving(wanted, announced=4) as archive:
        assert len(dicomweb.fetch(archive, series, fresh(tmp_path / "a"), limit)) == 4
    with serving(mr_series(4), announced=4) as archive, pytest.raises(GiveUp, match="a different series"):
        dicomweb.fetch(archive, series, fresh(tmp_path / "c"), limit)
    with serving(wanted, announced=4) as archive, pytest.raises(GiveUp, match="more than 100 bytes"):
        dicomweb.fetch(archive, series, fresh(tmp_path / "d"), 100)
    with serving(wanted, announced=4, cut=700) as archive, pytest.raises(TryAgain):
        dicomweb.fetch(archive, series, fresh(tmp_path / "e"), limit)


@pytest.mark.parametrize(("announced", "waits"), [(4, False), (5, True)])
def test_what_an_archive_counts_but_does_not_hand_out_is_told_and_not_waited_for_for_ever(
    configure: Configure,
    dispatcher: Run,
    submit: Submit,
    jobs: JobStore,
    published: list[str],
    announced: int,
    waits: bool,
) -> None:
    """The entries of other series in its answer do not count."""
    wanted = mr_series(4)
    series = PacsSeries(pacs="web", study_uid=wanted[0].StudyInstanceUID, series_uid=wanted[0].SeriesInstanceUID)
    with serving(wanted, announced) as archive:
        job_id = submit(fetch=FETCH, series=series)
        worked_off(dispatcher(configure({"pacs": {"web": {"dicomweb": {"url": archive.url}}}})), jobs, job_id)
    job = jobs.get(job_id)
    assert job.fetch is not None
    assert (job.fetch.state, published) == (DeliveryState.DELIVERED, [job_id])
    assert (job.fetch.attempts > 1) is waits
    assert [note for note in job.notes if "counts 5 instances in the series but sent 4" in note] == list(job.notes)
    assert bool(job.notes) is waits


@contextmanager
def serving(instances: list[Dataset], announced: int, cut: int | None = None) -> Iterator[DicomWeb]:
    """An archive whose one series holds these; ``cut``: the connection ends after so many bytes."""
    boundary = "boundary"
    parts = b"".join(
        f"\r\n--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + as_bytes(instance)
        for instance in instances
    )
    multipart = parts + f"\r\n--{boundary}--".encode()
    entries = [
        {"0020000E": {"vr": "UI", "Value": [uid]}, "00201209": {"vr": "IS", "Value": [count]}}
        for uid, count in ((generate_uid(), 500), (instances[0].SeriesInstanceUID, announced))
    ]
    listing = json.dumps(entries).encode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_listing = "?" in self.path
            body = listing if is_listing else multipart
            kind = "application/dicom+json" if is_listing else f'multipart/related; boundary="{boundary}"'
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body if is_listing else body[:cut])

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield DicomWeb(url=f"http://127.0.0.1:{server.server_address[1]}/dicom-web", timeout_s=5)
        server.shutdown()
        thread.join()


def as_bytes(dataset: Dataset) -> bytes:
    with BytesIO() as file:
        dataset.save_as(file, enforce_file_format=True)
        return file.getvalue()


def fresh(folder: Path) -> Path:
    folder.mkdir()
    return folder
