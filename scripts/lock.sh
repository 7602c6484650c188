#!/usr/bin/env bash
# lock.sh — writes requirements/*.txt: exact versions with hashes, no index address.
# pynput names evdev, a source build that its X11 backend never imports: left out everywhere.
set -euo pipefail
compile=(.venv/bin/uv pip compile --quiet --universal --python-version 3.11
         --no-emit-package evdev --no-annotate --generate-hashes --no-emit-index-url)
"${compile[@]}" --extra monitor --extra learner --extra trainer --extra runner --extra dev \
  pyproject.toml -o requirements/dev.txt
for room in monitor learner trainer runner; do
  "${compile[@]}" --constraint requirements/dev.txt --extra "$room" pyproject.toml -o "requirements/$room.txt"
done
echo uv | "${compile[@]}" - -o requirements/uv.txt
