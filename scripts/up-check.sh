#!/usr/bin/env bash
# up-check.sh — builds the images, starts the stack under a project name of its own, and drives a
# recorded log through it to a run in the runner's container; kills one process of each service on
# the way. Exits 0 where all holds, 1 where something does not, 2 where there is no Docker engine.
# KEEP=1 leaves the stack running. BASE, KAFKA_IMAGE, CA_BUNDLE and TORCH as in .env.example.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! docker info >/dev/null 2>&1; then
  cat >&2 <<'TEXT'
No Docker engine answers. Get one, and run this again:
  Debian, Ubuntu     sudo apt-get install docker.io     (and be in the group docker, or root)
  others             https://docs.docker.com/engine/install/
On Debian as root, without a service manager or an image registry:
  scripts/docker/offline.sh all                         (engine, compose, base and Kafka images)
TEXT
  exit 2
fi
if ! docker compose version >/dev/null 2>&1; then
  echo "Docker's compose plugin is missing: install docker-compose-plugin, or run scripts/docker/offline.sh compose" >&2
  exit 2
fi
for port in 8761 8762 8763 8764 19092; do
  if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
    echo "127.0.0.1:$port is taken: stop what is there (make down), then run this again" >&2; exit 1
  fi
done
# Volumes of its own, whatever .env says.
export STACK_DATA=data STACK_CONFIG=config STACK_KEYS=keys STACK_PUBLIC_KEYS=public-keys STACK_UID=1000 STACK_GID=1000
compose=(docker compose -p wasmagenttrainer-check -f docker-compose.yml -f scripts/docker/up-check.yaml)
"${compose[@]}" down -v --remove-orphans >/dev/null 2>&1
end() {
  status=$?
  if [ $status -ne 0 ]; then "${compose[@]}" ps -a >&2; "${compose[@]}" logs --tail 15 >&2; fi
  [ -n "${KEEP:-}" ] || "${compose[@]}" down -v --remove-orphans >/dev/null 2>&1
  exit $status
}
trap end EXIT
echo "building the images (the first time: minutes, most of it PyTorch)"
"${compose[@]}" build -q
python3 scripts/docker/up_check.py demo/recorded.jsonl.gz "${compose[@]}"
