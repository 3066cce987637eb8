from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.processes import free_port
from unet_factory_listener.options import ListenerOptions
from unet_factory_listener.scp import listening
from unet_factory_listener.spool import Spool


@pytest.fixture
def options(tmp_path: Path) -> ListenerOptions:
    return ListenerOptions(
        ae_title="UNETFACTORY",
        allowed=("SCANNER",),
        host="127.0.0.1",
        port=free_port(),
        spool=tmp_path / "spool",
        gateway_url="http://127.0.0.1:9",
    )


@pytest.fixture
def spool(options: ListenerOptions) -> Iterator[Spool]:
    """Of a server that listens."""
    spool = Spool(options.spool)
    with listening(options, spool):
        yield spool
