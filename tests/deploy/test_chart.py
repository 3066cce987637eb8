"""The Helm chart: what it renders is valid Kubernetes, and agrees with the code, the compose file and itself."""

import importlib.util
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from tests.fixtures.aws import AWS_VARIABLES
from tests.fixtures.helm_chart import CHART, NAMESPACE, RELEASE, Manifest, Rendered, render
from tests.fixtures.project import DEPLOY, PROJECT
from tests.fixtures.settings import FactorySettings
from unet_factory import __version__
from unet_factory.destinations import Destinations
from unet_factory.domain.jobs import SEGMENT_QUEUE
from unet_factory.platform.model_registry import ModelRegistry
from unet_factory.platform.settings import SECRETS_DIR
from unet_factory_cli.commands import app as commands
from unet_factory_cli.embedded import CACHE_OPTIONS, JOBS_OPTIONS
from unet_factory_cli.own_key import API_KEY_FILE
from unet_factory_cli.settings import known_variables
from unet_factory_service.dicomweb.routing import read_routing

KUBERNETES = "1.29"  # the oldest that the chart allows; what is legal there stays legal
CUSTOM = ("keda.sh/", "monitoring.coreos.com/")  # checked where they are rendered
EXAMPLES = sorted((CHART / "ci").glob("*.yaml"))
WITH_A_COURIER = {"unet-factory-courier"}  # which not every example has
NAMED = {SECRETS_DIR, API_KEY_FILE}

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("helm_python") is None, reason="Helm's library is not built for this machine"
)

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown value": ({"gatewy": {}}, "gatewy"),
    "a setting without its prefix": ({"settings": {"RETENTION_S": "60"}}, "RETENTION_S"),
    "only workers that come and go": (
        {"workers": {"cpu": {"autoscaling": {"enabled": True, "asJobs": True}}}},
        "asJobs",
    ),
    "no worker at all times": ({"workers": {"cpu": {"autoscaling": {"minReplicas": 0}}}}, "minReplicas"),
    "stores that nobody names": ({"stores": {"bundled": False}, "networkPolicy": {"enabled": False}}, "urlsSecret"),
    "sentinels of no service": (
        {
            "stores": {"bundled": False, "urlsSecret": "urls"},
            "networkPolicy": {"enabled": False},
            "workers": {"cpu": {"autoscaling": {"enabled": True}}},
            "autoscaling": {"redis": {"sentinel": {"addresses": "a:26379"}}},
        },
        "autoscaling.redis.sentinel.service",
    ),
    "stores out of reach": ({"stores": {"bundled": False, "urlsSecret": "urls"}}, "networkPolicy.egress"),
    "a courier without destinations": ({"courier": {"enabled": True}}, "courier.destinations"),
    "a listener that anybody may send to": ({"listener": {"enabled": True, "apiKeySecret": "key"}}, "listener.allow"),
}


@cache
def _all() -> list[Rendered]:
    """Helm starts once for all tests."""
    examples = [yaml.safe_load(example.read_text()) for example in EXAMPLES]
    return render({}, *examples, *(values for values, _ in MISTAKES.values()))


@pytest.fixture(params=["default", *(example.name for example in EXAMPLES)])
def rendered(request: pytest.FixtureRequest) -> Rendered:
    return _all()[["default", *(example.name for example in EXAMPLES)].index(request.param)]


@pytest.fixture
def manifests(rendered: Rendered) -> list[Manifest]:
    return rendered["manifests"]


def test_helm_has_nothing_to_remark(rendered: Rendered) -> None:
    assert (rendered["lint"], rendered["refused"]) == ([], "")


@pytest.mark.parametrize("number", range(len(MISTAKES)), ids=list(MISTAKES))
def test_values_that_cannot_work_are_refused_by_name(number: int) -> None:
    _, named = list(MISTAKES.values())[number]
    refusal = _all()[-len(MISTAKES) :][number]
    assert named in refusal["refused"]
    assert refusal["manifests"] == []


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == __version__
    assert chart["kubeVersion"] == f">={KUBERNETES}.0-0"


def test_every_document_is_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if not manifest["apiVersion"].startswith(CUSTOM):
            kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_no_two_objects_have_one_name_and_all_are_of_this_release(manifests: list[Manifest]) -> None:
    names = [(manifest["kind"], manifest["metadata"]["name"]) for manifest in manifests]
    assert len(set(names)) == len(names)
    assert all(manifest["metadata"]["labels"]["app.kubernetes.io/instance"] == RELEASE for manifest in manifests)


def test_every_command_is_one_of_ours_with_options_that_it_takes(manifests: list[Manifest]) -> None:
    group = typer.main.get_command(commands)
    for container in ours(manifests):
        program, role, *arguments = container["command"]
        assert program == "unet-factory"
        group.commands[role].make_context(role, arguments)  # type: ignore[attr-defined]


def test_every_image_is_a_target_of_the_dockerfile_for_its_role(manifests: list[Manifest]) -> None:
    dockerfile = (PROJECT / "Dockerfile").read_text()
    entrypoints = dict(
        re.findall(r'^FROM base AS (\w+)$.*?^ENTRYPOINT \["unet-factory", "([\w-]+)"\]$', dockerfile, re.M | re.S)
    )
    for container in ours(manifests):
        image, _, tag = container["image"].rpartition("/")[2].partition(":")
        target = image.removeprefix("unet-factory-").removesuffix("-cuda")
        assert (entrypoints[target], tag) == (container["command"][1], __version__)


def test_every_variable_is_a_setting_with_a_legal_value_and_is_given_once(manifests: list[Manifest]) -> None:
    for container in ours(manifests):
        names = [variable["name"] for variable in container["env"]]
        assert len(set(names)) == len(names)
        assert set(names) <= known_variables() | AWS_VARIABLES
        FactorySettings.model_validate(
            {
                variable["name"].removeprefix("UNET_FACTORY_").lower(): variable["value"]
                for variable in container["env"]
                if variable["name"].startswith("UNET_FACTORY_")
                and variable["name"] not in NAMED
                and "value" in variable
            }
        )


def test_no_secret_is_in_a_variable(manifests: list[Manifest]) -> None:
    for container in containers(manifests):
        for variable in container.get("env", []):
            assert "secretKeyRef" not in variable.get("valueFrom", {})
            if re.search(r"PASSWORD|SECRET|TOKEN|KEY|CREDENTIALS", variable["name"]):
                assert variable["value"].startswith("/run/secrets/")
                assert any(variable["value"].startswith(mount["mountPath"]) for mount in container["volumeMounts"])


def test_every_container_is_locked_down_and_has_probes_and_limits(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "livenessProbe" in container
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()
            assert "memory" in container["resources"]["limits"]


def test_every_mounted_volume_and_named_port_is_there(manifests: list[Manifest]) -> None:
    sets = [manifest["spec"] for manifest in manifests if manifest["kind"] == "StatefulSet"]
    claims = {claim["metadata"]["name"] for spec in sets for claim in spec.get("volumeClaimTemplates", [])}
    for pod in pods(manifests):
        volumes = {volume["name"] for volume in pod.get("volumes", [])}
        for container in pod["containers"]:
            mounts = {mount["name"] for mount in container["volumeMounts"]}
            assert mounts <= volumes | claims
            assert volumes <= mounts
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                for how in ("httpGet", "tcpSocket"):
                    if how in container.get(probe, {}):
                        assert container[probe][how]["port"] in ports


def test_the_gateway_is_probed_where_it_answers(manifests: list[Manifest]) -> None:
    routes = (PROJECT / "service/unet_factory_service/operations/health_routes.py").read_text()
    (gateway,) = [container for container in ours(manifests) if container["command"][1] == "gateway"]
    paths = {probe: gateway[probe]["httpGet"]["path"] for probe in ("livenessProbe", "readinessProbe")}
    assert paths == {"livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert all(f'"{path}"' in routes for path in paths.values())


def test_services_monitors_budgets_and_policies_find_pods_with_their_ports(manifests: list[Manifest]) -> None:
    labelled = templates(manifests)
    for manifest in manifests:
        spec = manifest.get("spec", {})
        found = [pod for pod in labelled if selects(spec, manifest["kind"], pod["metadata"]["labels"])]
        ports = {
            port["name"] for pod in found for container in pod["spec"]["containers"] for port in container["ports"]
        }
        if manifest["kind"] == "Service":
            assert {port["targetPort"] for port in spec["ports"]} <= ports
        elif manifest["kind"] == "ServiceMonitor":
            assert {endpoint["port"] for endpoint in spec["endpoints"]} <= ports
        elif manifest["kind"] == "NetworkPolicy":
            assert {port["port"] for rule in spec["ingress"] for port in rule["ports"]} == ports
        elif manifest["kind"] == "PodDisruptionBudget":
            assert len(found) == 1
    if any(manifest["kind"] == "NetworkPolicy" for manifest in manifests):
        guarded = [manifest for manifest in manifests if manifest["kind"] == "NetworkPolicy"]
        assert all(
            any(selects(p["spec"], "NetworkPolicy", pod["metadata"]["labels"]) for p in guarded) for pod in labelled
        )


def test_each_role_finds_the_stores_and_the_gateway_by_the_names_of_their_services(manifests: list[Manifest]) -> None:
    services = {
        manifest["metadata"]["name"]: {port["port"] for port in manifest["spec"]["ports"]}
        for manifest in manifests
        if manifest["kind"] == "Service"
    }
    named = [
        (host, port) for text in texts(manifests) for host, port in re.findall(rf"({RELEASE}[\w-]+)[\w.]*:(\d+)", text)
    ]
    assert bool(named) == any(container["name"] == "valkey" for container in containers(manifests))
    assert all(int(port) in services[host] for host, port in named)


def test_keda_counts_the_queue_that_the_workers_take_from(manifests: list[Manifest]) -> None:
    deployments = {manifest["metadata"]["name"]: manifest for manifest in manifests if manifest["kind"] == "Deployment"}
    for manifest in manifests:
        if manifest["kind"] == "ScaledObject":
            assert "replicas" not in deployments[manifest["spec"]["scaleTargetRef"]["name"]]["spec"]
        if manifest["kind"] in ("ScaledObject", "ScaledJob"):
            (trigger,) = manifest["spec"]["triggers"]
            if trigger["type"] in ("redis", "redis-sentinel"):
                assert trigger["metadata"]["listName"] == SEGMENT_QUEUE
            else:
                query = f'max(unet_factory_queue_depth{{queue="{SEGMENT_QUEUE}",namespace="{NAMESPACE}"}})'
                assert trigger["metadata"]["query"] == query


def test_keda_asks_sentinels_that_a_role_could_ask(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        for trigger in manifest.get("spec", {}).get("triggers", ()):
            if trigger["type"] == "redis-sentinel":
                asked = trigger["metadata"]
                url = f"redis+sentinel://{asked['addresses']}/{asked['sentinelMaster']}/{asked['databaseIndex']}"
                assert FactorySettings(redis_url=url).broker_url.count("sentinel://") == 3


def test_the_operators_rules_and_dashboards_are_those_of_compose(manifests: list[Manifest]) -> None:
    found = {manifest["metadata"]["name"]: manifest for manifest in manifests}
    rules = [m for m in manifests if m["kind"] == "PrometheusRule"]
    for rule in rules:
        files = sorted((DEPLOY / "prometheus/rules").glob("*.yml"))
        assert rule["spec"]["groups"] == [
            group for file in files for group in yaml.safe_load(file.read_text())["groups"]
        ]
        asked = set(re.findall(r'job="([\w-]+)"', str(rule)))
        monitors = [manifest for manifest in manifests if manifest["kind"] == "ServiceMonitor"]
        assert asked <= {m["spec"]["endpoints"][0]["relabelings"][0]["replacement"] for m in monitors} | WITH_A_COURIER
        for file in (DEPLOY / "grafana/dashboards").glob("*.json"):
            dashboard = found[f"{RELEASE}-unet-factory-dashboard-{file.stem}"]
            assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
            assert json.loads(dashboard["data"][file.name]) == json.loads(file.read_text())


def test_workers_that_are_jobs_end_by_themselves_and_their_pods_are_valid(manifests: list[Manifest]) -> None:
    for manifest in manifests:
        if manifest["kind"] == "ScaledJob":
            job = manifest["spec"]["jobTargetRef"]
            kubernetes_validate.validate(
                {"apiVersion": "batch/v1", "kind": "Job", "metadata": manifest["metadata"], "spec": job},
                KUBERNETES,
                strict=True,
            )
            (worker,) = job["template"]["spec"]["containers"]
            assert float({v["name"]: v.get("value") for v in worker["env"]}["UNET_FACTORY_IDLE_EXIT_S"]) > 0


def test_a_stopped_worker_or_courier_may_finish_its_work(manifests: list[Manifest]) -> None:
    for pod in pods(manifests):
        (container,) = pod["containers"]
        for variable in container.get("env", []):
            if variable["name"] == "UNET_FACTORY_STOP_GRACE_S":
                assert pod["terminationGracePeriodSeconds"] > float(variable["value"])


def test_the_bundled_stores_are_those_of_serve(manifests: list[Manifest]) -> None:
    for container in containers(manifests):
        if container["name"] == "valkey":
            options = dict(zip(container["command"][1::2], container["command"][2::2], strict=True))
            given = {name.removeprefix("--"): value for name, value in options.items()}
            assert given["save"] == ""
            expected = (
                JOBS_OPTIONS if given["appendonly"] == "yes" else CACHE_OPTIONS | {"maxmemory": given["maxmemory"]}
            )
            assert given == expected | {"save": ""}


def test_destinations_and_rules_are_read_by_the_roles(manifests: list[Manifest], tmp_path: Path) -> None:
    for manifest in manifests:
        if manifest["kind"] == "ConfigMap" and "destinations.yml" in manifest["data"]:
            for name, text in manifest["data"].items():
                (tmp_path / name).write_text(text)
            destinations = Destinations.load(tmp_path / "destinations.yml")
            secrets = re.findall(r"file: (/run/secrets/\S+)/\S+", manifest["data"]["destinations.yml"])
            mounted = {mount["mountPath"] for container in ours(manifests) for mount in container["volumeMounts"]}
            assert set(secrets) <= mounted
            registry = ModelRegistry.scan(PROJECT / "models")
            assert read_routing(tmp_path / "routing.yml", registry, destinations)


def templates(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """Of the pods that all objects make."""
    specs = [manifest.get("spec", {}) for manifest in manifests]
    return [spec["template"] for spec in (spec.get("jobTargetRef", spec) for spec in specs) if "template" in spec]


def pods(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [template["spec"] for template in templates(manifests)]


def containers(manifests: list[Manifest]) -> list[dict[str, Any]]:
    return [container for pod in pods(manifests) for container in pod["containers"]]


def ours(manifests: list[Manifest]) -> list[dict[str, Any]]:
    """Containers that run the factory."""
    found = [container for container in containers(manifests) if container["name"] != "valkey"]
    assert found
    return found


def texts(value: object) -> Iterator[str]:
    """All strings in a document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)


def selects(spec: dict[str, Any], kind: str, labels: dict[str, str]) -> bool:
    """Whether an object of this kind means pods with these labels."""
    selector = spec.get("podSelector" if kind == "NetworkPolicy" else "selector", {})
    wanted = selector if kind == "Service" else selector.get("matchLabels", {})
    among = selector.get("matchExpressions", [])
    return wanted.items() <= labels.items() and all(labels.get(term["key"]) in term["values"] for term in among)
