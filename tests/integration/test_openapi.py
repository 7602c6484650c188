"""The four rooms' REST against its own OpenAPI document, by Schemathesis."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.served import ROOT, Served

CONFIG = ROOT / "tests" / "data" / "schemathesis.toml"


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path):
    served = Served(tmp_path, WAT_USER_MONITOR_BROWSER_EXECUTABLE="/nowhere")
    try:
        ran = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIG), "run",
                f"{served.url}/openapi.json", "-H", f"Authorization: Bearer {served.token}",
                "--no-color",
            ],
            capture_output=True, text=True, cwd=tmp_path, env=os.environ | {"PYTHONWARNINGS": ""},
        )  # fmt: skip
    finally:
        served.close()
    assert ran.returncode == 0, ran.stdout[-8000:] + ran.stderr[-2000:]
    counts = dict(re.findall(r"(Selected|Tested): ([0-9/]+)", ran.stdout))
    assert counts["Selected"] == "{0}/{0}".format(counts["Tested"])
    assert int(counts["Tested"]) > 50
