# Two images: `tracking`, the server without torch, and `worker`, which trains.
# Build with `docker compose build`; .env.example explains every argument.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true
RUN python -m venv /opt/venv
WORKDIR /opt/galaxy-mlflow

# The project alone, as a wheel: a change of the code leaves the packages' layers as they are.
FROM base AS wheel
ARG PIP_NO_INDEX
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt hatchling
COPY pyproject.toml README.md LICENSE ./
COPY experiments experiments
COPY galaxy_mlflow galaxy_mlflow
COPY analysis analysis
COPY mlflow_server mlflow_server
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

FROM base AS tracking-packages
ARG PIP_NO_INDEX
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
COPY constraints.txt mlflow_server/packages.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --constraint constraints.txt --requirement packages.txt \
 && rm -rf /opt/venv/lib/python3*/site-packages/pandas/tests

FROM base AS tracking
RUN groupadd --gid 10001 galaxy \
 && useradd --uid 10001 --gid galaxy --home-dir /tmp --no-create-home galaxy
COPY --from=tracking-packages /opt/venv /opt/venv
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-deps --no-index /wheels/*.whl
USER 10001:10001
WORKDIR /tmp
EXPOSE 5000
HEALTHCHECK --interval=15s --timeout=10s --start-period=120s --retries=4 \
    CMD ["python", "-m", "mlflow_server.health"]
ENTRYPOINT ["python", "-m", "mlflow_server.entrypoint"]
CMD ["serve"]

# The worker's packages by name: other changes of pyproject.toml install nothing anew.
FROM base AS worker-list
COPY pyproject.toml ./
RUN python -c "import tomllib; p = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
extras = p['optional-dependencies']; \
print(*p['dependencies'], *extras['ray'], *extras['timm'], *extras['system-metrics'], sep='\n')" > /packages.txt

# Straight into the image, for torch with CUDA is 5 GB that nobody wants to copy twice.
FROM base AS worker
ARG PIP_NO_INDEX
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_FIND_LINKS
ARG TORCH_INDEX_URL
RUN groupadd --gid 10002 galaxy \
 && useradd --uid 10002 --gid galaxy --create-home galaxy
COPY constraints.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt \
      ${TORCH_INDEX_URL:+--no-deps --index-url ${TORCH_INDEX_URL}} torch torchvision
COPY --from=worker-list /packages.txt ./
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --constraint constraints.txt --requirement packages.txt
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --no-deps --no-index /wheels/*.whl
COPY --chmod=755 mlflow_server/worker_entrypoint /usr/local/bin/
# For `docker compose exec`, which no entrypoint logs in.
RUN mkdir bin && ln -s /usr/local/bin/worker_entrypoint bin/galaxy-mlflow
USER 10002:10002
WORKDIR /home/galaxy
# PASSIVE: where a machine is shared, threads that wait by spinning slow a run many times over.
ENV PATH=/opt/galaxy-mlflow/bin:$PATH \
    GALAXY_MLFLOW_HOME=/home/galaxy/store \
    MPLCONFIGDIR=/tmp \
    OMP_WAIT_POLICY=PASSIVE
ENTRYPOINT ["worker_entrypoint"]
CMD ["doctor"]
