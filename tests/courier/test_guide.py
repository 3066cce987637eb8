"""What the guide tells integrators to write works as written."""

import re
from collections.abc import Callable

import yaml

from tests.courier.conftest import Configure, Submit, webhooks
from tests.fixtures.project import PROJECT
from tests.fixtures.settings import FactorySettings
from tests.fixtures.webhook_receiver import SECRET, receiving
from unet_factory.destinations import Destinations
from unet_factory.jobs.store import JobStore
from unet_factory_courier.webhook import WebhookSender

GUIDE = (PROJECT / "docs/guide/pacs.md").read_text()
OTHER_SECRET = "whsec_" + "b" * 43 + "="


def test_the_example_of_destinations_is_one() -> None:
    (example,) = re.findall(r"```yaml\n(pacs:.*?)```", GUIDE, re.DOTALL)
    destinations = Destinations.model_validate(yaml.safe_load(example))
    assert destinations.pacs.keys() == {"main", "archive"}


def test_the_verification_by_hand_tells_ours_from_others(configure: Configure, submit: Submit, jobs: JobStore) -> None:
    (code,) = re.findall(r"```python\n(import base64.*?)```", GUIDE, re.DOTALL)
    names: dict[str, Callable[..., bool]] = {}
    exec(code, names)
    verify = names["verify"]
    with receiving() as receiver:
        sender = WebhookSender(configure(webhooks("127.0.0.1")).webhooks)
        sender.send("id-0", receiver.url, jobs.get(submit()))
        _, headers, body = receiver.requests[0]
    assert verify(SECRET, headers, body)
    assert not verify(SECRET, headers, body + b" ")
    assert not verify(OTHER_SECRET, headers, body)
    assert not verify(SECRET, headers | {"webhook-id": "id-1"}, body)
    assert not verify(SECRET, headers | {"webhook-timestamp": "1"}, body)


def test_the_guide_names_only_settings_that_exist() -> None:
    callers = {f"UNET_FACTORY_{name}" for name in ("API_KEY", "API_KEY_FILE", "URL")}  # no settings of a role
    fields = callers | {f"UNET_FACTORY_{name.upper()}" for name in FactorySettings.model_fields}
    named = set(re.findall(r"UNET_FACTORY_[A-Z_]+[A-Z]", GUIDE))
    assert named
    assert named <= fields
