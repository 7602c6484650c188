#!/usr/bin/env bash
# prepare_dataset.sh [SOURCE] [--out DIR] [--split cluster|time] … — see prepare_dataset.py --help.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python="$here/.venv/bin/python"
[ -x "$python" ] || python=python3
exec "$python" "$here/prepare_dataset.py" "$@"
