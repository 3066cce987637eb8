"""A bound on a whole exchange with an archive. Timeouts bound each read only: a peer that drips bytes outlasts them."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from unet_factory_courier.outcomes import TryAgain

Note = Callable[[socket.socket], None]


@contextmanager
def deadline(length_s: float) -> Iterator[Note]:
    """Whatever is noted of connections made within the block is cut after ``length_s``, which wakes all who wait on it.

    Raises:
        TryAgain: the block took longer, however it ended: what came over a cut connection may look complete.
    """
    cut = _Cut()
    timer = threading.Timer(length_s, cut.all)
    timer.daemon = True
    timer.start()
    late = TryAgain(f"the archive took longer than {length_s:g} s")
    try:
        yield cut.note
    except Exception:
        if cut.made:
            raise late from None
        raise
    finally:
        timer.cancel()
        cut.forget()
    if cut.made:
        raise late


class _Cut:
    """Holds a descriptor of its own for each connection: TLS takes the first one over, libraries close theirs."""

    def __init__(self) -> None:
        self.made = False
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []

    def note(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.append(socket.socket(fileno=os.dup(connection.fileno())))
        if self.made:
            self.all()

    def all(self) -> None:
        with self._lock:
            self.made = True
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()


class NotingAdapter(HTTPAdapter):
    """For a session of requests: notes each of its connections as soon as it is made, before TLS."""

    def __init__(self, note: Note) -> None:
        self._note = note
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        note = self._note

        class Plain(HTTPConnection):
            def _new_conn(self) -> socket.socket:
                return _noted(super()._new_conn(), note)

        class Secure(HTTPSConnection):
            def _new_conn(self) -> socket.socket:
                return _noted(super()._new_conn(), note)

        class PlainPool(HTTPConnectionPool):
            ConnectionCls = Plain

        class SecurePool(HTTPSConnectionPool):
            ConnectionCls = Secure

        self.poolmanager.pool_classes_by_scheme = {"http": PlainPool, "https": SecurePool}


def _noted(connection: socket.socket, note: Note) -> socket.socket:
    note(connection)
    return connection
