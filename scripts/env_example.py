"""Write `.env.example`: what the compose file reads, and every setting of the rooms.

`python -m scripts.env_example > .env.example`.
"""

import sys
import textwrap
from importlib import import_module
from typing import get_type_hints

from shared.settings import CommonSettings, WatSettings
from shared.topics import Room

__all__ = ["text"]

_COMPOSE = """\
# Copy to .env and take the # away before what you change. `docker compose` reads it; natively run
# services read the WAT_* names from the environment.

# -- images --------------------------------------------------------------------------------------
# Where the images are made from. On a machine without an image registry: scripts/docker/offline.sh
#BASE=python:3.11-slim-bookworm
#KAFKA_IMAGE=apache/kafka:4.3.1
# PyTorch in the trainer's image: cuda (as locked, 5 GB) or cpu (about 1 GB, from PyTorch's index)
#TORCH=cuda
# A CA bundle for the builds, where a proxy speaks for the package indexes
#CA_BUNDLE=/dev/null
# A browser in user-monitor's image, for one that shares a display of this machine: chromium
#MONITOR_BROWSER=

# -- where things are kept -----------------------------------------------------------------------
# Volumes, or absolute folders of the account with these ids (docs/containers.md, Natively)
#STACK_DATA=data
#STACK_CONFIG=config
#STACK_KEYS=keys
#STACK_PUBLIC_KEYS=public-keys
#STACK_UID=1000
#STACK_GID=1000

# -- traces ----------------------------------------------------------------------------------------
# Where spans are sent, by OTLP over HTTP; empty: nowhere (docs/containers.md, Watching it)
#OTEL_EXPORTER_OTLP_ENDPOINT=
"""

_SET_IN_CONTAINERS = {"data_dir", "config_dir", "bus_url", "host", "port"}


def text() -> str:
    """Return the file."""
    parts = [_COMPOSE, _section("all services", CommonSettings, _SET_IN_CONTAINERS)]
    for room in Room:
        build = import_module(f"services.{room.package}.main").build
        parts.append(_section(room, get_type_hints(build)["settings"], set()))
    return "\n".join(parts)


def _section(title: str, settings: type[WatSettings], left_out: set[str]) -> str:
    lines = [f"# -- {title} ".ljust(99, "-")]
    for name, field in settings.model_fields.items():
        if name in left_out:
            continue
        lines += textwrap.wrap(
            field.description or "", 97, initial_indent="# ", subsequent_indent="# "
        )
        default = field.get_default()
        if name == "user_id":
            default = "me"
        if isinstance(default, bool):
            default = str(default).lower()
        variable = f"{settings.model_config.get('env_prefix', '')}{name}".upper()
        lines.append(f"#{variable}={'' if default is None else default}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
