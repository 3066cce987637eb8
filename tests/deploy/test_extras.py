"""The extras: each role imports only what its own declares, and `all` is the sum of them."""

import importlib.util
import sys
import tomllib
from importlib.metadata import packages_distributions
from typing import Any

import grimp
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.fixtures.project import DEPLOY, PROJECT

ROLES = {
    "service": "unet_factory_service",
    "listener": "unet_factory_listener",
    "courier": "unet_factory_courier",
    "worker": "unet_factory_worker",
    "training": "unet_factory_training",
    "research": "unet_factory_research",
}
# Modules that a declared distribution brings for its users.
COMPANIONS = {"starlette": "fastapi", "kombu": "celery", "billiard": "celery", "cycler": "matplotlib"}
# Of the extra `tracing`, imported where a collector is named; the images have it.
TRACING = {"opentelemetry"}
# Of the worker, which has the GPU; whoever else shows metrics asks whether it is there.
GPU = {"pynvml"}
# A plugin that pydicom imports where pixels are decoded, which only these do.
DECODES = {"worker"}


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    graph = grimp.build_graph("unet_factory", *ROLES.values(), "unet_factory_client", include_external_packages=True)
    # `load_unet` and `segment` are imported when somebody asks for them, which no role does from there
    for lazily in ("checkpoint", "segment_image"):
        graph.remove_import(importer="unet_factory", imported=f"unet_factory.model.{lazily}")
    return graph


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    parsed: dict[str, Any] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    return parsed


@pytest.mark.parametrize("role", ROLES)
def test_a_role_imports_only_what_its_extra_declares(role: str, imports: grimp.ImportGraph) -> None:
    declared = {canonicalize_name(Requirement(line).name) for line in role_requirements(role)}
    reached = imports.find_upstream_modules(ROLES[role], as_package=True)
    outside = {name for name in reached if imports.is_module_squashed(name)} - sys.stdlib_module_names - TRACING - GPU
    outside.discard("pydantic_core")  # half of pydantic, in a distribution of its own that pydantic pins
    if role not in DECODES:
        outside.discard("imagecodecs")
    assert outside
    undeclared = {name: distributions_of(name) for name in outside if not distributions_of(name) & declared}
    assert undeclared == {}


def test_all_is_every_extra_but_models_and_those_of_developers(project: dict[str, Any]) -> None:
    every = {
        line
        for name in project["optional-dependencies"]
        if name not in ("dev", "docs", "models", "mutants")
        for line in role_requirements(name)
    }
    assert set(role_requirements("all")) == every


def test_every_requirement_has_a_lower_bound_and_is_pinned(project: dict[str, Any]) -> None:
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    pins = {canonicalize_name(pin.name): pin for pin in map(Requirement, (line for line in lines if line[:1] != "#"))}
    for line in role_requirements("all"):
        requirement = Requirement(line)
        (pinned,) = pins[canonicalize_name(requirement.name)].specifier
        (bound,) = requirement.specifier
        assert bound.operator == ">="
        assert requirement.specifier.contains(pinned.version), line
        assert pinned.version.startswith(bound.version), f"{line}: not the version that the tests run with"


def role_requirements(role: str) -> list[str]:
    """As the images are built."""
    spec = importlib.util.spec_from_file_location("role_requirements", DEPLOY / "docker" / "role_requirements.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found: list[str] = module.role_requirements(PROJECT / "pyproject.toml", role)
    return found


def distributions_of(module: str) -> set[str]:
    named = packages_distributions().get(module, [])
    return {canonicalize_name(name) for name in named} | {COMPANIONS.get(module, "")}
