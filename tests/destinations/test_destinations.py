"""The operator's file: what is right is understood, what is wrong is named with its place, secrets stay outside."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from unet_factory.destinations import Destinations
from unet_factory.domain.errors import DestinationsInvalid, DestinationUnknown
from unet_factory.domain.jobs import DeliveryKind

GOOD: dict[str, Any] = {
    "pacs": {
        "main": {
            "dicomweb": {
                "url": "https://pacs.example/dicom-web",
                "wado_prefix": "wado",
                "auth": {"basic": {"username": "factory", "password": {"env": "PACS_PASSWORD"}}},
            },
            "dimse": {"host": "pacs.example", "called_aet": "MAIN PACS"},
        },
        "archive": {"dimse": {"host": "10.0.0.2", "port": 11112, "called_aet": "ARCHIVE"}, "results_to": ["main"]},
    },
    "webhooks": {"allow": ["hooks.example.org", "10.1.0.0/16"], "secrets": [{"file": "/run/secrets/webhook"}]},
}


def test_without_a_file_nothing_is_configured() -> None:
    destinations = Destinations.load(None)
    assert destinations.pacs == {}
    with pytest.raises(DestinationUnknown, match="none"):
        destinations.archive("main")


def test_a_good_file_is_understood(tmp_path: Path) -> None:
    destinations = load(tmp_path, GOOD)
    assert destinations.archive("main").push_kind is DeliveryKind.DICOMWEB
    assert destinations.archive("archive").push_kind is DeliveryKind.DIMSE
    assert destinations.results_of("main") == ("main",)
    assert destinations.results_of("archive") == ("main",)
    assert destinations.source("main").url == "https://pacs.example/dicom-web"
    with pytest.raises(DestinationUnknown, match="no DICOMweb to fetch series from; with DICOMweb there is main"):
        destinations.source("archive")
    with pytest.raises(DestinationUnknown, match="are archive, main"):
        destinations.archive("other")


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("pacs.main.dicomweb.url", "ftp://pacs.example", r"pacs\.main\.dicomweb\.url"),
        ("pacs.main.dicomweb.url", "https://user:secret@pacs.example", r"pacs\.main\.dicomweb\.url"),
        ("pacs.main.dicomweb.password", "secret", r"pacs\.main\.dicomweb\.password"),
        ("pacs.main.dicomweb.auth.basic.password", "secret", r"auth\.basic\.password"),
        ("pacs.main.dicomweb.auth.basic.password", {"env": "A", "file": "b"}, "either a file or an environment"),
        ("pacs.main.dicomweb.auth.bearer", {"env": "A"}, "either basic or bearer"),
        ("pacs.main.dimse.port", 0, r"pacs\.main\.dimse\.port"),
        ("pacs.main.dimse.called_aet", "SEVENTEEN LETTERS", r"pacs\.main\.dimse\.called_aet"),
        ("pacs.main.dimse.called_aet", "   ", r"pacs\.main\.dimse\.called_aet"),
        ("pacs.archive.push", "dicomweb", r"pacs\.archive.*not configured"),
        ("pacs.archive.push", "webhook", r"pacs\.archive.*must be dicomweb or dimse"),
        ("pacs.archive.results_to", ["elsewhere"], "elsewhere"),
        ("pacs.archive.dimse", None, r"pacs\.archive.*needs dicomweb, dimse or both"),
        ("pacs.Big Name", {"dimse": {"host": "a", "called_aet": "B"}}, "is not a valid name"),
        ("webhooks.allow", ["https://hooks.example.org/"], r"webhooks.*neither a host"),
        ("webhooks.allow", ["10.1.0.1/16"], r"webhooks.*host bits"),
        ("webhooks.secrets", [], r"webhooks.*at least one secret"),
        ("webhooks.schemes", ["gopher"], r"webhooks\.schemes.*http or https"),
        ("webooks", {}, "webooks"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tmp_path: Path, path: str, value: object, said: str) -> None:
    document = yaml.safe_load(yaml.safe_dump(GOOD))
    *parents, last = path.split(".")
    place = document
    for name in parents:
        place = place[name]
    place[last] = value
    with pytest.raises(DestinationsInvalid, match=said) as refusal:
        load(tmp_path, document)
    assert "secret" not in str(refusal.value).replace("at least one secret", "")


@pytest.mark.parametrize("text", ["pacs: [", "- a", "\x00"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.yml").write_text(text)
    with pytest.raises(DestinationsInvalid, match=r"file\.yml"):
        Destinations.load(tmp_path / "file.yml")


def test_secrets_are_read_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("from the file\n")
    secrets = [{"file": str(tmp_path / "secret")}, {"env": "A"}, {"env": "B"}, {"file": str(tmp_path / "none")}]
    in_file, in_env, empty, missing = load(
        tmp_path, {"webhooks": {"allow": ["a"], "secrets": secrets}}
    ).webhooks.secrets
    assert in_file.read() == "from the file"
    assert in_env.read({"A": "from the environment"}) == "from the environment"
    for reference in (empty, missing):
        with pytest.raises(DestinationsInvalid):
            reference.read({"B": ""})


def load(folder: Path, document: dict[str, Any]) -> Destinations:
    (folder / "file.yml").write_text(yaml.safe_dump(document))
    return Destinations.load(folder / "file.yml")
