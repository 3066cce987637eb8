"""Webhooks by the Standard Webhooks specification 1.0: signed, and sent to the very address that was judged.

Headers: ``webhook-id`` (the same over all attempts: receivers drop what they have seen), ``webhook-timestamp`` (seconds
since the epoch), ``webhook-signature`` (``v1,`` and the base64 HMAC-SHA256 of ``ID.TIMESTAMP.BODY``, for each secret).
"""

import asyncio
import base64
import binascii
import ipaddress
import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime

import httpx
from standardwebhooks import Webhook

from unet_factory.destinations import SecretReference, Webhooks
from unet_factory.destinations.callback_rules import Address, CallbackRules
from unet_factory.domain.errors import CallbackRefused, DestinationsInvalid
from unet_factory.domain.jobs import Job
from unet_factory.platform.tracing import trace_headers
from unet_factory_courier.outcomes import GiveUp, TryAgain, check_status

Resolve = Callable[[str, int], list[Address]]

_SECRET_BYTES = range(24, 65)  # the specification's
_PREFIX = "whsec_"


def resolve(host: str, port: int) -> list[Address]:
    """The addresses that a host's name resolves to now.

    Raises:
        OSError: it stands for none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


class WebhookSender:
    """Secrets are read for each delivery, so that they can be exchanged without a restart."""

    def __init__(self, webhooks: Webhooks, resolve: Resolve = resolve) -> None:
        self._webhooks, self._rules, self._resolve = webhooks, webhooks.rules, resolve

    def send(self, delivery_id: str, url: str, job: Job) -> None:
        """
        Raises:
            TryAgain: the receiver cannot be reached, or says that it cannot take it now.
            GiveUp: it may not be sent there (any more), or the receiver refuses it for good.
        """
        body = webhook_body(job)
        headers = self._signed(delivery_id, body) | {"Content-Type": "application/json"} | trace_headers()
        addresses = judged_addresses(self._rules, url, self._resolve)
        status, retry_after = asyncio.run(self._post(addresses, httpx.URL(url), body, headers))
        check_status(status, retry_after)

    def _signed(self, delivery_id: str, body: str) -> dict[str, str]:
        now = datetime.now(UTC)
        signatures = [Webhook(secret_bytes(secret)).sign(delivery_id, now, body) for secret in self._webhooks.secrets]
        return {
            "webhook-id": delivery_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": " ".join(signatures),
        }

    async def _post(
        self, addresses: list[Address], url: httpx.URL, body: str, headers: dict[str, str]
    ) -> tuple[int, str | None]:
        """Status and Retry-After of the answer; its body is not read. Nobody may take longer than ``timeout_s``.

        httpx bounds each read only: a receiver that sends a byte now and then would keep an attempt open for ever.
        """
        timeout_s = self._webhooks.timeout_s
        try:
            async with (
                asyncio.timeout(timeout_s),
                httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout_s) as http,
            ):
                return await self._post_to_any(http, addresses, url, body, headers)
        except TimeoutError:
            raise TryAgain(f"the receiver did not answer within {timeout_s:g} s") from None

    async def _post_to_any(
        self, http: httpx.AsyncClient, addresses: list[Address], url: httpx.URL, body: str, headers: dict[str, str]
    ) -> tuple[int, str | None]:
        failure: httpx.HTTPError | None = None
        for address in addresses:
            # the connection goes to the very address that was judged, the certificate is checked against the name
            pinned = url.copy_with(host=str(address))
            request = http.build_request(
                "POST",
                pinned,
                content=body.encode(),
                headers=headers | {"Host": url.netloc.decode()},
                extensions={"sni_hostname": url.host},
            )
            try:
                answer = await http.send(request, stream=True)
            except httpx.ConnectError as error:
                failure = error
                continue
            except httpx.HTTPError as error:
                raise TryAgain(f"the receiver did not answer: {type(error).__name__}") from None
            await answer.aclose()
            return answer.status_code, answer.headers.get("Retry-After")
        raise TryAgain(f"the receiver cannot be reached: {type(failure).__name__}")


def judged_addresses(rules: CallbackRules, url: str, resolve: Resolve) -> list[Address]:
    """The addresses of the URL's host that something may be sent to, at least one.

    Raises:
        GiveUp: the URL is not allowed (any more), or none of its addresses is.
        TryAgain: the name stands for nothing now.
    """
    try:
        parts = rules.check_url(url)
        port = parts.port or (443 if parts.scheme == "https" else 80)
        addresses = resolve(str(parts.hostname), port)
    except CallbackRefused as error:
        raise GiveUp(str(error)) from None
    except OSError:
        raise TryAgain("the receiver's name cannot be resolved") from None
    allowed: list[Address] = []
    refusal = "the receiver's name has no address"
    for address in dict.fromkeys(addresses):
        try:
            rules.check_address(address)
            allowed.append(address)
        except CallbackRefused as error:
            refusal = str(error)
    if not allowed:
        raise GiveUp(refusal)
    return allowed


def webhook_body(job: Job) -> str:
    """The same text over all attempts: the job as ``GET /segmentations/ID`` tells it, less its deliveries."""
    finished = datetime.fromtimestamp(job.finished or job.created, UTC).isoformat(timespec="seconds")
    data = job.model_dump(mode="json", exclude={"fetch", "deliveries"})
    return json.dumps({"type": f"segmentation.{job.state}", "timestamp": finished, "data": data})


def secret_bytes(reference: SecretReference) -> bytes:
    """
    Raises:
        DestinationsInvalid: it cannot be read, or is no ``whsec_`` and the base64 of 24 to 64 bytes.
    """
    text = reference.read()
    try:
        secret = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        secret = b""
    if not text.startswith(_PREFIX) or len(secret) not in _SECRET_BYTES:
        raise DestinationsInvalid(
            f"the webhook secret in {reference.env or reference.file} must be {_PREFIX} and base64 of 24 to 64 bytes"
        )
    return secret
