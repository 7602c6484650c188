"""What user-monitor counts; labels name sources, actions and reasons, never content."""

from prometheus_client import Counter, Gauge

__all__ = ["DROPPED", "EVENTS", "RECORDING", "SPOOLED"]

EVENTS = Counter("wat_user_monitor_events_total", "events published", ["source", "action"])
DROPPED = Counter("wat_user_monitor_dropped_total", "captures not kept", ["source", "reason"])
SPOOLED = Gauge("wat_user_monitor_spooled_events", "events on disk that wait for the broker")
RECORDING = Gauge("wat_user_monitor_recordings", "sources being watched")
