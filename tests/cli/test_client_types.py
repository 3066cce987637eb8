"""What type checkers of the client's users see."""

import re
import subprocess
import sys
from pathlib import Path

from tests.fixtures.project import PROJECT

SNIPPET = """
from pathlib import Path
from unet_factory_client import AsyncFactoryClient, FactoryClient

def blocking(client: FactoryClient) -> None:
    reveal_type(client.segment("scan.nii", "labels.nii"))
    reveal_type(client.submit("scan.nii"))
    reveal_type(client.wait("id"))
    reveal_type(client.job("id"))
    reveal_type([job for job in client.jobs()])
    reveal_type([job for job in client.events("id")])
    reveal_type(client.labelmap("id", Path("labels.nii")))
    reveal_type(client.label_image("id"))
    reveal_type(client.unet((1, 1, 1)))
    reveal_type(client.models())
    reveal_type(client.model("name"))
    reveal_type(client.status())
    reveal_type(client.quote((1, 1, 1), (1, 1, 1)))
    reveal_type(client.deliveries())
    reveal_type(client.replay("id"))
    reveal_type(client.ready())

async def asynchronous(client: AsyncFactoryClient) -> None:
    reveal_type(await client.segment("scan.nii", "labels.nii"))
    reveal_type(await client.submit("scan.nii"))
    reveal_type(await client.wait("id"))
    reveal_type(await client.job("id"))
    reveal_type([job async for job in client.jobs()])
    reveal_type([job async for job in client.events("id")])
    reveal_type(await client.labelmap("id", Path("labels.nii")))
    reveal_type(await client.label_image("id"))
    reveal_type(await client.unet((1, 1, 1)))
    reveal_type(await client.models())
    reveal_type(await client.model("name"))
    reveal_type(await client.status())
    reveal_type(await client.quote((1, 1, 1), (1, 1, 1)))
    reveal_type(await client.deliveries())
    reveal_type(await client.replay("id"))
    reveal_type(await client.ready())
"""
MISUSE = """
from unet_factory_client import AsyncFactoryClient, FactoryClient

FactoryClient().unet((1, 1, 1), dtype="float64")
FactoryClient().job(1)
AsyncFactoryClient().quote(shape=(1, 1, 1))
"""
JOB = "unet_factory.domain.jobs.Job"
PATH = "pathlib.Path"
ANSWERS = "unet_factory_client.answers"
REVEALED = [
    *(JOB, JOB, JOB, JOB, f"list[{JOB}]", f"list[{JOB}]", PATH),
    "nibabel.nifti1.Nifti1Image",
    f"{ANSWERS}.StandaloneNetwork",
    f"list[{ANSWERS}.ModelDescription]",
    f"{ANSWERS}.ModelDescription",
    f"{ANSWERS}.FactoryStatus",
    "unet_factory.domain.quote.Quote",
    f"list[{ANSWERS}.DeliveryDescription]",
    f"{ANSWERS}.DeliveryDescription",
    "bool",
]


def test_every_answer_has_its_type_and_wrong_arguments_are_errors(tmp_path: Path) -> None:
    (tmp_path / "revealed.py").write_text(SNIPPET)
    (tmp_path / "misused.py").write_text(MISUSE)
    told = mypy(tmp_path / "revealed.py", tmp_path / "misused.py")
    assert re.findall(r'revealed.py:\d+: note: Revealed type is "(.*)"', told) == 2 * REVEALED, told
    errors = re.findall(r"misused.py:(\d+): error: .*\[(.*)\]", told)
    assert sorted(errors) == [("4", "arg-type"), ("5", "arg-type"), ("6", "call-arg"), ("6", "unused-coroutine")], told


def mypy(*files: Path) -> str:
    """Its messages, of the project's own settings."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--no-pretty", *map(str, files)], cwd=PROJECT, capture_output=True, text=True
    )
    assert not done.stderr, done.stderr
    return done.stdout
