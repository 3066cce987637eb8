"""A hospital: a real archive, a real series, real clients; the answer appears where radiologists look for it."""

import io
import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from dicomweb_client import DICOMwebClient
from pydicom import Dataset, dcmread

from tests.fixtures.project import PROJECT
from tests.system.hospital import Mask, as_nifti, copied, labelmap, oriented, read_slices, saved, segmented, variant
from tests.system.orthanc import PLUGINS, Orthanc, needs_orthanc, with_defaults
from tests.system.processes import free_port, until
from tests.system.serve_process import ServeProcess, environment
from unet_factory_client import SegmentationParameters

SERIES = PROJECT / "examples" / "dicom" / "PGBM-002_HippoCrop"
ORTHANC = PROJECT / "deploy" / "orthanc"
PATIENCE_S = 120.0
MANY = 20
MODEL = "hippocampus-mr"

needs_hospital = pytest.mark.skipif(
    shutil.which("storescu") is None or not (PLUGINS / "libOrthancPython.so").exists(),
    reason="needs the Debian packages dcmtk and orthanc-python",
)
pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(300), needs_orthanc, needs_hospital]


@dataclass(frozen=True)
class Hospital:
    """``expected`` is the mask that the factory makes of the series as NIfTI."""

    factory: ServeProcess
    archive: Orthanc
    slices: list[Dataset]
    expected: Mask
    folder: Path

    @property
    def dicomweb(self) -> DICOMwebClient:
        return DICOMwebClient(f"{self.factory.url}/dicomweb")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder = tmp_path_factory.mktemp("hospital")
    archive = Orthanc(folder / "orthanc", free_port(), free_port())
    archive.folder.mkdir()
    factory = ServeProcess(folder, PROJECT / "models", **_settings(folder, archive))
    try:
        archive.settings = _archive_settings(factory.url)
        archive.start()
        nifti = as_nifti(SERIES, folder / "series.nii.gz")
        yield Hospital(factory, archive, read_slices(SERIES), _segmented_by(factory, nifti), folder)
        assert factory.stop() == 0, factory.log
    finally:
        archive.stop()
        factory.kill()


def _settings(folder: Path, archive: Orthanc) -> dict[str, object]:
    destinations, routing = folder / "destinations.yml", folder / "routing.yml"
    destinations.write_text(yaml.safe_dump({"pacs": {"orthanc": {"dicomweb": {"url": archive.dicomweb_url}}}}))
    sent, kept = ({"modality": "MR", "series_description": pattern} for pattern in ("^Hippo", "^kept$"))
    rules = [{"match": sent, "model": MODEL, "send_to": ["orthanc"]}, {"match": kept, "model": MODEL}]
    routing.write_text(yaml.safe_dump({"rules": rules}))
    quick = {"series_quiet_s": 0.5, "delivery_backoff_s": 0.2, "delivery_backoff_max_s": 1.0}
    return quick | {"destinations": destinations, "routing": routing, "device": "cpu", "threads": 1}


def _archive_settings(factory_url: str) -> dict[str, Any]:
    """What operators get, with this machine's places in it."""
    shipped = json.loads(with_defaults((ORTHANC / "orthanc.json").read_text()))
    web = shipped["DicomWeb"]
    web["Servers"]["factory"]["Url"] = f"{factory_url}/dicomweb"
    return {
        "Plugins": [str(PLUGINS / name) for name in ("libOrthancDicomWeb.so", "libOrthancPython.so")],
        "PythonScript": str(ORTHANC / Path(shipped["PythonScript"]).name),
        "PythonVerbose": False,
        "UnetFactory": shipped["UnetFactory"],
        "DicomWeb": web,
    }


def test_what_comes_into_the_archive_gets_its_segmentation_and_report_beside_it(hospital: Hospital) -> None:
    archive, study = hospital.archive, hospital.slices[0].StudyInstanceUID
    sent = ["storescu", "-aec", "ORTHANC", "127.0.0.1", str(archive.dicom_port), "+sd", str(SERIES)]
    subprocess.run(sent, check=True)
    until(lambda: archive.modalities(study) == ["MR", "SEG", "SR"], PATIENCE_S)
    seg, report = (of_modality(archive, study, modality) for modality in ("SEG", "SR"))
    check_segmentation(seg, hospital)
    assert (report.StudyInstanceUID, report.PatientID) == (study, seg.PatientID)
    assert seg.SOPInstanceUID in report.to_json()
    held = archive.instances()
    assert len(held) == len(hospital.slices) + 2


def test_the_results_are_found_and_fetched_at_the_factory_too(hospital: Hospital) -> None:
    client, study = hospital.dicomweb, hospital.slices[0].StudyInstanceUID
    until(lambda: client.search_for_studies(search_filters={"StudyInstanceUID": study}), PATIENCE_S)
    series = client.search_for_series(study, search_filters={"Modality": "SEG"})
    assert series
    (instance,) = client.search_for_instances(study, series[0]["0020000E"]["Value"][0])
    uids = study, instance["0020000E"]["Value"][0], instance["00080018"]["Value"][0]
    check_segmentation(client.retrieve_instance(*uids), hospital)
    (metadata,) = client.retrieve_series_metadata(*uids[:2])
    assert metadata["00080060"]["Value"] == ["SEG"]
    assert len(client.retrieve_study(study)) >= 2
    server = f"{hospital.archive.url}/dicom-web/servers/factory"
    asked = {"Uri": f"/studies/{study}/series", "Arguments": {"Modality": "SR"}}
    assert httpx.post(f"{server}/qido", json=asked, timeout=30).raise_for_status().json()
    wanted = {"Resources": [{"Study": study, "Series": uids[1]}], "Synchronous": True}
    assert httpx.post(f"{server}/retrieve", json=wanted, timeout=30).is_success


def test_by_stow_and_by_zip_and_by_dimse_the_mask_is_the_same(hospital: Hospital, tmp_path: Path) -> None:
    by_stow, by_dimse = (copied(hospital.slices, SeriesDescription="kept") for _ in range(2))
    hospital.dicomweb.store_instances(by_stow)
    with listener(hospital, tmp_path) as port:
        sent = ["storescu", "-aec", "UNETFACTORY", "-aet", "SCANNER", "127.0.0.1", str(port), "+sd"]
        subprocess.run([*sent, str(saved(by_dimse, tmp_path / "by_dimse"))], check=True)
        for series in (by_stow, by_dimse):
            assert np.array_equal(result_of(hospital, series), hospital.expected)
    archive = tmp_path / "series.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in SERIES.glob("*.dcm"):
            packed.write(file, file.name)
    assert np.array_equal(_segmented_by(hospital.factory, archive), hospital.expected)


def test_an_archive_that_stops_during_the_push_gets_everything_after_its_return(hospital: Hospital) -> None:
    series = copied(hospital.slices)
    study = series[0].StudyInstanceUID
    hospital.archive.stop()
    hospital.dicomweb.store_instances(series)
    result_of(hospital, series)
    hospital.archive.start()
    until(lambda: hospital.archive.modalities(study) == ["SEG", "SR"], PATIENCE_S)


def test_twenty_series_at_once_are_all_answered_and_none_is_mixed_up(hospital: Hospital, tmp_path: Path) -> None:
    series = [variant(hospital.slices, index) for index in range(MANY)]
    for one in series:
        hospital.dicomweb.store_instances(one)
    niftis = [as_nifti(saved(one, tmp_path / str(k)), tmp_path / f"{k}.nii.gz") for k, one in enumerate(series)]
    with hospital.factory.client as client:
        jobs = [client.submit(nifti).id for nifti in niftis]
        expected = []
        for job_id in jobs:
            client.wait(job_id)
            expected.append(labelmap(client.labelmap(job_id, tmp_path / "labels.nii.gz")))
    assert len({mask.tobytes() for mask in expected}) == MANY
    for one, mask in zip(series, expected, strict=True):
        study = one[0].StudyInstanceUID
        until(lambda study=study: hospital.archive.modalities(study) == ["SEG", "SR"], PATIENCE_S)  # type: ignore[misc]
        seg = of_modality(hospital.archive, study, "SEG")
        assert (seg.PatientID, seg.FrameOfReferenceUID) == (one[0].PatientID, one[0].FrameOfReferenceUID)
        assert np.array_equal(oriented(segmented(seg, one), one), mask)


def test_no_uid_and_no_patient_reaches_the_log_or_the_metrics(hospital: Hospital) -> None:
    told = hospital.factory.log + httpx.get(f"{hospital.factory.url}/metrics", trust_env=False).text
    one = hospital.slices[0]
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "PatientID", "PatientName"):
        assert str(one[keyword].value) not in told, keyword
    assert "VARIANT-" not in told


def check_segmentation(seg: Dataset, hospital: Hospital) -> None:
    """In the same place, of the same patient, with the model's codes, and voxel for voxel what NIfTI gives."""
    source = hospital.slices[0]
    for keyword in ("StudyInstanceUID", "PatientID", "PatientName", "FrameOfReferenceUID", "AccessionNumber"):
        assert seg.get(keyword) == source.get(keyword), keyword
    assert seg.SeriesInstanceUID != source.SeriesInstanceUID
    referenced = seg.ReferencedSeriesSequence[0]
    assert referenced.SeriesInstanceUID == source.SeriesInstanceUID
    codes = {segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in seg.SegmentSequence}
    with hospital.factory.client as client:
        (model,) = [model for model in client.models() if model.name == MODEL]
    assert codes == {label.code[1] for label in model.labels if label.value > 0 and label.code}
    assert np.array_equal(oriented(segmented(seg, hospital.slices), hospital.slices), hospital.expected)


def of_modality(archive: Orthanc, study: str, modality: str) -> Dataset:
    """The study's one object of a modality, as the archive hands it out."""
    query = {"Level": "Instance", "Query": {"StudyInstanceUID": study, "Modality": modality}}
    (found,) = httpx.post(f"{archive.url}/tools/find", json=query, timeout=30).raise_for_status().json()
    content = httpx.get(f"{archive.url}/instances/{found}/file", timeout=30).raise_for_status().content
    return dcmread(io.BytesIO(content))


def result_of(hospital: Hospital, series: list[Dataset]) -> Mask:
    """What the factory's own DICOMweb says of a series that it received."""
    study = series[0].StudyInstanceUID
    client = hospital.dicomweb
    found = until(lambda: client.search_for_instances(study, search_filters={"Modality": "SEG"}), PATIENCE_S)
    seg = client.retrieve_instance(study, found[0]["0020000E"]["Value"][0], found[0]["00080018"]["Value"][0])
    return oriented(segmented(seg, series), series)


@contextmanager
def listener(hospital: Hospital, folder: Path) -> Iterator[int]:
    """A real one; its port."""
    port, log = free_port(), folder / "listener.log"
    arguments = ["--allow", "SCANNER", "--port", str(port), "--spool", str(folder / "spool"), "--quiet", "0.5"]
    command = [sys.executable, "-m", "unet_factory_cli", "dicom-listen", *arguments, "--url", hospital.factory.url]
    with log.open("wb") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=environment())
    try:
        until(lambda: "listening" in log.read_text() or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield port
        process.terminate()
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def _segmented_by(factory: ServeProcess, scan: Path) -> Mask:
    target = scan.with_name(f"labels-of-{scan.name.partition('.')[0]}.nii.gz")
    with factory.client as client:
        client.segment(scan, target, SegmentationParameters(model=MODEL))
    return labelmap(target)
