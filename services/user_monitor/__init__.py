"""user-monitor: watches the screen with consent and publishes filtered UiEvents.

Reads: its sources and `forgets`' requests over REST. Writes: `raw-events` and `forgets`.
"""
