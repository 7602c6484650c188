"""`python -m services.task_learner.discovery`: compile the inner loops before they are needed."""

from services.task_learner.discovery.fit import Stretch, fit, label

_LOG = Stretch([0, 1, 2] * 20, range(0, 60_000, 1_000), [False] * 60)

if __name__ == "__main__":
    label(fit(_LOG), _LOG)
