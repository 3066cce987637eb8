"""Webhooks to a real receiver: signed as its specification's library checks, tried again, never sent elsewhere."""

import ipaddress
import logging
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat

import pytest

from tests.courier.conftest import Configure, Finish, Run, Submit, webhooks, worked_off
from tests.fixtures.settings import FactorySettings
from tests.fixtures.webhook_receiver import receiving
from tests.system.processes import until
from unet_factory.destinations import Destinations
from unet_factory.destinations.callback_rules import Address
from unet_factory.domain.errors import DestinationsInvalid
from unet_factory.domain.jobs import Delivery, DeliveryKind, DeliveryState, JobState
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.jobs.keys import delivery_queue
from unet_factory.jobs.store import JobStore
from unet_factory_courier.courier_role import check_secrets, quiet_libraries
from unet_factory_courier.outcomes import GiveUp
from unet_factory_courier.webhook import WebhookSender, judged_addresses

LOOPBACK = ("127.0.0.1", "127.0.0.2")


@pytest.fixture
def local(configure: Configure) -> Destinations:
    """Loopback is listed."""
    return configure(webhooks(*LOOPBACK))


def hook(host: str = "127.0.0.1") -> Delivery:
    return Delivery(kind=DeliveryKind.WEBHOOK, destination=host)


@pytest.mark.parametrize("state", [JobState.SUCCEEDED, JobState.FAILED])
def test_the_receiver_is_told_and_can_check_who_tells(
    local: Destinations, dispatcher: Run, submit: Submit, finish: Finish, jobs: JobStore, state: JobState
) -> None:
    with receiving() as receiver:
        job_id = submit(hook(), callback_url=receiver.url)
        finish(job_id, state)
        (delivery,) = worked_off(dispatcher(local), jobs, job_id)
        assert (delivery.state, delivery.attempts, delivery.last_error) == (DeliveryState.DELIVERED, 1, None)
        (body,) = receiver.verified()
        assert body["type"] == f"segmentation.{state}"
        told = jobs.get(job_id).model_dump(mode="json", exclude={"fetch", "deliveries"})
        assert body["data"] == told
        path, headers, _ = receiver.requests[0]
        assert path == "/hook?token=abc"
        assert headers["host"] == f"127.0.0.1:{receiver.port}"
        assert headers["content-type"] == "application/json"


def test_a_failing_receiver_is_asked_again_with_the_same_id_and_body(
    local: Destinations, dispatcher: Run, submit: Submit, finish: Finish, jobs: JobStore
) -> None:
    with receiving(500, 503, 429, 404) as receiver:
        job_id = submit(hook(), callback_url=receiver.url)
        finish(job_id)
        (delivery,) = worked_off(dispatcher(local), jobs, job_id)
        assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 5)
        assert receiver.ids == [f"{job_id}-0"] * 5
        assert len({body for _, _, body in receiver.requests}) == 1
        receiver.verified()


@pytest.mark.parametrize("status", [302, 307, 400, 410, 422])
def test_a_refusal_for_good_is_dead_at_once_and_can_be_replayed(
    local: Destinations,
    dispatcher: Run,
    submit: Submit,
    finish: Finish,
    jobs: JobStore,
    deliveries: DeliveryStore,
    status: int,
) -> None:
    with receiving() as elsewhere, receiving(status, headers=[("Location", elsewhere.url)]) as receiver:
        job_id = submit(hook(), callback_url=receiver.url)
        finish(job_id)
        courier = dispatcher(local)
        (delivery,) = worked_off(courier, jobs, job_id)
        assert (delivery.state, delivery.attempts) == (DeliveryState.DEAD, 1)
        assert str(status) in (delivery.last_error or "")
        assert elsewhere.requests == [], "redirects are not followed"
        deliveries.replay(f"{job_id}-0")
        (delivery,) = worked_off(courier, jobs, job_id)
        assert delivery.state is DeliveryState.DELIVERED
        assert receiver.ids == [f"{job_id}-0"] * 2


def test_too_many_failures_are_dead(
    local: Destinations, dispatcher: Run, submit: Submit, finish: Finish, jobs: JobStore, settings: FactorySettings
) -> None:
    with receiving(*[500] * 20) as receiver:
        job_id = submit(hook(), callback_url=receiver.url)
        planned = jobs.get(job_id).expires
        finish(job_id)
        (delivery,) = worked_off(dispatcher(local), jobs, job_id)
        assert (delivery.state, delivery.attempts) == (DeliveryState.DEAD, settings.delivery_attempts)
        assert len(receiver.requests) == settings.delivery_attempts
        assert jobs.get(job_id).expires > planned, "it is kept for a replay"


def test_what_takes_its_courier_down_again_and_again_is_given_up(
    local: Destinations, dispatcher: Run, submit: Submit, finish: Finish, jobs: JobStore, deliveries: DeliveryStore
) -> None:
    with receiving() as receiver:
        job_id = submit(hook(), callback_url=receiver.url)
        finish(job_id)
        for _ in range(3):
            assert until(lambda: deliveries.claim(delivery_queue(hook()), "killed", 0.01)) is not None
        (delivery,) = worked_off(dispatcher(local), jobs, job_id)
        assert (delivery.state, delivery.attempts, receiver.requests) == (DeliveryState.DEAD, 4, [])
        assert "3 times" in (delivery.last_error or "")


def test_a_silent_receiver_delays_nobody_else(
    configure: Configure, dispatcher: Run, submit: Submit, finish: Finish, jobs: JobStore
) -> None:
    document = webhooks(*LOOPBACK)
    document["webhooks"] |= {"timeout_s": 3}  # type: ignore[operator]
    with receiving() as silent, receiving(host="127.0.0.2") as other:
        silent.silent.set()
        stuck = [submit(hook(), callback_url=silent.url) for _ in range(5)]
        fast = [submit(hook("127.0.0.2"), callback_url=other.url) for _ in range(5)]
        for job_id in (*stuck, *fast):
            finish(job_id)
        courier, started = dispatcher(configure(document)), time.monotonic()
        for job_id in fast:
            worked_off(courier, jobs, job_id, finish_s=0)
        assert time.monotonic() - started < 2.5
        assert {jobs.get(job_id).deliveries[0].state for job_id in stuck} == {DeliveryState.PENDING}
        assert len(silent.requests) == 2, "so many at a time and destination"


@pytest.mark.parametrize("allow", [["hooks.example.org"], ["hooks.example.org", "10.0.0.0/8"]])
def test_an_inner_address_behind_an_allowed_name_is_refused(
    configure: Configure, submit: Submit, jobs: JobStore, allow: list[str]
) -> None:
    sender = WebhookSender(configure(webhooks(*allow)).webhooks, resolve=lambda *_: [ipaddress.ip_address("127.0.0.1")])
    with receiving() as receiver, pytest.raises(GiveUp, match="not public"):
        sender.send("id-0", f"http://hooks.example.org:{receiver.port}/", jobs.get(submit()))
    assert receiver.requests == []


def test_the_address_that_was_judged_is_the_one_connected_to(
    configure: Configure, submit: Submit, jobs: JobStore
) -> None:
    """The name is looked up once: an answer that changes between judging and connecting changes nothing."""
    lookups: list[str] = []

    def rebinding(host: str, _: int) -> list[Address]:
        lookups.append(host)
        return [ipaddress.ip_address("127.0.0.1" if len(lookups) == 1 else "127.0.0.2")]

    with receiving() as receiver:
        sender = WebhookSender(configure(webhooks("hooks.invalid", "127.0.0.1")).webhooks, resolve=rebinding)
        sender.send("id-0", f"http://hooks.invalid:{receiver.port}/a", jobs.get(submit()))
        assert lookups == ["hooks.invalid"]
        assert receiver.requests[0][1]["host"] == f"hooks.invalid:{receiver.port}"


def test_of_mixed_addresses_only_the_allowed_are_used(configure: Configure) -> None:
    rules = configure(webhooks("hooks.example.org")).webhooks.rules
    found = [ipaddress.ip_address(text) for text in ("169.254.169.254", "8.8.8.8", "::1", "8.8.8.8")]
    assert judged_addresses(rules, "https://hooks.example.org", lambda *_: found) == [found[1]]


def test_what_was_allowed_at_submission_is_judged_again_at_delivery(
    configure: Configure, dispatcher: Run, submit: Submit, finish: Finish, jobs: JobStore
) -> None:
    with receiving() as receiver:
        job_id = submit(hook(), callback_url=receiver.url)
        finish(job_id)
        (delivery,) = worked_off(dispatcher(configure(webhooks("hooks.example.org"))), jobs, job_id)
        assert delivery.state is DeliveryState.DEAD
        assert receiver.requests == []


def test_logs_name_neither_url_nor_token(
    local: Destinations,
    dispatcher: Run,
    submit: Submit,
    finish: Finish,
    jobs: JobStore,
    caplog: pytest.LogCaptureFixture,
) -> None:
    quiet_libraries()
    with caplog.at_level(logging.DEBUG), receiving(500) as receiver:
        job_id = submit(hook(), callback_url=receiver.url)
        finish(job_id)
        worked_off(dispatcher(local), jobs, job_id)
    assert job_id in caplog.text
    assert "token" not in caplog.text
    assert str(receiver.port) not in caplog.text


@pytest.mark.parametrize("secret", ["", "plain text", "whsec_", "whsec_c2hvcnQ=", "whsec_not base64!", "c2VjcmV0" * 5])
def test_a_weak_or_malformed_secret_is_refused_at_start(
    configure: Configure, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    destinations = configure(webhooks("hooks.example.org"))
    check_secrets(destinations)
    monkeypatch.setenv("WEBHOOK_SECRET", secret)
    with pytest.raises(DestinationsInvalid, match="WEBHOOK_SECRET"):
        check_secrets(destinations)


def test_a_receiver_that_answers_a_byte_at_a_time_holds_an_attempt_no_longer_than_its_time(
    configure: Configure, dispatcher: Run, submit: Submit, finish: Finish, jobs: JobStore
) -> None:
    document = webhooks(*LOOPBACK)
    document["webhooks"] |= {"timeout_s": 1}  # type: ignore[operator]
    with dripping(every_s=0.3) as url:
        job_id = submit(hook(), callback_url=url)
        finish(job_id)
        courier, started = dispatcher(configure(document)), time.monotonic()
        courier.run_once()
        assert courier.finish(10)
    assert 1 <= time.monotonic() - started < 3
    (delivery,) = jobs.get(job_id).deliveries
    assert delivery.state is DeliveryState.PENDING
    assert delivery.last_error == "the receiver did not answer within 1 s"


@contextmanager
def dripping(every_s: float) -> Iterator[str]:
    """A server that sends the first line of its answer a byte at a time, for ever."""
    stopped = threading.Event()

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with suppress(OSError):
                for letter in chain("HTTP/1.1 200 ", repeat("x")):
                    if stopped.wait(every_s):
                        return
                    self.request.sendall(letter.encode())

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/hook"
        stopped.set()
        server.shutdown()
        thread.join()
