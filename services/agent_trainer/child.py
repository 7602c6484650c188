"""One training as a child process: started, listened to, limited, and never left behind.

The child gets its order as the first line of stdin and dies when that pipe closes, which it does
with this process too. It is started anew, never forked, so it holds none of our locks.
"""

import asyncio
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.errors import TrainingError

__all__ = ["run_child"]

_ROOT = Path(__file__).resolve().parents[2]
_LINE_BYTES = 4 * 2**20
_GRACE_S = 5.0
_SIGXCPU, _SIGKILL = 24, 9
# Python's, and the dynamic linker's where not even a library fits.
_SIGNS_OF_NO_MEMORY = ("memory", "failed to map segment")

Line = dict[str, Any]


async def run_child(
    order_json: str, *, on_line: Callable[[Line], None], wall_limit_s: float, stop: asyncio.Event
) -> Line:
    """Train as ordered and return the child's last line; `on_line` gets each line.

    Raises TrainingError with the reason: the child's own, a limit, a crash, or `stop`. Long so
    that everything that is started and everything that ends it stand in one place.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.agent_trainer.train",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=_ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        limit=_LINE_BYTES,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    assert child.stderr is not None
    # What it writes there may quote values: it is read so that the child cannot block, then
    # only the kind of the error is told.
    complaint = asyncio.create_task(child.stderr.read())
    listening = asyncio.create_task(_listen(child.stdout, on_line))
    stopped = asyncio.create_task(stop.wait())
    try:
        child.stdin.write(order_json.encode() + b"\n")
        await child.stdin.drain()
        await asyncio.wait(
            {listening, stopped}, timeout=wall_limit_s, return_when=asyncio.FIRST_COMPLETED
        )
        if stop.is_set():
            raise TrainingError("cancelled")
        if not listening.done():
            raise TrainingError(f"it took longer than {wall_limit_s:.0f} s: raise wall_limit_s")
        last = listening.result()
        status = await asyncio.wait_for(child.wait(), _GRACE_S)
        if last.get("event") == "done" and status == 0:
            return last
        if last.get("event") == "failed":
            raise TrainingError(str(last.get("reason", "it failed without a reason")))
        raise TrainingError(_crash(status, (await complaint).decode(errors="replace")))
    except (BrokenPipeError, ConnectionResetError) as error:
        raise TrainingError("the training process ended before it began") from error
    finally:
        if child.returncode is None:
            child.kill()
        for task in (listening, stopped, complaint):
            task.cancel()
        await asyncio.gather(listening, stopped, complaint, return_exceptions=True)
        child.stdin.close()
        await child.wait()


async def _listen(stdout: asyncio.StreamReader, on_line: Callable[[Line], None]) -> Line:
    last: Line = {}
    async for raw in stdout:
        try:
            line = json.loads(raw)
        except ValueError:
            continue  # a library's chatter
        if isinstance(line, dict):
            last = line
            on_line(line)
    return last


def _crash(status: int, complaint: str) -> str:
    if status == -_SIGXCPU:
        return "it took more processor time than cpu_limit_s allows: raise it"
    if status == -_SIGKILL:
        return "the training process was killed, most likely for lack of memory"
    kinds = [line.split(":", 1)[0] for line in complaint.splitlines() if line[:1].isalpha()]
    kind = kinds[-1][:80] if kinds else "no message"
    last = "\n".join(complaint.lower().splitlines()[-3:])
    if kind.endswith("MemoryError") or any(sign in last for sign in _SIGNS_OF_NO_MEMORY):
        return "it needs more memory than memory_limit_mib allows: raise it"
    return f"the training process ended with status {status} ({kind})"
