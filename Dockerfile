# One target per role: gateway, listener and courier (no torch), worker, training.
#
#   docker build --target gateway --tag unet-factory-gateway .
#   docker build --target worker --build-arg TORCH_INDEX_URL=URL_OF_AN_INDEX_OF_CPU_WHEELS --tag unet-factory-worker .
#   docker build --target worker --build-arg TORCH=torch --tag unet-factory-worker-cuda .
#
# A plain package index gives Linux the CUDA build of torch (several GB larger; it runs on a CPU too). For the CPU build name an
# index that holds it (TORCH_INDEX_URL, used for torch alone) or a folder or page of wheels (PIP_FIND_LINKS). PIP_INDEX_URL,
# PIP_EXTRA_INDEX_URL and PIP_CERT serve builds behind a mirror; none of them reaches a final image. Each stage that installs
# declares them, as not every builder hands a stage's arguments to the stages made from it.
ARG PYTHON_IMAGE=python:3.11.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/opt/app \
    PATH=/opt/app/bin:/opt/venv/bin:$PATH \
    UNET_FACTORY_BLOB_URL=file:///data/blobs \
    UNET_FACTORY_MODELS_DIR=/models
# The same user in every role: gateway and worker share the blob folder.
RUN groupadd --gid 10001 factory \
    && useradd --uid 10001 --gid factory --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin factory \
    && install --directory --owner=factory --group=factory /data /data/blobs /data/keys /models

# What the roles need, without the project's own code: these layers change with the constraints only.
FROM ${PYTHON_IMAGE} AS requirements
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python -m venv --without-pip /opt/venv
COPY constraints.txt pyproject.toml deploy/docker/role_requirements.py ./

FROM requirements AS gateway-requirements
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
RUN python role_requirements.py service s3 tracing > requirements.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

FROM requirements AS courier-requirements
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
RUN python role_requirements.py courier s3 tracing > requirements.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

FROM requirements AS listener-requirements
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
RUN python role_requirements.py listener tracing > requirements.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

FROM requirements AS torch-requirements
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX_URL=
RUN pip --python /opt/venv/bin/python install --no-cache-dir --constraint constraints.txt \
    ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} "${TORCH}"

FROM torch-requirements AS worker-requirements
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
RUN python role_requirements.py worker s3 tracing > requirements.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

FROM torch-requirements AS training-requirements
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
RUN python role_requirements.py training > requirements.txt \
    && pip --python /opt/venv/bin/python install --no-cache-dir --constraint constraints.txt --requirement requirements.txt

# The project's own code, compiled where it is C: a small layer above the requirements.
FROM requirements AS app
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG PIP_CERT
COPY README.md LICENSE hatch_build.py ./
COPY unet_factory unet_factory
COPY service service
COPY worker worker
COPY training training
COPY client client
COPY listener listener
COPY courier courier
COPY cli cli
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --target /opt/app . \
    && test -f /opt/app/unet_factory/model/_make_weights.so

FROM base AS gateway
COPY --from=gateway-requirements /opt/venv /opt/venv
COPY --from=app /opt/app /opt/app
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
ENTRYPOINT ["unet-factory", "gateway"]
CMD ["--host", "0.0.0.0", "--port", "8000"]

FROM base AS listener
RUN install --directory --mode=0700 --owner=factory --group=factory /data/spool
COPY --from=listener-requirements /opt/venv /opt/venv
COPY --from=app /opt/app /opt/app
USER 10001:10001
EXPOSE 11112
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import socket; socket.create_connection(('127.0.0.1', 11112), 4)"]
ENTRYPOINT ["unet-factory", "dicom-listen"]
CMD ["--host", "0.0.0.0", "--spool", "/data/spool", "--url", "http://gateway:8000"]

FROM base AS courier
ENV UNET_FACTORY_METRICS_HOST=0.0.0.0 \
    UNET_FACTORY_METRICS_PORT=9464
COPY --from=courier-requirements /opt/venv /opt/venv
COPY --from=app /opt/app /opt/app
USER 10001:10001
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/metrics', timeout=4)"]
ENTRYPOINT ["unet-factory", "courier"]

FROM base AS worker
ENV UNET_FACTORY_METRICS_HOST=0.0.0.0 \
    UNET_FACTORY_METRICS_PORT=9464
COPY --from=worker-requirements /opt/venv /opt/venv
COPY --from=app /opt/app /opt/app
USER 10001:10001
EXPOSE 9464
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9464/metrics', timeout=4)"]
ENTRYPOINT ["unet-factory", "worker"]

# Training is a job that ends, so it has no health check.
FROM base AS training
COPY --from=training-requirements /opt/venv /opt/venv
COPY --from=app /opt/app /opt/app
USER 10001:10001
WORKDIR /data
HEALTHCHECK NONE
ENTRYPOINT ["unet-factory", "train"]
