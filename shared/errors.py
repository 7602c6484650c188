"""Every error the project raises on purpose.

::

    WatError (retryable=False)
    ├── ConfigError              a setting or option is wrong
    ├── ContractError            a record does not fit its schema
    ├── ConflictError            what was asked does not fit the present state
    ├── NotFound                 no such session, routine, model, run …
    ├── BusError
    │   ├── BusUnavailable       (retryable) broker away, disk full
    │   ├── TopicLocked          another process owns the topic
    │   └── OffsetOutOfRange     retention overtook the reader
    ├── CaptureError
    │   ├── ConsentMissing
    │   ├── NoBrowser
    │   └── NoDisplay
    ├── MiningError
    ├── TrainingError
    │   └── Diverged
    ├── SandboxError
    │   ├── GuestTrap
    │   ├── OutOfFuel
    │   └── GrantDenied
    ├── ActuatorError            acting cannot go on: a dialog, another origin, a closed tab
    │   ├── StepRefused          the step was not begun; the screen is as it was
    │   └── StepUnverified       the step was done, and its effect cannot be seen
    ├── ArtifactError            a file that is not what it should be
    │   ├── ArtifactMissing
    │   └── DigestMismatch
    └── AssistantError           the code assistant does not answer, or refuses

A message says what is wrong, which thing, and what to do. `assert` is for our own bugs.
"""

__all__ = [
    "ActuatorError",
    "ArtifactError",
    "ArtifactMissing",
    "AssistantError",
    "BusError",
    "BusUnavailable",
    "CaptureError",
    "ConfigError",
    "ConflictError",
    "ConsentMissing",
    "ContractError",
    "DigestMismatch",
    "Diverged",
    "GrantDenied",
    "GuestTrap",
    "MiningError",
    "NoBrowser",
    "NoDisplay",
    "NotFound",
    "OffsetOutOfRange",
    "OutOfFuel",
    "SandboxError",
    "StepRefused",
    "StepUnverified",
    "TopicLocked",
    "TrainingError",
    "WatError",
]


class WatError(Exception):
    """Carry a message for a person, and whether trying again can help."""

    retryable = False
    status = 500  # HTTP status that shared.api answers with


class ConfigError(WatError):
    """A setting or option is wrong."""

    status = 400


class ContractError(WatError):
    """A record does not fit its schema."""

    status = 422


class ConflictError(WatError):
    """What was asked does not fit the present state."""

    status = 409


class NotFound(WatError):
    """Nothing has this name or id."""

    status = 404


class BusError(WatError):
    """The bus could not do what was asked."""


class BusUnavailable(BusError):
    """The broker is away or the disk refuses; trying again can help."""

    retryable = True
    status = 503


class TopicLocked(BusError):
    """Another process owns the topic."""

    status = 409


class OffsetOutOfRange(BusError):
    """Retention removed what the reader had not read yet."""

    status = 410


class CaptureError(WatError):
    """A source cannot capture."""


class ConsentMissing(CaptureError):
    """The user has not allowed this capture."""

    status = 403


class NoBrowser(CaptureError):
    """No Chromium can be found or reached."""

    status = 503


class NoDisplay(CaptureError):
    """No X display can be opened."""

    status = 503


class MiningError(WatError):
    """Mining cannot go on with what it was given."""


class TrainingError(WatError):
    """A training failed for a reason the user can read."""


class Diverged(TrainingError):
    """The loss is not a number."""


class SandboxError(WatError):
    """A module is refused or failed inside the sandbox."""

    status = 422


class GuestTrap(SandboxError):
    """The guest trapped."""


class OutOfFuel(SandboxError):
    """The guest used up its fuel or its time."""


class GrantDenied(SandboxError):
    """The module asks for a power it was not granted."""

    status = 403


class ActuatorError(WatError):
    """Acting cannot go on: a dialog, a foreign origin, a closed tab."""

    status = 409


class StepRefused(ActuatorError):
    """The step was not begun: its element is stale, covered or disabled."""


class StepUnverified(ActuatorError):
    """The step was done, and its effect cannot be seen."""


class ArtifactError(WatError):
    """An artifact, or a file that is to become one, is not what it should be."""

    status = 422


class ArtifactMissing(ArtifactError):
    """No file has this digest: it was forgotten, or its folder is not shared."""

    status = 404


class DigestMismatch(ArtifactError):
    """An artifact's bytes do not hash to its name."""


class AssistantError(WatError):
    """The code assistant does not answer, refuses, or breaks off."""

    status = 502
