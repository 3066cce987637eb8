"""A proxy between two processes, on TCP ports or unix sockets, that delays, withholds or cuts what passes.

Bytes that pass are never changed. All links run in one event loop, in a thread of its own.
"""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

Address = Path | int  # a unix socket, or a port on loopback

_CHUNK_BYTES = 2**16
_Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Link:
    """From ``listens_at`` to ``leads_to``. ``delay_s`` is for each piece that passes; ``mode`` is for all of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, listens_at: Address, leads_to: Address) -> None:
        self._loop, self.listens_at, self._leads_to = loop, listens_at, leads_to
        self.delay_s = 0.0
        self._refuses = False
        self._open = asyncio.Event()
        self._open.set()
        self._writers = set[asyncio.StreamWriter]()

    def cut(self, *, refuse: bool = False) -> None:
        """Close every connection; with ``refuse``, new ones too until :meth:`heal`."""
        self._refuses = refuse
        self._loop.call_soon_threadsafe(self._close_all)

    def withhold(self) -> None:
        """Nothing passes until :meth:`heal`; connections stay, as with a network that drops packets."""
        self._loop.call_soon_threadsafe(self._open.clear)

    def heal(self) -> None:
        self.delay_s, self._refuses = 0.0, False
        self._loop.call_soon_threadsafe(self._open.set)

    async def serve(self) -> None:
        if isinstance(self.listens_at, Path):
            await asyncio.start_unix_server(self._accept, self.listens_at)
        else:
            await asyncio.start_server(self._accept, "127.0.0.1", self.listens_at)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = {writer}
        self._writers.add(writer)
        try:
            if self._refuses:
                return
            there_reader, there_writer = await self._connect()
            writers.add(there_writer)
            self._writers.add(there_writer)
            ways = [self._pass_on(reader, there_writer), self._pass_on(there_reader, writer)]
            await asyncio.gather(*ways)
        except (OSError, asyncio.CancelledError):  # either side has gone, or all links end
            pass
        finally:
            self._writers -= writers
            for each in writers:
                each.close()

    async def _connect(self) -> _Streams:
        if isinstance(self._leads_to, Path):
            return await asyncio.open_unix_connection(self._leads_to)
        return await asyncio.open_connection("127.0.0.1", self._leads_to)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(_CHUNK_BYTES):
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            await self._open.wait()
            writer.write(chunk)
            await writer.drain()
        with suppress(OSError, RuntimeError):
            writer.write_eof()

    def _close_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


class Proxies(threading.Thread):
    """The thread with the event loop; see :func:`proxies`."""

    def __init__(self) -> None:
        super().__init__(name="proxies", daemon=True)
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()

    def link(self, listens_at: Address, leads_to: Address) -> Link:
        """A link that listens already."""
        link = Link(self._loop, listens_at, leads_to)
        asyncio.run_coroutine_threadsafe(link.serve(), self._loop).result(10)
        return link

    def run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:  # at its end all tasks are cancelled
            runner.run(self._wait())

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self.join()

    async def _wait(self) -> None:
        await self._over.wait()


@contextmanager
def proxies() -> Iterator[Proxies]:
    """Links live as long as the block."""
    thread = Proxies()
    thread.start()
    try:
        yield thread
    finally:
        thread.stop()
