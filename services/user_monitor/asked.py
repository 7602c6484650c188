"""What may be asked of user-monitor over REST, and how it answers. Shapes only."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from services.user_monitor.capture import (
    BrowserSpec,
    InputSpec,
    ReplaySpec,
    SourceKind,
    SourceSpec,
    WindowSpec,
)
from services.user_monitor.recorder import Recorder, RecorderState
from services.user_monitor.settings import UserMonitorSettings
from services.user_monitor.teaching import Lesson
from shared.errors import ConfigError, NotFound
from shared.settings import CommonSettings

__all__ = [
    "RecordingAsked",
    "RecordingView",
    "ReplayAsked",
    "SessionView",
    "StartedView",
    "StateView",
    "StopAsked",
    "TeachAsked",
]


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RecordingAsked(_Asked):
    """Which source to watch."""

    source: Literal["input", "window", "browser"]
    url: Annotated[str | None, Field(max_length=2048, description="browser: page to open")] = None
    headless: Annotated[bool, Field(description="browser: without a window")] = False
    attach_url: Annotated[
        str | None,
        Field(
            pattern=r"^https?://(127\.0\.0\.1|localhost|\[::1\]):\d+/?$",
            description="browser: debugging port of a running one, on this machine",
        ),
    ] = None
    display: Annotated[str | None, Field(description="X display; none: the service's own")] = None
    teach: Annotated[
        str | None, Field(min_length=1, max_length=120, description="also begin a demonstration")
    ] = None

    def spec(self, settings: UserMonitorSettings, common: CommonSettings) -> SourceSpec:
        """Return the source to open."""
        if self.source == "input":
            return InputSpec(self.display)
        if self.source == "window":
            return WindowSpec(self.display)
        profile = settings.browser_profile_dir or common.config_dir / "browser"
        return BrowserSpec(
            profile_dir=profile,
            start_url=self.url,
            attach_url=self.attach_url,
            executable=settings.browser_executable,
            headless=self.headless,
        )


class StopAsked(_Asked):
    """What to stop; nothing named: everything."""

    source: SourceKind | None = None
    id: str | None = None


class TeachAsked(_Asked):
    """What the demonstration shows."""

    name: Annotated[str, Field(min_length=1, max_length=120)]


class ReplayAsked(_Asked):
    """A recorded log, by content or by its path in the replay folder (there packed or not)."""

    content: Annotated[str | None, Field(description="the log itself; it stays in memory")] = None
    path: Annotated[str | None, Field(max_length=1024)] = None
    format: Literal["jsonl", "csv", "xes", "demonstrations"] = "jsonl"
    columns: Annotated[
        dict[str, str] | None,
        Field(description="csv, xes: field -> column, or column|column, or column+column"),
    ] = None
    by_time: Annotated[
        bool, Field(description="the earliest event first, whatever the log's order")
    ] = False
    as_user: Annotated[str | None, Field(min_length=1, max_length=64)] = None
    speed: Annotated[
        float, Field(ge=0, le=1000, description="1 keeps the log's pauses; 0 leaves them out")
    ] = 0.0

    def spec(self, settings: UserMonitorSettings, common: CommonSettings) -> ReplaySpec:
        """Return the source to open. Raises ConfigError, NotFound."""
        if (self.content is None) == (self.path is None):
            raise ConfigError("a replay needs either a content or a path")
        if self.format != "xes" and (self.format == "csv") != (self.columns is not None):
            raise ConfigError("a CSV needs a column map (columns), JSON lines need none")
        path = None
        if self.path is not None:
            folder = (settings.replay_dir or common.data_dir / "replay").resolve()
            path = (folder / self.path).resolve()
            if not path.is_relative_to(folder):
                raise ConfigError(
                    f"logs are replayed from {folder} only (WAT_USER_MONITOR_REPLAY_DIR): "
                    "put it there, or send its content"
                )
            if not path.is_file():
                raise NotFound(f"there is no file {self.path!r} in {folder}")
        content = None if self.content is None else self.content.encode()
        return ReplaySpec(
            path, content, self.columns, self.as_user, self.speed, self.format, self.by_time
        )


class RecordingView(BaseModel):
    """How one recording stands."""

    id: str
    source: SourceKind
    session: str
    state: RecorderState
    reason: str | None
    paused: bool
    started_ms: int
    num_published: int
    num_waiting: int
    dropped: dict[str, int]

    @classmethod
    def of(cls, recording_id: str, recorder: Recorder) -> "RecordingView":
        """Show a recorder."""
        return cls(
            id=recording_id,
            source=recorder.source.kind,
            session=recorder.source.session,
            state=recorder.state,
            reason=recorder.reason,
            paused=recorder.paused,
            started_ms=recorder.started_ms,
            num_published=recorder.num_published,
            num_waiting=recorder.num_waiting,
            dropped={reason.value: count for reason, count in recorder.dropped.items()},
        )


class StartedView(RecordingView):
    """A recording that was started, and what the user should know about it."""

    warning: str | None = None


class StateView(BaseModel):
    """How recording stands as a whole."""

    paused: bool
    teaching: Lesson | None
    num_spooled: int
    recordings: list[RecordingView]


class SessionView(BaseModel):
    """One start of one source; a replayed log is one session however often it is replayed."""

    source: SourceKind
    session: str
    user_id: str
    started_ms: int
    last_ms: int
    next_seq: int
    num_events: int
