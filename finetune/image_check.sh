#!/usr/bin/env bash
# image_check.sh — builds the image on a plain base, without flash-attn, and walks the whole way
# (source, training, report, export, server, answer) on the tiny model inside it, without a network.
# BASE: a Debian or Ubuntu image with Python 3.11 or newer; CA_BUNDLE: a proxy's certificates. Needs
# BuildKit (buildx, or a docker client before 23).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
base=${BASE:-python:3.11-slim-bookworm}
image=${IMAGE:-wat-finetune:check}
secret=(); [ -z "${CA_BUNDLE:-}" ] || secret=(--secret "id=ca,src=$CA_BUNDLE")
DOCKER_BUILDKIT=1 docker build -q -t "$image" "${secret[@]}" \
  --build-arg BASE="$base" --build-arg RUNTIME="$base" \
  --build-arg FLASH_ATTN=0 --build-arg FLASH_ATTN_4=0 "$here"
docker run --rm --network none --read-only --tmpfs /tmp:exec,size=2g --tmpfs /data:uid=10001 \
  -v "$here/tests:/app/tests:ro" -v "$here/pytest.ini:/app/pytest.ini:ro" "$image" \
  python -m pytest -p no:cacheprovider -m "not weights" tests/test_pipeline.py
echo "the image trains, measures, exports and answers: $image"
