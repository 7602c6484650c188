"""The bus on Apache Kafka.

Outputs are acknowledged first, then the room's store takes effects and position in one transaction,
then the group's offset follows. Reading goes on where the store stands, so a crash repeats outputs
at most: ids make that harmless. The store lies in `<state_dir>/kafka/<room>.sqlite3`; replicas
share that folder, one of them works and the others stand by (docs/adr/0006).

Source for what is avoided: sticky assignment can leave a group stuck, and aiokafka's transactions
are version 0 only (docs/architecture.md).
"""

from shared.bus.kafka.bus import KafkaBus

__all__ = ["KafkaBus"]
