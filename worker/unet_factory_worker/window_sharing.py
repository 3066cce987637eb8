"""Idle workers help with the windows of a large scan; the label map is the same, bit for bit.

Whoever holds the job stays in charge: it takes each window in order, does itself what nobody has done, and alone adds
the logits up, in the one order. Helpers only hand in the logits of whole windows, as the network gives them. So a
helper may come late, leave for a job, hang or die: its window is done by whoever claims it next.
"""

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import torch
from redis.exceptions import RedisError
from safetensors.torch import load, load_file, save_file
from torch import Tensor

from unet_factory.domain.errors import FactoryError, JobExpired, JobUnknown
from unet_factory.domain.jobs import SEGMENT_QUEUE, WEIGHTS_QUEUE, WINDOWS_QUEUE, GenerationRequest
from unet_factory.domain.plausibility import Axis
from unet_factory.domain.spacing import SnappedSpacing
from unet_factory.jobs.presence import present
from unet_factory.jobs.shared_windows import SharedWindows, WindowsOffer
from unet_factory.model.inference import parts, placed, predicted
from unet_factory.model.label_map import Predict, Starts, Windows
from unet_factory.model.mirroring import mirrored
from unet_factory.platform.logs import safe_traceback
from unet_factory_worker.child import WorkerContext

log = logging.getLogger(__name__)

_SUFFIX, _VALUES = ".window", "values"
VOLUME_NAME = f"volume{_SUFFIX}"
_LEAD = 16  # windows, whose logits are kept until they are needed
_ASK_EVERY_S = 2.0
_PAUSE_S = 0.02
_ELSEWHERE = (RedisError, FactoryError, OSError)  # a store is away: whoever holds the job goes on alone


@dataclass
class WindowSharing:
    """Of one job and network, by the worker that holds the job; ``offered`` is whether others were asked."""

    context: WorkerContext
    job_id: str
    network: GenerationRequest
    mirrored_axes: tuple[Axis, ...] = ()
    offered: bool = False

    @contextmanager
    def __call__(self, padded: Tensor, windows: Windows, own: Predict) -> Iterator[Predict]:
        """In place of ``own``, for the duration of the block: the same logits, some of them done by others."""
        if not 0 < self.context.settings.spread_windows <= len(windows):
            yield own
            return
        store = _LogitsStore(self.context, self.job_id)
        board = SharedWindows(self.context.redis, self.job_id, self.context.settings.lease_s)
        with ExitStack() as stack:
            _clear(board, store)  # what an attempt left that was killed
            stack.callback(_clear, board, store)
            yield _InCharge(self, self._offer(padded, windows), padded, own, board, store, stack).predict

    def _offer(self, padded: Tensor, windows: Windows) -> WindowsOffer:
        axis = max(range(3), key=lambda each: padded.shape[each])
        order = tuple(starts for row, _ in windows.rows(axis) for starts in row)
        return WindowsOffer.model_validate(
            {
                "token": secrets.token_hex(8),
                "kind": self.context.kind,
                "network": self.network,
                "mirrored_axes": self.mirrored_axes,
                "extents": windows.extents,
                "order": order,
                "lead": _LEAD,
            }
        )


@dataclass
class _InCharge:
    """Takes the windows in order, and asks for help as long as there are idle workers of the same kind."""

    sharing: WindowSharing
    offer: WindowsOffer
    padded: Tensor
    own: Predict
    board: SharedWindows
    store: "_LogitsStore"
    stack: ExitStack
    ahead: dict[int, Tensor] = field(default_factory=dict)
    taken: set[int] = field(default_factory=set)
    asks_at: float = 0.0

    def __post_init__(self) -> None:
        self._numbers = {starts: number for number, starts in enumerate(self.offer.order)}

    def _ask_for_help(self) -> None:
        """Who is idle takes the message; while one waits in the queue, nobody is."""
        context, sharing = self.sharing.context, self.sharing
        if time.monotonic() < self.asks_at:
            return
        self.asks_at = time.monotonic() + _ASK_EVERY_S
        others = sum(worker.kind == context.kind for worker in present(context.redis)) - 1
        if others < 1:
            return
        if not sharing.offered:
            self.store.put(VOLUME_NAME, self.padded)
            self.stack.enter_context(self.board.offered(self.offer))
            sharing.offered = True
        for _ in range(others - context.redis.llen(WINDOWS_QUEUE)):
            context.queue.send_help(sharing.job_id)

    def predict(self, starts: Starts) -> Tensor:
        """The logits of the window that starts there."""
        r, a, s = starts
        number = self._numbers[r, a, s]
        if (logits := self.ahead.pop(number, None)) is None and number not in self.taken:
            try:
                self._ask_for_help()
                logits = self._awaited(number) if self.sharing.offered else None
            except _ELSEWHERE as error:
                log.warning("job %s does a window without help: %s", self.sharing.job_id, type(error).__name__)
        self.taken.add(number)
        return self.own(starts) if logits is None else logits

    def _awaited(self, number: int) -> Tensor:
        """From a helper, or done here while none has it."""
        token = self.offer.token
        self.board.need(token, number)
        while True:
            if number in self.board.ended(token):
                return self.store.take(self._name(number))
            if (logits := self._done_here(number)) is not None:
                return logits
            if not self._work_ahead(number):
                time.sleep(_PAUSE_S)

    def _work_ahead(self, number: int) -> bool:
        """Do the next window that nobody does, while a helper is at the one that is needed."""
        ended = self.board.ended(self.offer.token)
        last = min(number + self.offer.lead, len(self.offer.order))
        for further in range(number + 1, last):
            if further not in ended and (logits := self._done_here(further)) is not None:
                self.ahead[further] = logits
                return True
        return False

    def _done_here(self, number: int) -> Tensor | None:
        token = self.offer.token
        with self.board.claim(token, number) as ours:
            if not ours or number in self.board.ended(token):
                return None
            logits = self.own(self.offer.order[number])
            self.board.end(token, number)
            return logits

    def _name(self, number: int) -> str:
        return _name(self.offer.token, number)


def help_with(job_id: str, context: WorkerContext) -> None:
    """Do windows of another worker's job, until there are none or other work waits; raises nothing."""
    board = SharedWindows(context.redis, job_id, context.settings.lease_s)
    try:
        offer = board.offer()
        if offer is not None and offer.kind == context.kind:
            _Helper(offer, board, context, job_id).work()
    except _ELSEWHERE as error:
        log.warning("job %s gets no help from here: %s", job_id, type(error).__name__)
    except Exception as error:  # out of memory, above all: whoever holds the job knows what to do then
        context.factory.forget_networks()
        log.error("job %s gets no help from here\n%s", job_id, safe_traceback(error))


@dataclass(frozen=True)
class _Helper:
    offer: WindowsOffer
    board: SharedWindows
    context: WorkerContext
    job_id: str

    def work(self) -> None:
        offer, context, wanted = self.offer, self.context, self.offer.network
        unet = context.factory.network(
            wanted.model, wanted.checkpoint_digest, SnappedSpacing(*wanted.snapped_um), wanted.conditions
        ).unet
        network = placed(parts(mirrored(unet, offer.mirrored_axes))[0], context.device, context.precision)
        store = _LogitsStore(context, self.job_id)
        with context.blobs.local(self.job_id, VOLUME_NAME) as file, torch.inference_mode():
            padded = load_file(file)[_VALUES].to(context.device)
            while self._wanted():
                if not self._next(lambda starts: predicted(network, padded, starts, offer.extents), store):
                    time.sleep(_PAUSE_S)

    def _wanted(self) -> bool:
        """While windows are left, the job's holder lives, and nobody waits for this worker."""
        token, waiting = self.offer.token, (SEGMENT_QUEUE, WEIGHTS_QUEUE)
        if any(self.context.redis.llen(queue) for queue in waiting):
            return False
        current = self.board.offer()
        return current is not None and current.token == token and len(self.board.ended(token)) < len(self.offer.order)

    def _next(self, predict: Predict, store: "_LogitsStore") -> bool:
        """Do the first window that nobody does and that is not too far ahead; whether there was one."""
        token = self.offer.token
        first, ended = self.board.needed(token), self.board.ended(token)
        for number in range(first, min(first + self.offer.lead, len(self.offer.order))):
            if number in ended:
                continue
            with self.board.claim(token, number) as ours:
                if ours and number not in self.board.ended(token):
                    store.put(_name(token, number), predict(self.offer.order[number]))
                    self.board.end(token, number)
                    self._leave_nothing_of_a_job_that_is_gone()
                    return True
        return False

    def _leave_nothing_of_a_job_that_is_gone(self) -> None:
        try:
            self.context.jobs.get(self.job_id)
        except (JobUnknown, JobExpired):
            self.context.blobs.delete(self.job_id)


@dataclass(frozen=True)
class _LogitsStore:
    """Arrays among the files of a job, while it runs."""

    context: WorkerContext
    job_id: str

    def put(self, name: str, values: Tensor) -> None:
        with self.context.blobs.scratch() as folder:
            save_file({_VALUES: values.cpu().contiguous()}, folder / name)
            self.context.blobs.put(self.job_id, name, folder / name)

    def take(self, name: str) -> Tensor:
        """Read it on the worker's device, and remove it."""
        with self.context.blobs.local(self.job_id, name) as file:
            values = load(file.read_bytes())[_VALUES].to(self.context.device)
        self.context.blobs.remove(self.job_id, name)
        return values

    def clear(self) -> None:
        for name in self.context.blobs.names(self.job_id):
            if name.endswith(_SUFFIX):
                self.context.blobs.remove(self.job_id, name)


def _clear(board: SharedWindows, store: _LogitsStore) -> None:
    """A store that is away keeps what it has until it ends by itself, or the job is purged."""
    with suppress(*_ELSEWHERE):
        board.clear()
        store.clear()


def _name(token: str, number: int) -> str:
    return f"window-{token}-{number}{_SUFFIX}"
