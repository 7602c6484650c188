#!/usr/bin/env bash
# carry.sh flash4|trl|smollm2 OUT [PYTHON_VERSION] — pack what a GPU machine without a network lacks.
#   flash4, trl   OUT: one .tar.xz; there: mkdir -p SITE && tar xJf OUT -C SITE
#                 export PYTHONPATH=SITE:SITE/nvidia_cutlass_dsl/dsl_packages
#   smollm2       OUT: a folder with the two halves of the converted base (weights hardly compress);
#                 there: cat OUT/part-* | tar x -C BASE, then --base BASE
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
what=${1:?flash4, trl or smollm2} out=$(realpath -m "${2:?where to}") version=${3:-3.12}
python="$here/.venv/bin/python"
case $what in
  flash4 | trl)
    site=$(mktemp -d); trap 'rm -rf "$site"' EXIT
    "$here/.venv/bin/uv" pip install -q --target "$site" --python "$python" --python-version "$version" \
      --python-platform x86_64-manylinux_2_28 --only-binary :all: --prerelease allow --no-deps \
      --require-hashes -r "$here/requirements-$what.txt"
    # Parts that nothing here loads: static and stub libraries, tests, and Arrow's network services.
    rm -rf "$site"/nvidia_cutlass_dsl/cu13/lib/{stubs,*.a} "$site"/{pyarrow,pandas}/tests "$site"/pyarrow/include
    rm -f "$site"/pyarrow/{libarrow_flight,libarrow_python_flight,libarrow_substrait,_flight,_substrait}*
    find "$site" -name '*.so*' -exec strip --strip-unneeded {} + 2>/dev/null || true
    mkdir -p "$(dirname "$out")"
    tar c -C "$site" . | xz -6 -T0 > "$out"
    ;;
  smollm2)
    base=$("$python" "$here/convert_base.py" 2>/dev/null | tail -1)
    mkdir -p "$out"
    tar c -C "$base" . | split -b 60M - "$out/part-"
    ;;
  *) echo "usage: $0 flash4|trl|smollm2 OUT" >&2; exit 2 ;;
esac
ls -l "$out"
