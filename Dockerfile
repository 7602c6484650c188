# One recipe for the four services: shared/ and one room, never another's code or packages.
#   docker build --build-arg EXTRA=runner --build-arg SERVICE=agent_runner --build-arg PACKAGES='…' .
# (docker-compose.yml has the arguments of all four)
# Behind a proxy that speaks for the package indexes: --secret id=ca,src=CA-BUNDLE (kept in no image).
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS tools
COPY requirements/uv.txt /tmp/uv.txt
RUN --mount=type=secret,id=ca \
    if [ -s /run/secrets/ca ]; then export PIP_CERT=/run/secrets/ca; fi; \
    python3 -m venv /opt/tools && \
    /opt/tools/bin/pip install --no-cache-dir --disable-pip-version-check -q --require-hashes -r /tmp/uv.txt

# The product itself, as a wheel that holds one room.
FROM tools AS wheel
ARG SERVICE
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY requirements/dev.txt requirements/
COPY shared shared
COPY services/*.py services/
COPY services/commands services/commands
COPY services/${SERVICE} services/${SERVICE}
RUN --mount=type=secret,id=ca --mount=type=cache,id=uv,target=/root/.cache/uv \
    if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    /opt/tools/bin/uv build -q --wheel --require-hashes --build-constraints requirements/dev.txt -o /dist

FROM ${BASE}
ARG PACKAGES=
RUN if [ -n "$PACKAGES" ]; then \
      apt-get update -qq && \
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $PACKAGES >/dev/null && \
      rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb /var/log/*.log /var/log/apt; \
    fi
ARG EXTRA
# cuda: as locked. cpu: the same lock without PyTorch's build for CUDA and what only that needs, then
# the same version from PyTorch's own index.
ARG TORCH=cuda
RUN --mount=type=secret,id=ca \
    --mount=type=cache,id=uv,target=/root/.cache/uv \
    --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,source=requirements,target=/requirements \
    --mount=type=bind,source=scripts/docker/without-torch.awk,target=/scripts/without-torch.awk \
    set -e; if [ -s /run/secrets/ca ]; then export SSL_CERT_FILE=/run/secrets/ca; fi; \
    export UV_LINK_MODE=copy VIRTUAL_ENV=/opt/wat; \
    python3 -m venv --without-pip /opt/wat; \
    lock=/requirements/${EXTRA}.txt; torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$lock"); \
    if [ -n "$torch" ] && [ "$TORCH" = cpu ]; then \
      awk -f /scripts/without-torch.awk "$lock" > /tmp/lock.txt; lock=/tmp/lock.txt; \
    fi; \
    /opt/tools/bin/uv pip install -q --require-hashes --no-deps --compile-bytecode -r "$lock"; \
    if [ -n "$torch" ] && [ "$TORCH" = cpu ]; then \
      /opt/tools/bin/uv pip install -q --no-deps --torch-backend=cpu --compile-bytecode "torch==$torch"; \
    fi; \
    rm -f /tmp/lock.txt
RUN groupadd --gid 1000 wat && \
    useradd --uid 1000 --gid wat --home-dir /tmp --no-create-home --shell /usr/sbin/nologin wat && \
    install -d -o wat -g wat -m 0700 /data /data/keys /config /public
COPY scripts/docker/ready.sh /usr/local/bin/ready
RUN --mount=type=bind,from=tools,source=/opt/tools,target=/opt/tools \
    --mount=type=bind,from=wheel,source=/dist,target=/dist \
    VIRTUAL_ENV=/opt/wat /opt/tools/bin/uv pip install -q --no-cache --no-deps --offline --compile-bytecode /dist/*.whl
ENV PATH=/opt/wat/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp LANG=C.UTF-8
USER wat
WORKDIR /tmp
ENTRYPOINT ["wat"]
