"""A small order desk to watch and act on, with the scripted person who works at it.

`app` is a real web application with a database of its own, `person` does a chore in it through
real input events, `records` writes the records an agent is given. It knows nothing of the
services, and the services know nothing of it.
"""

__all__ = ["app", "person", "records"]
