# syntax=docker/dockerfile:1

# Both programs in one image. Targets: `runtime` (the default) and `local`, which adds the in-process
# Langflow engine for flows with `backend: Local`. Everything is installed from hashed locks.

# Python 3.11 is what the tests run on. Releases pass the tag with its digest.
ARG BASE=python:3.11.14-slim-bookworm

FROM ${BASE} AS wheel
WORKDIR /src
COPY requirements/build.lock requirements/
RUN pip install --no-cache-dir --require-hashes --requirement requirements/build.lock
COPY pyproject.toml README.md LICENSE ./
COPY cli cli
COPY crds crds
COPY operator operator
COPY worker worker
# No isolation: the build backend is the one from the lock, not what the index has today.
RUN pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /dist .

# A virtual environment without pip: what runs never installs anything. Only wheels, so that no
# package runs code of its own here. Bytecode is compiled now, because the root is read-only later;
# unchecked, because the sources beside it do not change and modification times may get lost.
FROM ${BASE} AS dependencies
RUN python -m venv --without-pip /opt/flowbinding
COPY requirements/image.lock /requirements/
RUN pip --python /opt/flowbinding/bin/python install --no-cache-dir --no-compile \
      --only-binary :all: --require-hashes --requirement /requirements/image.lock \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/flowbinding/lib

FROM dependencies AS local-dependencies
COPY requirements/local.lock /requirements/
RUN pip --python /opt/flowbinding/bin/python install --no-cache-dir --no-compile \
      --only-binary :all: --require-hashes --requirement /requirements/local.lock \
 && python -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/flowbinding/lib

FROM ${BASE} AS base
# An entry in /etc/passwd: libraries ask for the user's name and home.
RUN groupadd --gid 65532 flowbinding \
 && useradd --uid 65532 --gid 65532 --no-log-init --no-create-home --home-dir /tmp \
      --shell /usr/sbin/nologin flowbinding
# PYTHONSAFEPATH: nothing is ever imported from the working directory.
ENV PATH=/opt/flowbinding/bin:$PATH \
    HOME=/tmp \
    PYTHONSAFEPATH=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# The only place that can be written where the root is read-only.
WORKDIR /tmp
CMD ["flowbinding-operator", "run"]
ARG VERSION=0.1.0
ARG REVISION=""
LABEL org.opencontainers.image.title="FlowBinding" \
      org.opencontainers.image.description="Runs an AI flow for every Kafka message: operator and worker." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# The wheel is a layer of its own above the dependencies: a new release is a pull of a few hundred
# kilobytes for a node that has the one before.
FROM base AS local
COPY --from=local-dependencies /opt/flowbinding /opt/flowbinding
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/flowbinding/bin/python install --no-cache-dir --no-compile \
      --no-deps --no-index /dist/flowbinding-*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash \
      /opt/flowbinding/lib/python3.*/site-packages/flowbinding_*
# By number: the kubelet cannot tell from a name that it is not root.
USER 65532:65532

FROM base AS runtime
COPY --from=dependencies /opt/flowbinding /opt/flowbinding
RUN --mount=type=bind,from=wheel,source=/dist,target=/dist \
    pip --python /opt/flowbinding/bin/python install --no-cache-dir --no-compile \
      --no-deps --no-index /dist/flowbinding-*.whl \
 && python -m compileall -q --invalidation-mode unchecked-hash \
      /opt/flowbinding/lib/python3.*/site-packages/flowbinding_*
USER 65532:65532
