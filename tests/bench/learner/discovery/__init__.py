"""Streaming discovery of routines: the pure core, which knows tokens, times and nothing else.

A candidate: measured by the benchmark beside it, not used by task-learner yet; docs/log.md says
why.
"""

__all__: list[str] = []
