"""Models, workers, keys, the queue, the gateway and the key for it."""

import os
import time
from pathlib import Path

import httpx
from redis import Redis

from unet_factory.domain.errors import FactoryError
from unet_factory.domain.jobs import SEGMENT_QUEUE, DeliveryState
from unet_factory.jobs.deliveries import DeliveryStore
from unet_factory.jobs.presence import present
from unet_factory.platform.api_keys import KeyStore
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory.platform.settings import unknown_variables
from unet_factory_cli.doctor.findings import Findings, failed, ok, warning
from unet_factory_cli.failures import CommandFailed
from unet_factory_cli.own_key import API_KEY, own_key
from unet_factory_cli.settings import known_variables
from unet_factory_service.settings import GatewaySettings

_MANY_DEAD = 1000
_ANSWER_WITHIN_S = 5.0
_GPUS = "dev/nvidia[0-9]*"


def variables() -> Findings:
    for name, similar in unknown_variables(os.environ, known_variables()).items():
        advice = f"did you mean {similar}?" if similar else "`unet-factory settings` lists them all"
        yield warning("settings", f"{name} is not a setting and has no effect", advice)
    yield ok("settings", "the others can be read")


def models(settings: GatewaySettings) -> Findings:
    part, place = "models", settings.models_dir
    registry = ModelRegistry(place, settings.default_model)
    for file, reason in registry.refused().items():
        yield failed(part, f"{file} is refused: {reason}", "replace or remove it")
    try:
        default = registry.get().manifest.name
    except FactoryError as error:
        yield failed(part, str(error), f"put a model in {place}, or set UNET_FACTORY_MODELS_DIR and _DEFAULT_MODEL")
        return
    names = ", ".join(sorted(model.manifest.name for model in registry.all()))
    yield ok(part, f"{names}; default: {default}")


def workers(settings: GatewaySettings, redis: Redis) -> Findings:
    part = "workers"
    found = present(redis)
    if not found:
        advice = "start one: unet-factory worker; if one runs, its log says what it waits for"
        yield failed(part, "no worker announces itself", advice)
        return
    devices = [worker.device for worker in found]
    yield ok(part, f"{len(found)} ready, on {', '.join(sorted(set(devices)))}")
    wanted = {model.digest: model.manifest.name for model in ModelRegistry(settings.models_dir).all()}
    lacking = set(wanted) - {digest for worker in found for digest in worker.models.values()}
    if lacking:
        names = ", ".join(sorted(wanted[digest] for digest in lacking))
        yield warning(part, f"none has loaded this model as it is here: {names}", "give all roles the same models")


def gpu(redis: Redis) -> Findings:
    """Looked for by its device files, so that no driver or torch is needed to say that there is none."""
    part = "GPU"
    cards = len(list(Path("/").glob(_GPUS)))
    used = sum(worker.device.startswith("cuda") for worker in present(redis))
    if cards and not used:
        advice = "set UNET_FACTORY_DEVICE=cuda and install torch with CUDA for the worker"
        yield warning(part, f"{cards} on this machine, but no worker computes on one", advice)
    else:
        yield ok(part, f"{cards} on this machine, {used} workers compute on one")


def keys(settings: GatewaySettings, redis: Redis) -> Findings:
    part = "API keys"
    valid = [key for key in KeyStore(redis).all() if key.valid(time.time())]
    scopes = ", ".join(sorted({scope for key in valid for scope in key.scopes})) or "none"
    if settings.authentication == "off":
        yield warning(part, "no caller needs one", "set UNET_FACTORY_AUTHENTICATION=required beyond this machine")
    elif not valid and settings.authentication == "required":
        advice = "make one: unet-factory keys create NAME --scope segment"
        yield failed(part, "callers need one, and there is none that is valid", advice)
    else:
        yield ok(part, f"{len(valid)} valid, scopes: {scopes}")


def queue(settings: GatewaySettings, redis: Redis) -> Findings:
    waiting = redis.llen(SEGMENT_QUEUE)
    found = f"{waiting} jobs wait, {settings.max_queued_jobs} may"
    if waiting >= settings.max_queued_jobs:
        yield failed("queue", found, "callers get 429: start more workers")
    else:
        yield ok("queue", found)
    dead = len(DeliveryStore(redis).listed(DeliveryState.DEAD, _MANY_DEAD))
    if dead:
        yield warning(
            "deliveries", f"{dead} were given up", "mend the destination, then: unet-factory deliveries replay --all"
        )
    else:
        yield ok("deliveries", "none was given up")


def gateway(url: str) -> Findings:
    part = "gateway"
    try:
        answer = httpx.get(f"{url}/readyz", timeout=_ANSWER_WITHIN_S, trust_env=False)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        advice = "start it, or name it: --url or UNET_FACTORY_URL"
        yield failed(part, f"{url} does not answer: {type(error).__name__}", advice)
        return
    if answer.is_success:
        yield ok(part, f"{url} is ready")
    else:
        yield failed(part, f"{url}/readyz answers {answer.status_code}: {answer.text[:200]}", "mend what it names")


def key_for_gateway(url: str) -> Findings:
    """The key that the commands and a listener with these variables would send; any key may list models."""
    part = "key for the gateway"
    try:
        key = own_key(os.environ.get(API_KEY))
        if key is None:
            return
        headers = {"Authorization": f"Bearer {key}"}
        answer = httpx.get(f"{url}/models", headers=headers, timeout=_ANSWER_WITHIN_S, trust_env=False)
    except CommandFailed as error:
        yield failed(part, str(error), "mount the file where it is expected, readable for this user")
    except (httpx.HTTPError, httpx.InvalidURL):
        return  # said already
    else:
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            advice = "make one (unet-factory keys create NAME --scope segment) and put it where the old one stood"
            yield failed(part, f"{url} refuses it: it is wrong, has expired or was revoked", advice)
        else:
            yield ok(part, f"{url} accepts it")
