"""The whole way as a person walks it: one program after the other, nothing imported."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

import main
from export import FORMATS

SOURCE = Path(main.__file__).resolve().parent


def program(name, *flags):
    done = subprocess.run(
        [sys.executable, str(SOURCE / name), *map(str, flags)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def walk(folder, source, base, train_flags, evaluate_flags):
    data, run = folder / "data", folder / "run"
    whole = ["--data", data, "--run", run, "--base", base, "--eval_flags", " ".join(evaluate_flags)]
    program("walk.py", source, *whole, "--formats", ",".join(FORMATS), "--", *train_flags)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = ["--run", run, "--source", source, "--port", port, "--context_tokens", 512]
    server = subprocess.Popen([sys.executable, str(SOURCE / "server.py"), *map(str, flags)])
    try:
        url = f"http://127.0.0.1:{port}"
        while server.poll() is None:
            try:
                if httpx.get(f"{url}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                pass
            time.sleep(0.3)
        said = program("chat.py", "--url", url, "--max_tokens", 16, "What does best_fit do?")
    finally:
        server.terminate()
        server.wait()
    report = json.loads((run / "report" / "report.json").read_text())
    exported = json.loads((run / "export" / "export.json").read_text())
    return report, exported, said


def test_from_source_to_an_answer_with_the_tiny_base(base, project, tmp_path):
    report, exported, said = walk(
        tmp_path,
        project,
        base,
        [
            "--seq_len",
            "256",
            "--row_tokens",
            "512",
            "--max_steps",
            "20",
            "--eval_tokens",
            "1024",
            "--lr",
            "1e-2",
            "--fim_rate",
            "0.2",
        ],
        ["--num_cases", "4", "--context_tokens", "96", "--seq_len", "256", "--eval_tokens", "1024"],
    )
    assert report["after"]["held_out_bits_per_byte"] < report["before"]["held_out_bits_per_byte"]
    assert set(exported["logit_errors"]) == {"adapter", "merged", "gguf-f16", "gguf-q8_0"}
    assert said


@pytest.mark.weights
@pytest.mark.timeout(3600)
def test_real_weights_learn_this_project_on_a_cpu(tmp_path):
    report, exported, said = walk(
        tmp_path,
        SOURCE.parent,
        "smollm2",
        [
            "--dtype",
            "bfloat16",
            "--seq_len",
            "512",
            "--row_tokens",
            "1024",
            "--max_steps",
            "40",
            "--eval_tokens",
            "8192",
        ],
        [
            "--dtype",
            "bfloat16",
            "--seq_len",
            "512",
            "--num_cases",
            "12",
            "--context_tokens",
            "384",
            "--eval_tokens",
            "8192",
        ],
    )
    before, after = report["before"], report["after"]
    assert after["held_out_bits_per_byte"] < 0.97 * before["held_out_bits_per_byte"]
    assert after["stdlib_bits_per_byte"] < 1.05 * before["stdlib_bits_per_byte"]
    assert set(exported["logit_errors"]) == {"adapter", "merged", "gguf-f16", "gguf-q8_0"}
    assert said.strip()


def test_libraries_loaded_ahead_start_no_gpu_runtime():
    """A process forked from one that has begun with a GPU cannot use it."""
    program = (
        "import sys, walk\n"
        "for name in walk.LIBRARIES: __import__(name)\n"
        "import torch\n"
        "assert not torch.cuda.is_initialized()\n"
        "assert 'libcuda.so' not in open('/proc/self/maps').read()\n"
        "assert 'jax' not in sys.modules and 'bm25s' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=SOURCE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
