"""What the wheel holds, and that each way of installing it needs no more than it declares."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Callable, Sequence
from email import message_from_bytes
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.deploy.test_extras import role_requirements
from tests.fixtures.project import MODELS, PROJECT
from unet_factory.model import weight_kernel
from unet_factory.model.checkpoint import load_checkpoint, standalone_bytes
from unet_factory_service.page.assets import load_assets

pytestmark = pytest.mark.slow

Install = Callable[..., Path]

PAGE = "unet_factory_service/page/static/"
OPEN_A_NETWORK = """
import sys, torch
from unet_factory import load_unet
with torch.no_grad():
    print(load_unet(sys.argv[1])(torch.ones(1, 1, 16, 16, 16)).shape[1])
absent = {"numpy", "nibabel", "redis", "fsspec", "monai", "httpx"}
print(sorted(absent & sys.modules.keys()))
"""
LOAD_THE_KERNEL = """
from unet_factory.model.weight_kernel import library
print(type(library()).__name__)
"""
WHERE_FROM = """
import importlib.util
for name in ("unet_factory", "unet_factory_cli", "unet_factory_worker", "unet_factory_model_hippocampus_mr"):
    print(importlib.util.find_spec(name).origin)
"""
ASK_NOBODY = """
import httpx
from unet_factory_client import FactoryClient
try:
    FactoryClient("http://127.0.0.1:9", retry_for_s=0).models()
except httpx.ConnectError:
    print("nobody there")
"""


def build(folder: Path, *projects: Path, compiler: str | None = None) -> str:
    """From this checkout by the build backend that is installed, so that no index is asked. Returns what it said."""
    command = [sys.executable, "-m", "pip", "wheel", "--verbose", "--no-deps", "--no-build-isolation", "--no-index"]
    command += ["--wheel-dir", str(folder), *map(str, projects)]
    environment = os.environ | ({"CC": compiler} if compiler else {})
    pip = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    return pip.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build(folder, PROJECT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def data_wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The models' and the scans'."""
    folder = tmp_path_factory.mktemp("data")
    build(folder, *(PROJECT / "packages").iterdir())
    return sorted(folder.glob("*.whl"))


@pytest.fixture
def install(wheel: Path, tmp_path: Path) -> Install:
    """``install(*names, wheels=())``: the Python of an environment that holds the wheel, the distributions named and
    theirs, and further wheels.
    """

    def install(*names: str, wheels: Sequence[Path] = ()) -> Path:
        environment = tmp_path / "environment"
        venv.create(environment, symlinks=True)
        (site,) = environment.glob("lib/python*/site-packages")
        for name in with_requirements(names):
            for entry in top_level_entries(name):
                if not (site / entry.name).exists():
                    (site / entry.name).symlink_to(entry)
        python = environment / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
        subprocess.run([*pip, str(wheel), *map(str, wheels)], check=True)
        return python

    return install


def test_the_wheel_holds_the_product_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    roles = ("service", "worker", "courier", "listener", "client", "cli", "training")
    assert packages == {"unet_factory", *(f"unet_factory_{role}" for role in roles)}
    assert {"unet_factory/py.typed", "unet_factory_client/py.typed"} <= names
    assert not [name for name in names if "research" in name or "test" in name]
    of_the_page = {name.removeprefix(PAGE) for name in names if name.startswith(PAGE)}
    assert of_the_page == set(load_assets().by_path)


def test_the_wheel_is_for_this_machine_with_the_kernel_and_for_any_without(wheel: Path, tmp_path: Path) -> None:
    """What was built before is left alone: it may be in use."""
    installed = weight_kernel.LIBRARY.read_bytes() if weight_kernel.LIBRARY.exists() else None
    said = build(tmp_path, PROJECT, compiler="no-such-compiler -O9")
    (pure,) = tmp_path.glob("*.whl")
    assert pure.name.endswith("-py3-none-any.whl")
    assert not [name for name in zipfile.ZipFile(pure).namelist() if name.endswith((".so", ".c"))]
    assert "PyTorch alone will make networks" in said
    assert "no-such-compiler" in said
    assert installed == (weight_kernel.LIBRARY.read_bytes() if weight_kernel.LIBRARY.exists() else None)
    if shutil.which(os.environ.get("CC", "cc")) is None:
        pytest.skip("there is no C compiler")
    assert wheel.name.endswith(f"-py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}.whl")
    assert [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith((".so", ".c"))] == [
        "unet_factory/model/_make_weights.so"
    ]


def test_a_kernel_out_of_the_wheel_makes_networks(install: Install, wheel: Path) -> None:
    if wheel.name.endswith("-any.whl"):
        pytest.skip("there is no C compiler")
    assert run(install("pydantic", "safetensors", "torch"), "-c", LOAD_THE_KERNEL).stdout == "CDLL\n"


def test_the_base_install_declares_the_client_and_no_more(wheel: Path) -> None:
    assert declared(wheel) == {"anyio", "httpx", "httpx-sse", "pydantic", "stamina"}


def test_the_client_imports_with_httpx_and_pydantic_only(install: Install) -> None:
    imported = "import unet_factory_client; print(*unet_factory_client.__all__)"
    assert "FactoryClient" in run(install("httpx", "pydantic"), "-c", imported).stdout


def test_the_client_works_with_what_the_base_install_declares(install: Install, wheel: Path) -> None:
    assert run(install(*declared(wheel)), "-c", ASK_NOBODY).stdout == "nobody there\n"


def test_a_network_opens_with_torch_and_safetensors_only(install: Install, tiny_models: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(tiny_models / "tiny.safetensors")
    (tmp_path / "unet.safetensors").write_bytes(
        standalone_bytes(checkpoint, checkpoint.manifest.grid.snap((1.0, 1.0, 1.0)))
    )
    python = install("pydantic", "safetensors", "torch")
    classes, imported = run(python, "-c", OPEN_A_NETWORK, str(tmp_path / "unet.safetensors")).stdout.splitlines()
    assert (classes, imported) == ("3", "[]")


def test_a_command_names_the_extra_that_it_lacks(install: Install, wheel: Path) -> None:
    python = install(*declared(wheel))
    assert "pip install 'unet-factory[cli]'" in run(python, "-m", "unet_factory_cli", "models", fails=True).stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["gateway"], "pip install 'unet-factory[service]'"),
        (["worker"], "pip install 'unet-factory[worker]'"),
        (["courier"], "pip install 'unet-factory[courier]'"),
        (["serve"], "pip install 'unet-factory[serve]'"),
        (["demo"], "pip install 'unet-factory[demo]'"),
        (["keys", "list"], "pip install 'unet-factory[service]'"),
        (["segment", "{config}", "-o", "x.nii.gz", "--local"], "pip install 'unet-factory[local]'"),
        (["train", "{config}"], "pip install 'unet-factory[training]'"),
        (["compare", "{config}", "-o", "out"], "the experiments are not installed with the package"),
    ],
)
def test_a_role_names_the_extra_that_it_lacks(command: list[str], said: str, install: Install) -> None:
    config = str(PROJECT / "configs" / "hippocampus-mr.yaml")
    python = install("httpx", "pydantic", "pyyaml", "rich", "typer")
    told = run(python, "-m", "unet_factory_cli", *(word.format(config=config) for word in command), fails=True).stderr
    assert said in told
    assert "Traceback" not in told


def test_each_model_travels_with_its_licence_and_card_in_a_package_of_its_own(data_wheels: list[Path]) -> None:
    shipped = {path.stem for path in MODELS.glob("*.safetensors")}
    found = set()
    for built in data_wheels:
        with zipfile.ZipFile(built) as archive:
            names = archive.namelist()
            (licence,) = (archive.read(name).decode() for name in names if name.endswith("LICENSE"))
        assert "Please cite" in licence
        models = {Path(name).stem for name in names if name.endswith(".safetensors")}
        cards = {Path(name).stem for name in names if name.endswith("-mr.md")}
        assert models == cards
        found |= models
    assert found == shipped


@pytest.mark.timeout(400)
def test_from_installed_wheels_alone_the_demo_draws_and_a_scan_is_segmented(
    install: Install, data_wheels: list[Path], tmp_path: Path
) -> None:
    """``demo`` starts and stops ``serve``; nothing comes from a checkout."""
    wheels = [wheel for wheel in data_wheels if "hippocampus" in wheel.name or "example" in wheel.name]
    python = install(*(Requirement(line).name for line in role_requirements("demo")), wheels=wheels)
    out = tmp_path / "out"
    said = run(python, "-m", "unet_factory_cli", "demo", "--quick", "-o", str(out)).stdout
    assert "the same label as the gateway: 100.00%" in said
    assert (out / "overlay.png").read_bytes().startswith(b"\x89PNG")
    (scan,) = python.parents[1].glob("lib/python*/site-packages/unet_factory_example_scans/images/*_004.nii.gz")
    run(python, "-m", "unet_factory_cli", "segment", str(scan), "-o", str(out / "x.nii.gz"), "--local")
    table = run(python, "-m", "unet_factory_cli", "segment", str(scan.parent), "-o", str(out / "all"), "--local").stdout
    assert table.count("segmented") == len(list((out / "all").glob("*.nii.gz"))) == len(list(scan.parent.iterdir()))
    where = run(python, "-c", WHERE_FROM).stdout.split()
    assert where
    assert all(path.startswith(str(python.parents[1])) for path in where)


def run(python: Path, *arguments: str, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Away from the checkout, so that nothing is imported from it."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "UNET_FACTORY"))}
    done = subprocess.run(
        [str(python), *arguments], capture_output=True, text=True, cwd=python.parent, env=environment, check=False
    )
    assert (done.returncode != 0) == fails, done.stderr
    return done


def declared(wheel: Path) -> set[str]:
    """Names of the distributions that an install without extras brings."""
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = message_from_bytes(archive.read(metadata)).get_all("Requires-Dist", [])
    return {line.name for line in map(Requirement, lines) if line.marker is None or line.marker.evaluate({"extra": ""})}


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """The distributions named and, recursively, those that they require here."""
    found: set[str] = set()
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found.add(name)
        needed = map(Requirement, distribution(name).requires or [])
        waiting += [one.name for one in needed if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


def top_level_entries(name: str) -> set[Path]:
    """The files and folders in this environment's ``site-packages`` that belong to a distribution."""
    installed = distribution(name)
    names = {file.parts[0] for file in installed.files or [] if file.parts[0] not in ("..", "__pycache__")}
    return {Path(str(installed.locate_file(entry))) for entry in names}
