"""The commands of `wat`, one file per group; each loads what it needs when it is called."""

__all__: list[str] = []
