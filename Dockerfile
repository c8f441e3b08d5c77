# Two images from one file, torch only in the second:
#
#   docker build --target api    -t sparsevit-api .
#   docker build --target worker -t sparsevit-worker .
#
# The worker's torch is the package index's own build, which has CUDA and runs on a CPU too. For the
# smaller build without CUDA name PyTorch's index of CPU builds: --build-arg PIP_EXTRA_INDEX_URL=...

FROM python:3.12-slim AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONPATH=/app \
    SPARSEVIT_HOME=/home/sparsevit \
    ARTIFACT_ROOT=/artifacts \
    QUIET_ROOT=/quiet
# A new named volume takes over the owner of the folder it is mounted on.
RUN useradd --uid 10001 --create-home sparsevit \
    && install -d -o sparsevit -g sparsevit /artifacts /quiet
WORKDIR /app
COPY pyproject.toml constraints.txt ./
COPY docker/requirements.py docker/


FROM base AS api
RUN python docker/requirements.py service > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt
# The project itself is not installed: its requirements name torch. Its packages are copied.
COPY service service
COPY migrations migrations
USER sparsevit
ENV HOST=0.0.0.0 PORT=8000
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
CMD exec python -m uvicorn --factory service.main:create_app --no-access-log \
    --http service.api.protocol:BoundedProtocol \
    --host "$HOST" --port "$PORT" --timeout-graceful-shutdown 5


FROM base AS worker
# pip reads this variable by itself; see above.
ARG PIP_EXTRA_INDEX_URL=
RUN pip install "$(grep '^torch==' constraints.txt)" \
    && python docker/requirements.py base service detection > requirements.txt \
    && pip install -c constraints.txt -r requirements.txt
COPY README.md LICENSE NOTICE ./
COPY docker/worker_health.py docker/
COPY migrations migrations
COPY service service
COPY sparsevit sparsevit
COPY worker worker
RUN pip install --no-deps .
# --build-arg GIT_VERSION="$(git describe --always --dirty)": receipts state it.
ARG GIT_VERSION=
ENV SPARSEVIT_GIT_VERSION=$GIT_VERSION
USER sparsevit
HEALTHCHECK --interval=20s --timeout=15s --start-period=60s --retries=3 \
    CMD ["python", "docker/worker_health.py"]
ENTRYPOINT ["sparsevit", "worker"]
CMD ["--device", "cpu"]
