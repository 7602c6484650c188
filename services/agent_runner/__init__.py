"""agent-runner: verifies agent modules and runs them in a sandbox against an actuator.

Reads `models` and `forgets`. Writes `runs`: marks of what it did itself, and outcomes.
"""
