"""The files that operators start from agree with the code and with each other."""

import json
import re
from collections import Counter
from typing import Any

import pytest
import yaml
from pydicom import Dataset

from tests.fixtures.aws import AWS_VARIABLES
from tests.fixtures.project import PROJECT
from tests.fixtures.settings import FactorySettings
from tests.system.orthanc import with_defaults
from unet_factory.destinations import Destinations
from unet_factory.platform import metrics
from unet_factory.platform.gpus import GpuFigures
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory_cli.embedded import CACHE_OPTIONS, JOBS_OPTIONS
from unet_factory_cli.own_key import API_KEY_FILE
from unet_factory_cli.settings import known_variables, settings_table
from unet_factory_service.dicomweb.routing import read_routing

DOCKERFILE = (PROJECT / "Dockerfile").read_text()
PINNED = re.compile(r"^[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*$")
_READ_AT_SCRAPE = {
    "unet_factory_queue_depth",
    "unet_factory_deliveries_pending",
    "unet_factory_disk_free_bytes",
    "unet_factory_disk_capacity_bytes",
}
OURS = ("gateway", "worker", "worker-gpu", "courier")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    parsed: dict[str, Any] = yaml.safe_load((PROJECT / "docker-compose.yml").read_text())
    return parsed


def test_the_services_are_those_that_operators_know(compose: dict[str, Any]) -> None:
    beside = {
        "listener",
        "pacs-key",
        "orthanc",
        "redis-jobs",
        "redis-cache",
        "s3",
        "prometheus",
        "alertmanager",
        "grafana",
    }
    assert set(compose["services"]) == {*OURS, *beside}


def test_every_service_has_a_pinned_image_or_a_target_of_the_dockerfile(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        if "build" in service:
            assert service["build"]["target"] in stages(), name
            assert set(service["build"].get("args", {})) <= arguments(), name
        else:
            assert PINNED.match(service["image"]), name


def test_every_factory_variable_is_a_setting_with_a_legal_value(compose: dict[str, Any]) -> None:
    environments = [service.get("environment", {}) for service in compose["services"].values()]
    environments.append(dict(re.findall(r"(UNET_FACTORY_\w+)=(\S+)", DOCKERFILE)))
    for environment in environments:
        named = {name: value for name, value in environment.items() if name.startswith("UNET_FACTORY_")}
        ours = {name: value for name, value in named.items() if name != API_KEY_FILE}
        assert named.keys() <= known_variables()
        FactorySettings.model_validate(
            {name.removeprefix("UNET_FACTORY_").lower(): value for name, value in ours.items()}
        )


def test_the_guide_lists_every_setting_and_names_no_other() -> None:
    guide = (PROJECT / "docs/guide/operate.md").read_text()
    _, table, _ = re.split(r"<!-- (?:settings|end of settings).* -->\n", guide)
    assert table == settings_table(), "run: make settings"
    named = set(re.findall(r"UNET_FACTORY_[A-Z_]+[A-Z]", guide))
    assert known_variables() == named


def test_gateway_and_workers_share_stores_blobs_and_models(compose: dict[str, Any]) -> None:
    services = [compose["services"][name] for name in OURS]
    stores = {"UNET_FACTORY_REDIS_URL", "UNET_FACTORY_CACHE_URL", "UNET_FACTORY_BLOB_URL", "UNET_FACTORY_MODELS_DIR"}
    for service in services:
        assert {name: service["environment"][name] for name in stores} == {
            name: services[0]["environment"][name] for name in stores
        }
        assert service["volumes"] == services[0]["volumes"]
        assert [volume["read_only"] for volume in service["volumes"] if isinstance(volume, dict)] == [True, True, True]


def test_a_stopped_worker_may_finish_its_job(compose: dict[str, Any]) -> None:
    grace = compose["services"]["worker"]["stop_grace_period"]
    assert float(grace.removesuffix("s")) > FactorySettings.model_fields["stop_grace_s"].default


def test_the_stores_keep_what_the_embedded_ones_keep(compose: dict[str, Any]) -> None:
    jobs = options(compose["services"]["redis-jobs"]["command"])
    assert jobs | JOBS_OPTIONS == jobs
    assert any(volume.endswith(":/data") for volume in compose["services"]["redis-jobs"]["volumes"])
    cache = options(compose["services"]["redis-cache"]["command"])
    assert cache["maxmemory-policy"] == CACHE_OPTIONS["maxmemory-policy"]
    assert "maxmemory" in cache


def test_every_service_is_locked_down_and_published_on_loopback_only(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name


def test_no_secret_stands_in_a_file(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY", name):
                assert name.endswith("_FILE")
                assert value.startswith("/run/secrets/")


def test_waiting_is_for_services_that_can_tell_their_health(compose: dict[str, Any]) -> None:
    services = compose["services"]
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            if services[name].get("restart") == "no":  # it does its one task and ends
                assert condition == {"condition": "service_completed_successfully"}
                continue
            assert condition == {"condition": "service_healthy"}
            target = services[name].get("build", {}).get("target")
            assert "healthcheck" in services[name] or "HEALTHCHECK --" in stages()[target]


def test_named_volumes_networks_and_secrets_are_declared(compose: dict[str, Any]) -> None:
    for service in compose["services"].values():
        named = [v.split(":")[0] for v in service.get("volumes", []) if isinstance(v, str) and v[0] not in "./"]
        assert set(named) <= compose["volumes"].keys()
        assert set(service["networks"]) <= compose["networks"].keys()
        assert set(service.get("secrets", [])) <= compose["secrets"].keys()


def test_only_the_gpu_profile_asks_for_a_device(compose: dict[str, Any]) -> None:
    with_device = {name for name, service in compose["services"].items() if "deploy" in service}
    assert with_device == {"worker-gpu"}
    assert compose["services"]["worker-gpu"]["profiles"] == ["gpu"]


@pytest.mark.parametrize("role", ["gateway", "listener", "courier", "worker", "training"])
def test_every_role_runs_unprivileged_from_its_own_target(role: str) -> None:
    stage = stages()[role]
    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", stage, re.MULTILINE)
    assert re.search(r'^ENTRYPOINT \["unet-factory", "[\w-]+"\]$', stage, re.MULTILINE)
    assert "HEALTHCHECK" in stage


@pytest.mark.parametrize("role", ["gateway", "listener", "courier"])
def test_a_role_that_computes_nothing_is_built_without_torch(role: str) -> None:
    lineage, stage = "", f"{role}-requirements"
    while stage in stages():
        lineage += stages()[stage]
        stage = lineage_of(stage)
    assert "TORCH" not in lineage
    assert f"{role}-requirements" in stages()[role]
    assert "torch" not in stages()[role]


def test_base_image_is_pinned_and_copied_files_exist_and_reach_the_builder() -> None:
    default = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert default
    assert PINNED.match(default[1])
    allowed = {line[1:] for line in (PROJECT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source for line in re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE) for source in line.split()
    }
    assert copied
    for source in copied:
        assert (PROJECT / source).exists(), source
        assert any(source == path or source.startswith(f"{path}/") for path in allowed), source


def test_every_installing_stage_declares_the_arguments_of_a_mirror() -> None:
    """Not every builder hands a stage's arguments to the stages made from it."""
    installing = {name: stage for name, stage in stages().items() if " install --no-cache-dir" in stage}
    assert len(installing) == 7
    for name, stage in installing.items():
        for argument in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_CERT"):
            assert f"ARG {argument}\n" in stage, name


def test_torch_is_pinned_as_in_the_constraints() -> None:
    constraints = (PROJECT / "constraints.txt").read_text().splitlines()
    pinned = re.search(r"^ARG TORCH=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert pinned
    assert pinned[1] in constraints


def test_the_destinations_that_are_shipped_can_be_loaded() -> None:
    assert Destinations.load(PROJECT / "deploy/destinations.yml") == Destinations()


def test_prometheus_finds_the_ports_that_the_roles_listen_on() -> None:
    config = yaml.safe_load((PROJECT / "deploy/prometheus/prometheus.yml").read_text())
    ports = {job["job_name"]: job["dns_sd_configs"][0]["port"] for job in config["scrape_configs"]}
    assert f"EXPOSE {ports['unet-factory-gateway']}\n" in stages()["gateway"]
    for role in ("worker", "courier"):
        assert f"UNET_FACTORY_METRICS_PORT={ports[f'unet-factory-{role}']}\n" in stages()[role]
        assert "UNET_FACTORY_METRICS_HOST=0.0.0.0 " in stages()[role]  # its own default is loopback
    targets = {name for job in config["scrape_configs"] for name in job["dns_sd_configs"][0]["names"]}
    assert targets == set(OURS)


def test_dashboard_and_rules_use_only_metrics_that_exist() -> None:
    expressions = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    recorded = set()
    for file in (PROJECT / "deploy/prometheus/rules").glob("*.yml"):
        for rule in (rule for group in yaml.safe_load(file.read_text())["groups"] for rule in group["rules"]):
            expressions.append(rule["expr"])
            recorded.add(rule.get("record"))
    used = {name for expression in expressions for name in re.findall(r"unet_factory[\w:]+", expression)}
    assert used
    assert used <= exported() | recorded


def test_every_alert_tells_what_to_do_and_so_does_the_guide() -> None:
    file = yaml.safe_load((PROJECT / "deploy/prometheus/rules/alerts.yml").read_text())
    alerts = [rule for group in file["groups"] for rule in group["rules"]]
    assert all(alert["annotations"].keys() >= {"summary", "description"} for alert in alerts)
    guide = (PROJECT / "docs/guide/operate.md").read_text()
    told = re.findall(r"^\| `(UnetFactory\w+)` \| .{20,}", guide, re.MULTILINE)
    assert sorted(told) == sorted(alert["alert"] for alert in alerts)


def test_every_aws_variable_is_one_that_the_s3_library_reads(compose: dict[str, Any]) -> None:
    environments = [service.get("environment", {}) for service in compose["services"].values()]
    assert {name for environment in environments for name in environment if name.startswith("AWS_")} <= AWS_VARIABLES


def test_dashboards_ask_the_data_source_that_is_chosen_and_show_every_exported_family() -> None:
    source = yaml.safe_load((PROJECT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    for dashboard in dashboards():
        assert dashboard["templating"]["list"][0]["query"] == source["datasources"][0]["type"]
        assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
        assert overlapping([panel["gridPos"] for panel in dashboard["panels"]]) == []
    asked = {target["datasource"]["uid"] for panel in panels() for target in panel.get("targets", [])}
    assert asked == {"${datasource}"}
    assert len({dashboard["uid"] for dashboard in dashboards()}) == len(dashboards())
    shown = " ".join(target["expr"] for panel in panels() for target in panel.get("targets", []))
    assert not {name for name in families() if name not in shown}


def dashboards() -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted((PROJECT / "deploy/grafana/dashboards").glob("*.json"))]


def panels() -> list[dict[str, Any]]:
    return [panel for dashboard in dashboards() for panel in dashboard["panels"]]


def overlapping(places: list[dict[str, int]]) -> list[tuple[int, int]]:
    """Cells (x, y) of the grid that two panels take."""
    cells = Counter(
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    )
    return [cell for cell, count in cells.items() if count > 1]


def stages() -> dict[str, str]:
    """Name -> text of every stage of the Dockerfile."""
    parts = re.split(r"^FROM \S+ AS (\S+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def lineage_of(stage: str) -> str:
    """What a stage is made from."""
    found = re.search(rf"^FROM (\S+) AS {re.escape(stage)}$", DOCKERFILE, re.MULTILINE)
    assert found
    return found[1]


def arguments() -> set[str]:
    return set(re.findall(r"^ARG (\w+)", DOCKERFILE, re.MULTILINE))


def options(command: list[str]) -> dict[str, str]:
    """``--name value`` pairs of a server's command."""
    return {name.removeprefix("--"): value for name, value in zip(command[1::2], command[2::2], strict=True)}


def families() -> set[str]:
    """Names of the metric families that the core defines, and of those that are read when they are asked for."""
    from prometheus_client.metrics import MetricWrapperBase

    defined = [value for value in vars(metrics).values() if isinstance(value, MetricWrapperBase)]
    of_gpus = {family.name for family in GpuFigures().describe()}
    return {family.name for metric in defined for family in metric.describe()} | of_gpus | _READ_AT_SCRAPE


def exported() -> set[str]:
    """Names of all samples that those families can show."""
    suffixes = ("", "_total", "_bucket", "_count", "_sum")
    return {name + suffix for name in families() for suffix in suffixes}


def test_orthanc_finds_what_is_mounted_and_the_factory(compose: dict[str, Any]) -> None:
    mounted = dict(volume.split(":")[:2][::-1] for volume in compose["services"]["orthanc"]["volumes"])
    config = json.loads(with_defaults((PROJECT / mounted["/etc/orthanc/orthanc.json"]).read_text()))
    assert (PROJECT / mounted[config["PythonScript"]]).is_file()
    assert config["StorageDirectory"] in mounted
    factory = config["DicomWeb"]["Servers"][config["UnetFactory"]["Server"]]["Url"]
    assert factory == "http://gateway:8000/dicomweb"
    assert "EXPOSE 8000\n" in stages()["gateway"]
    archive = Destinations.load(PROJECT / "deploy/orthanc/destinations.yml").source("orthanc")
    assert archive.url == f"http://orthanc:8042{config['DicomWeb']['Root'].rstrip('/')}"


@pytest.mark.parametrize("file", ["deploy/routing.yml", "deploy/orthanc/routing.yml"])
def test_shipped_rules_are_good(file: str) -> None:
    destinations = Destinations.load(PROJECT / "deploy/orthanc/destinations.yml")
    routing = read_routing(PROJECT / file, ModelRegistry.scan(PROJECT / "models"), destinations)
    assert routing is not None
    assert routing.rules[0].match.modality == "MR"


def test_the_shipped_orthanc_rules_leave_whole_heads_alone() -> None:
    registry, destinations = (
        ModelRegistry.scan(PROJECT / "models"),
        Destinations.load(PROJECT / "deploy/orthanc/destinations.yml"),
    )
    routing = read_routing(PROJECT / "deploy/orthanc/routing.yml", registry, destinations)
    assert routing is not None
    crop, head = (Dataset() for _ in range(2))
    crop.Modality = head.Modality = "MR"
    crop.SeriesDescription, head.SeriesDescription, head.BodyPartExamined = "HippoCrop", "t1_mprage_sag", "BRAIN"
    rule = routing.rule_for(crop)
    assert rule is not None
    assert rule.model == "hippocampus-mr"
    assert routing.rule_for(head) is None
