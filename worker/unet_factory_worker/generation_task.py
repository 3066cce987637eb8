"""Make a standalone network that someone waits for; a failure is told to them as well."""

import logging

from redis.exceptions import RedisError

from unet_factory.domain.errors import FactoryError, OutOfMemory
from unet_factory.domain.jobs import GenerationRequest, Problem
from unet_factory.domain.problems import UNEXPECTED, problem_of
from unet_factory.platform.logs import safe_traceback
from unet_factory_worker.child import WorkerContext
from unet_factory_worker.device import is_out_of_memory, release_memory

log = logging.getLogger(__name__)


def run_generation(request: GenerationRequest, context: WorkerContext) -> None:
    """Whatever goes wrong is told to those who wait, nothing is raised."""
    problem = _problem_of_trying(request, context)
    if problem is None:
        return
    try:
        context.cache.fail(request, problem.model_dump_json())
    except RedisError as error:
        log.warning("nobody can be told of a failed generation: %s", type(error).__name__)


def _problem_of_trying(request: GenerationRequest, context: WorkerContext) -> Problem | None:
    try:
        context.factory.publish(request)
    except FactoryError as error:
        log.warning("generation refused: %s", error.slug)
        return problem_of(error)
    except Exception as error:
        log.error("generation failed\n%s", safe_traceback(error))
        if not is_out_of_memory(error):
            return UNEXPECTED
    else:
        return None
    context.factory.forget_networks()
    release_memory(context.device)
    return problem_of(OutOfMemory(f"the memory of {context.device} does not hold the network; try again"))
