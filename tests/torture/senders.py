"""Clients that send series and fetch networks; see :mod:`tests.torture.clients` for those that submit scans."""

import httpx
from pydicom import Dataset
from pydicom.uid import MRImageStorage
from pynetdicom import AE

from tests.fixtures.dicom_files import as_bytes
from tests.torture.clients import TIMEOUT_S, Client, Surroundings, comes_back, sha256_of
from tests.torture.cluster import LISTENER_TITLE
from tests.torture.history import Operation
from tests.torture.inputs import MODEL, NETWORKS_MM, SERIES_KINDS, make_series

_UNANSWERED_SERIES = 6
_STOW = {"Content-Type": 'multipart/related; type="application/dicom"; boundary=b', "Accept": "application/dicom+json"}


class SeriesSender(Client):
    """Sends series that are each new; what becomes of them is seen at the archive."""

    f = ""

    def __init__(self, name: str, seed: int, around: Surroundings) -> None:
        super().__init__(name, seed, around)
        self._sent: list[str] = []

    def run_once(self) -> None:
        if len(self.unanswered) < _UNANSWERED_SERIES:
            self.send_new(self.random.randrange(SERIES_KINDS))

    @property
    def unanswered(self) -> list[str]:
        """Studies whose results have not come to the archive yet."""
        self._sent = [study for study in self._sent if self.around.receivers.results_of(study) != {"SEG", "SR"}]
        return self._sent

    def send_new(self, kind: int) -> None:
        """A new series of this kind, until it is stored or patience ends."""
        series = make_series(kind)
        study = str(series[0].StudyInstanceUID)
        for _ in self.tries():
            with self.history.operation(self.name, self.f, study=study, kind=kind) as operation:
                if self.send(series, operation):
                    operation.ok(study=study, kind=kind)
                    self._sent.append(study)
                    return

    def send(self, series: list[Dataset], operation: Operation) -> bool:
        raise NotImplementedError


class StowSender(SeriesSender):
    f = "stow"

    def send(self, series: list[Dataset], operation: Operation) -> bool:
        parts = [b"--b\r\nContent-Type: application/dicom\r\n\r\n%s\r\n" % as_bytes(one) for one in series]
        body = b"".join(parts) + b"--b--\r\n"
        answer = self.ask("POST", "/dicomweb/studies", "stow", content=body, headers=_STOW)
        if answer is not None and answer.status_code != httpx.codes.OK:
            operation.fail(status=answer.status_code)
        return answer is not None and answer.status_code == httpx.codes.OK


class DimseSender(SeriesSender):
    f = "c-store"

    def send(self, series: list[Dataset], operation: Operation) -> bool:
        entity = AE("TORTURE")
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = TIMEOUT_S
        entity.connection_timeout = 2
        entity.add_requested_context(MRImageStorage)
        association = entity.associate("127.0.0.1", self.around.cluster.listener_port, ae_title=LISTENER_TITLE)
        if not association.is_established:
            operation.fail(status=None)
            return False
        try:
            statuses = [association.send_c_store(one).get("Status") for one in series]
        except (RuntimeError, ValueError):  # the association broke
            return False
        if not association.is_established:
            return False
        association.release()
        if any(statuses):
            operation.fail(status=max(statuses))
        return statuses == [0] * len(series)


class NetworkFetcher(Client):
    """Wants the same few networks again and again: each always has the same bytes."""

    def run_once(self) -> None:
        self.fetch(self.random.choice(NETWORKS_MM))

    def fetch(self, spacing: str) -> None:
        with self.history.operation(self.name, "network", spacing=spacing) as operation:
            for _ in self.tries():
                answer = self.ask(
                    "GET",
                    "/unet",
                    "network",
                    params={"spacing": spacing, "model": MODEL},
                    headers={"Prefer": "wait=5"},
                )
                if answer is not None and answer.status_code == httpx.codes.OK:
                    operation.ok(spacing=spacing, **sha256_of(answer.content))
                    return
                if answer is not None and answer.is_client_error and not comes_back(answer.status_code):
                    operation.fail(status=answer.status_code)
                    return
