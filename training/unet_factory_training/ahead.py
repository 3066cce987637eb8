"""Batches that are made on a GPU while it still works on the step before."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from unet_factory_training.batch import Batch

Share = tuple[Batch, ...]


def made_ahead(shares: Iterable[Share], device: torch.device) -> Iterator[Share]:
    """The same batches in the same order, each made by a second thread while its predecessor is used.

    On a GPU that thread has a stream of its own, so its kernels run between those of the step, and what it has to wait
    for the device itself, such as how large a crop must be, does not keep the step waiting. What goes wrong there is
    raised here.
    """
    stream = torch.cuda.Stream(device) if device.type == "cuda" else None
    source = iter(shares)

    def make() -> tuple[Share | None, torch.cuda.Event | None]:
        with torch.cuda.stream(stream):  # does nothing where there is none
            share = next(source, None)
            return share, None if stream is None else stream.record_event()

    with ThreadPoolExecutor(1, "batches-ahead") as thread:
        waiting = thread.submit(make)
        while True:
            share, ready = waiting.result()
            if share is None:
                return
            waiting = thread.submit(make)
            if ready is not None:
                _hand_over(share, ready, device)
            yield share


def _hand_over(share: Share, ready: torch.cuda.Event, device: torch.device) -> None:
    """The step's stream waits for the batches, the host does not; their memory is not reused before it is done."""
    current = torch.cuda.current_stream(device)
    current.wait_event(ready)
    for view in (view for batch in share for view in batch.views):
        for tensor in (view.images, view.labels):
            tensor.record_stream(current)
