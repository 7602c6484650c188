"""Streaming discovery of routines: the pure core, which knows tokens, times and nothing else."""

__all__: list[str] = []
