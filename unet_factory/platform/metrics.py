"""Prometheus metrics by name (base units, no ids as labels), shared by gateway and worker.

With ``PROMETHEUS_MULTIPROC_DIR`` set, all processes on the host write to one folder, and any of them can show the sum.
"""

import os
from importlib.metadata import version
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import REGISTRY

from unet_factory.domain.jobs import DeliveryKind
from unet_factory.platform.gpus import GpuFigures

_REQUEST_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_STAGE_BUCKETS = (0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_VOLUME_BUCKETS_ML = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000)
_SPACING_BUCKETS_MM = (0.25, 0.5, 0.75, 1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 7.5, 10)

HTTP_REQUEST_SECONDS = Histogram(
    "unet_factory_http_request_duration_seconds",
    "Time to answer a request",
    ["method", "route", "status"],
    buckets=_REQUEST_BUCKETS,
)
JOB_STAGE_SECONDS = Histogram(
    "unet_factory_job_stage_seconds", "Time of each stage of a job", ["model", "stage"], buckets=_STAGE_BUCKETS
)
JOB_WAIT_SECONDS = Histogram(
    "unet_factory_job_wait_seconds",
    "Time from a job's acceptance to its first start",
    ["model"],
    buckets=_STAGE_BUCKETS,
)
JOB_SECONDS = Histogram(
    "unet_factory_job_seconds",
    "Time from a job's acceptance to its result",
    ["model", "device"],
    buckets=_STAGE_BUCKETS,
)
JOBS = Counter("unet_factory_jobs", "Jobs that ended", ["model", "outcome"])
RECEIVED_INSTANCES = Counter("unet_factory_received_instances", "DICOM instances received", ["outcome"])
RECEIVED_SERIES = Counter("unet_factory_received_series", "Received DICOM series, by what became of them", ["outcome"])
WEIGHT_CACHE_HITS = Counter(
    "unet_factory_weight_cache_hits", "Networks that were ready and did not have to be generated"
)
WEIGHT_CACHE_MISSES = Counter("unet_factory_weight_cache_misses", "Networks that had to be generated")
WEIGHT_GENERATION_SECONDS = Histogram(
    "unet_factory_weight_generation_seconds", "Time to generate one network", buckets=_REQUEST_BUCKETS
)
GPU_MEMORY_PEAK_BYTES = Gauge(
    "unet_factory_gpu_memory_peak_bytes", "Peak device memory of the last job", ["device"], multiprocess_mode="livemax"
)
JOB_MEMORY_PEAK_BYTES = Gauge(
    "unet_factory_job_memory_peak_bytes",
    "Peak host memory that the last job added to its worker",
    multiprocess_mode="livemax",
)
MODELS_REFUSED = Gauge(
    "unet_factory_models_refused", "Files in the model folder that cannot be used", multiprocess_mode="livemax"
)
WORKERS_BY_PRECISION = Gauge(
    "unet_factory_workers",
    "Workers on this host, by the precision of their networks' arithmetic",
    ["precision"],
    multiprocess_mode="livesum",
)
OOM_FALLBACKS = Counter(
    "unet_factory_oom_fallbacks",
    "Jobs that ran out of memory and were repeated with smaller windows, at a coarser spacing or on the CPU",
    ["step"],
)
AUDIT_FAILURES = Counter("unet_factory_audit_failures", "Lines of the audit trail that could not be written")
IMPLAUSIBLE_RESULTS = Counter(
    "unet_factory_implausible_results",
    "Scans and results that are far from what their model was trained on, refused ones too",
    ["model"],
)
SPACING_OUT_OF_RANGE = Counter(
    "unet_factory_spacing_out_of_range", "Requested spacings outside the trained range", ["model"]
)
DELIVERIES = Counter(
    "unet_factory_deliveries", "Attempts to deliver (or to fetch), by how they ended", ["kind", "outcome"]
)
# present from the start: the first of each outcome must show as an increase
for _outcome in ("stored", "failed"):
    RECEIVED_INSTANCES.labels(_outcome)
for _outcome in ("submitted", "repeated", "not_routed", "refused", "expired"):
    RECEIVED_SERIES.labels(_outcome)
for _step in ("windows", "spacing", "cpu"):
    OOM_FALLBACKS.labels(_step)
for _kind in DeliveryKind:
    for _outcome in ("delivered", "retried", "dead", "skipped"):
        DELIVERIES.labels(_kind.value, _outcome)
SPACING_MM = Histogram(
    "unet_factory_spacing_mm", "Native spacing of the scans", ["model", "axis"], buckets=_SPACING_BUCKETS_MM
)
LABEL_VOLUME_ML = Histogram(
    "unet_factory_label_volume_ml", "Volumes that were found", ["model", "label"], buckets=_VOLUME_BUCKETS_ML
)
BUILD_INFO = Gauge("unet_factory_build_info", "1, for the version that runs", ["version"], multiprocess_mode="livemax")
BUILD_INFO.labels(version("unet-factory")).set(1)
_gpus = GpuFigures()
REGISTRY.register(_gpus)


def scrape_registry() -> CollectorRegistry:
    """What a scrape of this process shows: its own metrics, or those of every process that shares the folder."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    registry.register(_gpus)
    return registry


def forget_dead_processes() -> None:
    """Drop the gauges that processes of this host left behind when they ended; what they counted stays."""
    folder = os.environ.get("PROMETHEUS_MULTIPROC_DIR")
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)
        except PermissionError:
            continue
