#!/usr/bin/env bash
# images-check.sh [ROOM…] — installs each room's lock alone into an environment of its own, copies
# shared/ and that one room beside it, and imports the room; another room's packages must be absent.
set -euo pipefail
here=$(pwd)
rooms=("$@"); [ ${#rooms[@]} -gt 0 ] || rooms=(user_monitor task_learner agent_trainer agent_runner)
declare -A EXTRA=([user_monitor]=monitor [task_learner]=learner [agent_trainer]=trainer [agent_runner]=runner)
declare -A FOREIGN=([user_monitor]="torch wasmtime" [task_learner]="torch wasmtime playwright pynput"
                    [agent_trainer]="wasmtime playwright pynput" [agent_runner]="torch pynput")
for room in "${rooms[@]}"; do
  folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
  .venv/bin/uv venv -q --python .venv/bin/python "$folder/venv"
  .venv/bin/uv pip install -q --python "$folder/venv/bin/python" --require-hashes --no-deps -r "requirements/${EXTRA[$room]}.txt"
  mkdir "$folder/services"
  cp -r "$here/shared" "$folder/"; cp "$here"/services/*.py "$folder/services/"; cp -r "$here/services/$room" "$folder/services/"
  (cd "$folder" && PYTHONPATH=. venv/bin/python - "$room" ${FOREIGN[$room]} <<'PY'
import importlib, importlib.util, pkgutil, sys
room, foreign = sys.argv[1], sys.argv[2:]
package = importlib.import_module(f"services.{room}")
names = [m.name for m in pkgutil.walk_packages(package.__path__, f"services.{room}.")]
for name in names:
    importlib.import_module(name)
there = [f for f in foreign if importlib.util.find_spec(f)]
assert not there, f"{room} carries {there}"
print(f"{room}: {len(names)} modules import, none of {', '.join(foreign)}")
PY
  )
  rm -rf "$folder"
done
