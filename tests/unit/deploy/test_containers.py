"""What the containers are told agrees with the code."""

import json
import re
from importlib import import_module
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from deploy.kafka.setup import READS, Kind, May, grants_of
from scripts.env_example import text
from shared.topics import OWNERS, Room, Topic

ROOT = Path(__file__).resolve().parents[3]
LOGIC = {
    Room.USER_MONITOR: ("services.user_monitor.monitor", "Monitor"),
    Room.TASK_LEARNER: ("services.task_learner.learner", "TaskLearner"),
    Room.AGENT_TRAINER: ("services.agent_trainer.room", "AgentTrainer"),
    Room.AGENT_RUNNER: ("services.agent_runner.runner", "Runner"),
}


@pytest.mark.parametrize("room", list(Room))
def test_a_room_may_read_its_inputs(room: Room) -> None:
    module, name = LOGIC[room]
    assert set(READS[room]) == set(getattr(import_module(module), name).inputs)


def test_only_its_owner_may_write_a_topic() -> None:
    writers = {
        (grant.name, grant.user)
        for room in Room
        for grant in grants_of(room)
        if grant.kind is Kind.TOPIC and grant.may in (May.WRITE, May.DELETE)
    }
    wanted = {(str(topic), str(room)) for room in Room for topic in OWNERS[room]}
    assert {(topic, user) for topic, user in writers if topic in set(Topic)} == wanted
    assert len({topic for topic, _ in writers}) == len(writers)


def test_the_example_of_settings_is_that_of_the_code() -> None:
    assert (ROOT / ".env.example").read_text() == text(), "run `make docs`"


def test_the_images_folders_are_as_the_rooms_demand_them() -> None:
    """Docker makes mount points in them before a room starts: they hold something by then."""
    [made] = re.findall(
        r"install -d -o wat -g wat -m (\d+) (.*)", (ROOT / "Dockerfile").read_text()
    )
    assert made[0] == "0700"
    assert {"/data", "/data/keys", "/config"} <= set(made[1].split())


def test_the_dashboard_asks_for_metrics_there_are() -> None:
    for room in Room:
        import_module(f"services.{room.package}.main")
    import_module("services.agent_runner.work")
    known = {sample.name for family in REGISTRY.collect() for sample in family.samples}
    known |= {family.name for family in REGISTRY.collect()}
    known |= {
        f"{family.name}_{end}" for family in REGISTRY.collect() for end in ("total", "bucket")
    }
    board = json.loads((ROOT / "deploy/observe/grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    named = {name for expr in asked for name in re.findall(r"wat_[a-z_]+", expr)}
    assert named
    assert named - known == set()
    frame = {"wat_lag_records", "wat_oldest_unhandled_seconds", "wat_stalled_seconds", "wat_jobs"}
    assert frame | {"wat_dead_letters", "wat_handler_seconds_bucket"} <= named


def test_the_browser_may_make_namespaces_and_no_more_than_that_is_added() -> None:
    profile = json.loads((ROOT / "deploy/chromium-seccomp.json").read_text())
    allowed = {
        name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW"
        for name in rule["names"]
    }  # fmt: skip
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert {"clone", "unshare", "chroot"} <= allowed
    administration = {
        "acct", "add_key", "bpf", "delete_module", "finit_module", "init_module", "io_uring_setup",
        "ioperm", "iopl", "kexec_load", "keyctl", "mount", "move_mount", "open_by_handle_at",
        "open_tree", "perf_event_open", "pivot_root", "process_vm_readv", "process_vm_writev",
        "ptrace", "reboot", "request_key", "setns", "sethostname", "settimeofday", "swapon",
        "umount2", "userfaultfd",
    }  # fmt: skip
    assert not administration & allowed
