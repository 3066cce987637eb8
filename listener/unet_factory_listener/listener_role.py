"""The listener's process: a server that receives, a thread that forwards, and an orderly end."""

import logging
import signal
import threading
from types import FrameType
from typing import Literal

from unet_factory.platform.logs import configure_logging
from unet_factory.platform.tracing import start_tracing
from unet_factory_listener.connections import log_lost_thread
from unet_factory_listener.forwarding import Forwarder
from unet_factory_listener.options import ListenerOptions
from unet_factory_listener.scp import listening
from unet_factory_listener.spool import Spool

log = logging.getLogger(__name__)

_ENDS_WITHIN_S = 5.0


def run(options: ListenerOptions, log_format: Literal["plain", "json"] = "plain", traces_url: str = "") -> None:
    """Until SIGTERM or SIGINT. What an earlier run left in the spool is forwarded.

    Raises:
        OSError: the spool cannot be written, or the port cannot be had.
    """
    configure_logging(log_format)
    logging.getLogger("stamina").setLevel(logging.ERROR)  # the forwarder tells of outages itself
    start_tracing(traces_url, "listener")
    threading.excepthook = log_lost_thread
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    spool = Spool(options.spool)
    forwarder = threading.Thread(
        target=Forwarder(spool, options).run, args=(stop,), name="forwarder", daemon=True
    )  # what it holds when it is cut off lies in the spool
    with listening(options, spool):
        log.info("listening as %s on %s:%d", options.ae_title, options.host, options.port)
        forwarder.start()
        stop.wait()
        log.info("stopping")
    forwarder.join(_ENDS_WITHIN_S)
