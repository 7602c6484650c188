#!/usr/bin/env bash
# system-packages.sh PACKAGE… — makes sure that these Debian packages' programs are there.
# Says what it installs before it does; without the rights to install it says what to run.
set -euo pipefail
declare -A PROGRAM=([xvfb]=Xvfb [xterm]=xterm [maven]=mvn [openjdk-17-jre-headless]=java)
missing=()
for package in "$@"; do
  case $package in
    chromium) for name in chromium chromium-browser google-chrome google-chrome-stable; do
                command -v "$name" >/dev/null && continue 2; done ;;
    python3-venv) /usr/bin/python3 -c 'import ensurepip' 2>/dev/null && continue ;;
    python3-tk) /usr/bin/python3 -c 'import tkinter' 2>/dev/null && continue ;;
    *) command -v "${PROGRAM[$package]:-$package}" >/dev/null && continue ;;
  esac
  missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0
if ! command -v apt-get >/dev/null; then
  echo "missing: ${missing[*]} — install them with your system's package manager" >&2; exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  sudo -n true 2>/dev/null || { echo "missing: run  sudo apt-get install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "installing ${missing[*]} with apt-get"
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
