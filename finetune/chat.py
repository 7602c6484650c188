"""Talk to the assistant's server from a terminal: one question as arguments, or line by line."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator

import httpx


def ask(url: str, token: str, messages: list[dict[str, str]], max_tokens: int) -> Iterator[str]:
    """Yield the answer to a conversation piece by piece.

    Raises SystemExit where the server refuses or is not there.
    """
    body = {"messages": messages, "max_tokens": max_tokens, "stream": True}
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    address = f"{url.rstrip('/')}/v1/chat/completions"
    try:
        with httpx.stream("POST", address, json=body, headers=headers, timeout=600) as answer:
            if answer.is_error:
                raise SystemExit(
                    f"{address} answered {answer.status_code}: {answer.read().decode()}"
                )
            for line in answer.iter_lines():
                if line.startswith("data: {"):
                    choices = json.loads(line[6:])["choices"]
                    yield choices[0]["delta"].get("content", "") if choices else ""
    except httpx.TransportError as error:
        raise SystemExit(f"{address}: {error}; start it with: python server.py") from error


def main() -> None:
    """Answer one question, or go on until the input ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("question", nargs="*")
    parser.add_argument("--url", default="http://127.0.0.1:8765")
    parser.add_argument("--token", default=os.environ.get("WAT_ASSISTANT_TOKEN", ""))
    parser.add_argument("--max_tokens", type=int, default=256)
    options = parser.parse_args()
    turns: list[dict[str, str]] = []
    questions = [" ".join(options.question)] if options.question else prompted()
    for question in questions:
        turns.append({"role": "user", "content": question})
        said = ""
        for piece in ask(options.url, options.token, turns, options.max_tokens):
            print(piece, end="", flush=True)
            said += piece
        print()
        turns.append({"role": "assistant", "content": said})


def prompted() -> Iterator[str]:
    """Yield the lines of the terminal that say something."""
    while True:
        print("> " if sys.stdin.isatty() else "", end="", flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.strip()


if __name__ == "__main__":
    main()
