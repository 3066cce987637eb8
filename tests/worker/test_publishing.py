"""A network that someone waits for: it comes, or they learn why not."""

import threading

from redis import Redis

from unet_factory.domain.jobs import GenerationRequest, Problem
from unet_factory.model.checkpoint import Checkpoint
from unet_factory.platform.manifest_file import read_standalone_manifest
from unet_factory.platform.weight_cache import ready_channel
from unet_factory_worker.child import WorkerContext


def test_the_network_comes_and_wakes_who_waits(context: WorkerContext, checkpoint: Checkpoint, redis: Redis) -> None:
    request = request_of(checkpoint.digest, dtype="float16")
    assert context.cache.claim_generation(request)
    with redis.pubsub(ignore_subscribe_messages=True) as bell:  # type: ignore[no-untyped-call]
        bell.subscribe(ready_channel(request))
        bell.get_message(timeout=1.0)
        worker = threading.Thread(target=context.factory.publish, args=(request,))
        worker.start()
        message = bell.get_message(timeout=10.0)
        worker.join()
    assert message is not None
    assert message["data"] == b"ready"
    found = context.cache.get(request)
    assert found is not None
    manifest = read_standalone_manifest(found.blob)
    assert (manifest.snapped_um, manifest.dtype) == ((1000, 500, 500), "float16")
    assert context.cache.claim_generation(request), "the claim ends with the generation"


def test_who_waits_learns_why_there_is_none(context: WorkerContext) -> None:
    request = request_of("0" * 64)
    context.factory.publish(request)
    failure = context.cache.failure(request)
    assert failure is not None
    assert Problem.model_validate_json(failure).type.endswith(":unknown-model")


def request_of(digest: str, **more: str) -> GenerationRequest:
    return GenerationRequest.model_validate(
        {"model": "tiny", "checkpoint_digest": digest, "snapped_um": (1000, 500, 500), **more}
    )
