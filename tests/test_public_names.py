"""The names that users import: `__all__` of the two public packages is complete, sorted and true."""

import subprocess
import sys
from types import ModuleType

import pytest

import unet_factory
import unet_factory_client
from unet_factory import errors
from unet_factory.domain import errors as domain_errors
from unet_factory.model import checkpoint

PUBLIC = [unet_factory, unet_factory_client]


@pytest.mark.parametrize("package", PUBLIC, ids=lambda package: package.__name__)
def test_exported_members(package: ModuleType) -> None:
    exported: list[str] = package.__all__
    assert exported == sorted(exported)
    missing = [name for name in exported if not hasattr(package, name)]
    assert missing == []
    ours = {name for name, value in vars(package).items() if is_public(name, value)}
    assert ours <= set(exported), "name it in __all__, or begin it with an underscore"
    assert set(exported) <= set(dir(package))


def test_every_error_can_be_caught_by_its_public_name() -> None:
    raised = {
        name for name, value in vars(domain_errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert raised == set(errors.__all__)
    assert all(getattr(errors, name) is getattr(domain_errors, name) for name in raised)


def test_load_unet_is_that_of_the_core() -> None:
    assert unet_factory.load_unet is checkpoint.load_unet


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="load_hypernetwork"):
        unet_factory.load_hypernetwork  # type: ignore[attr-defined]  # noqa: B018


def test_the_package_imports_nothing_until_it_is_asked() -> None:
    count = (
        "import sys; before = set(sys.modules); import unet_factory;"
        "added = {name.partition('.')[0] for name in set(sys.modules) - before};"
        "print(sorted(added - sys.stdlib_module_names))"
    )
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['unet_factory']"


def is_public(name: str, value: object) -> bool:
    """A class, function or constant of the package, but no module and no import of the language's own."""
    return not name.startswith("_") and not isinstance(value, ModuleType) and name != "TYPE_CHECKING"
