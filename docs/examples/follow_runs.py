"""Print how each record of each run ended: a consumer of the topic `runs` in ten lines.

`follow_runs.py BROKER [USER PASSWORD_FILE]`
"""

import asyncio
import json
import sys
from pathlib import Path

from aiokafka import AIOKafkaConsumer

BROKER, USER, PASSWORD_FILE = (*sys.argv[1:], "", "")[:3]
LOGIN = {
    "security_protocol": "SASL_PLAINTEXT",
    "sasl_mechanism": "SCRAM-SHA-512",
    "sasl_plain_username": USER,
    "sasl_plain_password": Path(PASSWORD_FILE).read_text().strip(),
} if USER else {}  # fmt: skip


async def main() -> None:
    async with AIOKafkaConsumer(
        "runs", bootstrap_servers=BROKER, group_id="downstream-example",
        auto_offset_reset="earliest", **LOGIN,
    ) as consumer:  # fmt: skip
        async for message in consumer:
            if dict(message.headers)["ce_type"] == b"wasmagenttrainer.run-outcome.v1":
                outcome = json.loads(message.value)
                print(outcome["run_id"], outcome["record_index"], outcome["state"], flush=True)


asyncio.run(main())
