"""user-monitor: watches the screen with consent and publishes filtered UiEvents.

Reads: its sources (capture/), and what a person decides over REST. Writes: `raw-events`.
Promises: no consent, no capture; secrets are dropped before the first byte reaches a disk; clicks
and edits are never dropped silently; per source and session `seq` counts on after a crash.
"""

__all__: list[str] = []
