"""agent-runner: verifies agent modules and runs them in a sandbox against an actuator.

Reads `forgets`, `tasks` and `models`. Writes `runs`: marks of what it did itself, and outcomes.
Promises: nothing that was not granted, no act twice, nothing done after the kill switch, and no
record called done that was not read back.
"""
