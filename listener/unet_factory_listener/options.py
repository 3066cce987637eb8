"""What the listener is told."""

from dataclasses import dataclass
from pathlib import Path

ANYBODY = "*"


@dataclass(frozen=True)
class ListenerOptions:
    """``allowed`` are the calling AE titles that may send; ``*`` among them lets anybody. Times in seconds.

    A series is forwarded when nothing has come for ``quiet_s``; when its sender was cut off, only after
    ``after_abort_s``, in which the sender may try again.
    """

    ae_title: str
    allowed: tuple[str, ...]
    host: str
    port: int
    spool: Path
    gateway_url: str
    quiet_s: float = 2.0
    after_abort_s: float = 60.0
    keep_refused_s: float = 24 * 3600.0
    api_key: str = ""
    max_instance_bytes: int = 2 * 2**30  # the gateway's max_upload_bytes: more it would refuse
    keep_free_bytes: int = 256 * 2**20  # of the spool's disk
