"""Signs of life for whoever supervises this process, by systemd's notification protocol (sd_notify(3)).

``unet-factory serve`` listens to its roles this way; systemd does so with ``WatchdogSec=``.
"""

import asyncio
import os
import socket
import threading
import time
from contextlib import suppress

EVERY_S = 0.5
SOCKET_VARIABLE = "NOTIFY_SOCKET"


def give_sign() -> None:
    """Tell the supervisor, if there is one, that this process works. It never waits, and a lost sign does no harm."""
    address = os.environ.get(SOCKET_VARIABLE, "")
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract names
        address = f"\0{address[1:]}"
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.setblocking(False)
        supervisor.sendto(b"WATCHDOG=1", address)


async def give_signs() -> None:
    """From the event loop, until cancelled: it tells that the loop turns."""
    while True:
        give_sign()
        await asyncio.sleep(EVERY_S)


def give_signs_in_background() -> None:
    """From a thread, to the end of the process: it tells that the process is not stopped, whatever it waits for."""
    threading.Thread(target=_give_signs, name="signs of life", daemon=True).start()


def _give_signs() -> None:
    while True:
        give_sign()
        time.sleep(EVERY_S)
