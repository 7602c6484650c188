"""task-learner: finds the routines a person repeats, or is taught them.

Reads `raw-events`, `runs` (to leave out what our own agents did) and `forgets`; writes `tasks`.
Promises: bounded memory; after a kill it goes on where the last commit was; nothing found is an
answer; a routine's id stays, its revision rises only when its steps or parameters change.
"""

__all__: list[str] = []
