"""Who may import what, and what a package offers. docs/architecture.md has the same table."""

import ast
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("user_monitor", "task_learner", "agent_trainer", "agent_runner")

# Package -> third-party packages any of its files may import.
ANYWHERE = {
    "shared": {"pydantic", "pydantic_settings"},
    "services": set(),
    "services/user_monitor": {"pydantic", "pydantic_settings", "prometheus_client"},
    "services/task_learner": {"pydantic", "pydantic_settings", "prometheus_client", "numpy"},
    "services/agent_trainer": {
        "pydantic", "pydantic_settings", "prometheus_client", "torch", "numpy", "safetensors",
    },
    "services/agent_runner": {"pydantic", "pydantic_settings", "prometheus_client"},
}  # fmt: skip

# File (or folder) -> what only it may import besides.
ONLY_HERE = {
    "shared/api.py": {"fastapi", "starlette", "prometheus_client"},
    "shared/service.py": {"fastapi", "prometheus_client"},
    "shared/progress.py": {"prometheus_client"},
    "shared/tracing.py": {"opentelemetry"},
    "shared/bus/kafka": {"aiokafka"},
    "shared/bus/log.py": {"apsw"},
    "shared/store.py": {"apsw"},
    "shared/module.py": {"numpy"},
    "shared/page.py": {"playwright"},
    "shared/signing.py": {"cryptography"},
    "services/__main__.py": {"typer", "rich"},
    "services/client.py": {"httpx"},
    "services/commands": {"typer", "rich", "httpx"},
    "services/serve.py": {"uvicorn", "fastapi"},
    "services/user_monitor/capture/browser.py": {"playwright"},
    "services/user_monitor/spool.py": {"apsw"},
    "services/agent_runner/actuators/browser.py": {"playwright"},
    "services/user_monitor/capture/replay_xes.py": {"defusedxml"},
    "services/user_monitor/capture/input.py": {"pynput"},
    "services/user_monitor/capture/window.py": {"Xlib"},
    "services/task_learner/discovery/kernels.py": {"numba"},
    "services/task_learner/exports/bpmn.py": {"bpmn_io"},
    "services/agent_trainer/onnx_file.py": {"onnx"},
    "services/agent_trainer/tensorboard_file.py": {"tensorboard"},
    "services/agent_runner/sandbox.py": {"wasmtime", "numpy"},
    "services/agent_runner/brain.py": {"numpy"},
}
for _room in ROOMS:
    ONLY_HERE[f"services/{_room}/api.py"] = {"fastapi"}
    ONLY_HERE[f"services/{_room}/main.py"] = {"fastapi"}

FILES = sorted(
    path.relative_to(ROOT) for top in ("shared", "services") for path in (ROOT / top).rglob("*.py")
)


def imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide what a file needs"
            yield node.module or ""


def allowed(path: Path) -> set[str]:
    places = [path.as_posix(), *(parent.as_posix() for parent in path.parents)]
    anywhere = next(ANYWHERE[place] for place in places if place in ANYWHERE)
    return anywhere.union(*(ONLY_HERE[place] for place in places if place in ONLY_HERE))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_imports_only_what_the_table_allows(path: Path) -> None:
    third_party = {
        top
        for name in imports_of(path)
        if (top := name.partition(".")[0]) not in sys.stdlib_module_names
        and top not in ("shared", "services", "demo")
    }
    assert third_party <= allowed(path), f"{path} imports {sorted(third_party - allowed(path))}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_room_imports_another(path: Path) -> None:
    ours = {name for name in imports_of(path) if name.startswith(("services", "demo"))}
    if path.parts[0] == "shared":
        assert not ours
    elif len(path.parts) > 2 and path.parts[1] in ROOMS:
        room = f"services.{path.parts[1]}"
        assert all(name == room or name.startswith(room + ".") for name in ours)


def test_torch_is_imported_by_the_training_child_alone() -> None:
    for room in ROOMS:
        importlib.import_module(f"services.{room}.main")
        importlib.import_module(f"services.{room}.api")
    assert "torch" not in sys.modules or _torch_was_here_before()


def _torch_was_here_before() -> bool:
    """Tell whether another test of this process needed torch: then ask a fresh one."""
    import subprocess

    rooms = [f"services.{room}.{part}" for room in ROOMS for part in ("main", "api")]
    code = f"import {', '.join(rooms)}, sys; sys.exit('torch' in sys.modules)"
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=str)
def test_a_module_lists_its_public_names(path: Path) -> None:
    tree = ast.parse((ROOT / path).read_text())
    public = {
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and not node.name.startswith("_")
    }
    listed = next(
        (
            {ast.literal_eval(item) for item in node.value.elts}
            for node in tree.body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and node.targets[0].id == "__all__"
            and isinstance(node.value, ast.List | ast.Tuple)
        ),
        None,
    )
    if listed is None:
        assert path.name in ("__main__.py",), f"{path} has no __all__"
    else:
        defined = {n.id for s in tree.body for n in ast.walk(s) if isinstance(n, ast.Name)}
        imported = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }
        assert listed <= public | defined | imported


@pytest.mark.parametrize("document", ["docs/architecture.md", "docs/privacy.md"])
def test_every_file_a_document_names_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    names = {word.strip("`.,;:()") for word in text.split() if word.strip("`.,;:()").count("/")}
    named = {n for n in names if n.startswith(("shared/", "services/", "demo/", "tests/", "docs/"))}
    assert named, "the document names no file"
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_no_word_of_the_demonstration_is_in_the_product() -> None:
    words = _demo_words()
    found = [(path, word) for path in FILES for word in words if word in (ROOT / path).read_text()]
    assert found == []


def _demo_words() -> set[str]:
    """Return the demonstration's visible labels that are its own: two words or more."""
    from demo import layout

    labels = {field.label for field in layout.FIELDS} | {layout.TERMS.label}
    return {label for label in labels if " " in label} | {"New order", "Order desk", "order desk"}
