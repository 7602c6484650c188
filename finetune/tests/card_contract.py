"""The documented contract of a ModelCard, as JSON Schema; finetune imports nothing of ours."""

import json
from pathlib import Path

import jsonschema
import pytest

SCHEMA = Path(__file__).resolve().parents[2] / "docs" / "schemas" / "model-card.v1.json"


def check_card(card):
    """Check a card against the published schema."""
    if not SCHEMA.is_file():
        pytest.skip("docs/schemas/model-card.v1.json is absent")
    jsonschema.validate(card, json.loads(SCHEMA.read_text()))
