"""The first process of the user-mode Linux guest: runs what the test asks for over the serial line.

Requests and answers are lines of JSON. {"run": [...], "timeout": s} waits for the program and answers with its status
and output; {"start": [...], "log": path} starts it and answers with its process id; {"kill": pid} ends that. This file
runs in the guest with nothing but the standard library.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import termios
import tty
from typing import Any

LINE = "/dev/ttyS0"


def answer(request: dict[str, Any]) -> dict[str, Any]:
    if "run" in request:
        return run(request["run"], request["timeout"])
    if "start" in request:
        with open(request["log"], "ab") as log:
            process = subprocess.Popen(request["start"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        return {"pid": process.pid}
    if "kill" in request:
        os.kill(request["kill"], signal.SIGTERM)
        os.waitpid(request["kill"], 0)
        return {}
    return {"error": f"no such request: {sorted(request)}"}


def run(command: list[str], timeout: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout
        )
    except subprocess.TimeoutExpired as error:
        return {"status": 124, "output": (error.stdout or b"").decode(errors="replace")}
    return {"status": done.returncode, "output": done.stdout.decode(errors="replace")}


def main() -> None:
    descriptor = os.open(LINE, os.O_RDWR | os.O_NOCTTY)
    tty.setraw(descriptor, termios.TCSANOW)
    with open(descriptor, "r+b", buffering=0) as line:
        line.write(b'{"ready": true}\n')
        pending = b""
        while chunk := line.read(4096):
            pending += chunk
            while b"\n" in pending:
                request, _, pending = pending.partition(b"\n")
                try:
                    reply = answer(json.loads(request))
                except (OSError, ValueError) as error:
                    reply = {"error": str(error)}
                data = json.dumps(reply).encode() + b"\n"
                while data:
                    data = data[line.write(data) or 0 :]


if __name__ == "__main__":
    sys.exit(main())
