"""Print how each record of each run ended: a consumer of the topic `runs` in ten lines."""

import asyncio
import json
import sys

from aiokafka import AIOKafkaConsumer


async def main(broker: str) -> None:
    async with AIOKafkaConsumer(
        "runs", bootstrap_servers=broker, group_id="example", auto_offset_reset="earliest"
    ) as consumer:
        async for message in consumer:
            if dict(message.headers)["ce_type"] == b"wasmagenttrainer.run-outcome.v1":
                outcome = json.loads(message.value)
                print(outcome["run_id"], outcome["record_index"], outcome["state"], flush=True)


asyncio.run(main(sys.argv[1]))
