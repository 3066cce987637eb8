"""An implausible result stays here where its request says so; everything else is delivered."""

import json
from pathlib import Path

import pytest

from tests.courier.conftest import Configure, Run, Submit, webhooks, worked_off
from tests.fixtures.dicom_files import mr_series
from tests.fixtures.webhook_receiver import receiving
from unet_factory.domain.jobs import Delivery, DeliveryKind, DeliveryState, JobState
from unet_factory.domain.plausibility import Finding, ImplausiblePolicy
from unet_factory.jobs.lifecycle import JobLifecycle
from unet_factory.jobs.store import JobStore
from unet_factory.platform.blob_store import BlobStore

TOO_MUCH = Finding(what="volume_ml", label="posterior", value=150, expected=(0.693, 3.23))
REASON = "withheld as implausible: volume of posterior is 150 ml, expected 0.693 to 3.23 ml"


@pytest.mark.parametrize(
    ("policy", "findings", "withheld"),
    [
        (ImplausiblePolicy.WITHHOLD, (TOO_MUCH,), True),
        (ImplausiblePolicy.WITHHOLD, (), False),
        (ImplausiblePolicy.NOTE, (TOO_MUCH,), False),
    ],
)
def test_only_an_implausible_result_is_withheld(
    configure: Configure,
    dispatcher: Run,
    submit: Submit,
    lifecycle: JobLifecycle,
    jobs: JobStore,
    blobs: BlobStore,
    tmp_path: Path,
    policy: ImplausiblePolicy,
    findings: tuple[Finding, ...],
    withheld: bool,
) -> None:
    mr_series(1)[0].save_as(tmp_path / "seg.dcm", enforce_file_format=True)
    with receiving(200) as archive, receiving(200) as hook:
        url = f"http://127.0.0.1:{archive.port}"
        destinations = configure({"pacs": {"web": {"dicomweb": {"url": url}}}, **webhooks("127.0.0.1")})
        deliveries = (
            Delivery(kind=DeliveryKind.DICOMWEB, destination="web"),
            Delivery(kind=DeliveryKind.WEBHOOK, destination="127.0.0.1"),
        )
        job_id = submit(*deliveries, implausible=policy, callback_url=f"http://127.0.0.1:{hook.port}/")
        blobs.put(job_id, "seg.dcm", tmp_path / "seg.dcm")
        assert lifecycle.finish(job_id, "owner", JobState.SUCCEEDED, implausible=findings)
        pushed, called = worked_off(dispatcher(destinations), jobs, job_id)
        assert (pushed.state, pushed.last_error) == (
            (DeliveryState.SKIPPED, REASON) if withheld else (DeliveryState.DELIVERED, None)
        )
        assert bool(archive.requests) is not withheld
        assert called.state is DeliveryState.DELIVERED
        (_, _, body) = hook.requests[0]
        told = json.loads(body)["data"]["implausible"]
        assert told == [finding.model_dump(mode="json") for finding in findings]
