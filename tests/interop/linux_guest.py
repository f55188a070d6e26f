"""A Linux kernel with ESP as an ordinary process: user-mode Linux, its root file system is this machine's own (hostfs).

    namespace given               guest
    tap "outer" ----------------- vec0            the link under test; addresses are the test's
                                  dummy0          a network behind the guest

No KVM, no image, no control network: the test talks to `guest_agent.py`, the guest's first process, over a socket pair
that the guest sees as its serial line. Every program installed here runs in the guest against the guest's kernel.

The kernel is this distribution's, or the newer one that `ci/peers` has unpacked with a C library of its own: that one
starts in its root file system, in which /host is this machine's.
"""

from __future__ import annotations

import array
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from ipsecfast.lab.netns import Namespace

KERNEL = "linux.uml"
MODULES = Path("usr/lib/uml/modules")
NEWER = Path(__file__).parents[2] / ".peers" / "linux"
# /dev and /proc are what the process needs of the host's, /host is what becomes the guest's root.
IN_ROOT = 'for d in dev proc; do mount --rbind /$d "$0/$d"; done; mount --rbind / "$0/host"; exec chroot "$0" "$@"'
AGENT = Path(__file__).with_name("guest_agent.py")
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
SIOCETHTOOL = 0x8946
ETHTOOL_STXCSUM, ETHTOOL_STSO, ETHTOOL_SGSO = 0x17, 0x1F, 0x24
LOADED = (
    "ipv6 jitterentropy_rng drbg esp4 esp6 xfrm_user aes_generic ghash_generic gcm ctr cbc seqiv echainiv authenc "
    "authencesn hmac sha256_generic sha512_generic dummy cmac af_key"
)
INIT = """#!/bin/sh
export PATH={path} TMPDIR=/run
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run; mount -t tmpfs mnt /mnt
echo 3 > /proc/sys/kernel/printk
for m in {modules}; do modprobe -d {base} $m 2>/dev/null; done
hostname guest; ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
for c in all default; do
    echo 0 > /proc/sys/net/ipv4/conf/$c/rp_filter; echo 0 > /proc/sys/net/ipv6/conf/$c/accept_dad
done
ip link add dummy0 type dummy; ip link set dummy0 up; ip link set vec0 up
exec {python} {agent}
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An installation of user-mode Linux: the root that it is in."""

    root: Path

    @property
    def modules(self) -> Path:
        return self.root / MODULES

    @property
    def release(self) -> str:
        return min(path.name for path in self.modules.iterdir())

    def outside(self, path: Path) -> Path:
        """What the process calls a file of this machine."""
        return path if self.root == Path("/") else Path("/host") / path.relative_to("/")

    def command(self) -> list[str]:
        if self.root == Path("/"):
            return [KERNEL]
        return ["unshare", "-m", "--propagation", "private", "sh", "-c", IN_ROOT, str(self.root), f"/usr/bin/{KERNEL}"]


def kernel() -> Kernel | str:
    """The newest kernel here, or why none can run."""
    if not shutil.which("modprobe"):
        return "modprobe is missing (package kmod)"
    if (NEWER / "usr/bin" / KERNEL).exists():
        return Kernel(NEWER)
    if not shutil.which(KERNEL) or not (Path("/") / MODULES).is_dir():
        return f"there is no {KERNEL} (package user-mode-linux)"
    found = Kernel(Path("/"))
    if tuple(map(int, found.release.split(".")[:2])) < (6, 13) and " amx_tile" in Path("/proc/cpuinfo").read_text():
        return (
            f"user-mode Linux {found.release} does not know the registers of this CPU (AMX; 6.13 and later do): "
            "ci/peers fetches a newer one"
        )
    return found


def missing() -> str | None:
    """Why no guest can run here, or None."""
    found = kernel()
    return found if isinstance(found, str) else None


class GuestError(RuntimeError):
    """A command in the guest failed; the text is what it printed."""


class LinuxGuest:
    """A running guest, its vec0 wired to a tap device in `place`. `close` ends it."""

    def __init__(self, place: Namespace, folder: Path, *, tap: str = "outer", memory: str = "256M") -> None:
        found = kernel()
        if isinstance(found, str):
            raise GuestError(found)
        self.kernel = found
        self.folder = folder
        self.console = folder / "console.log"
        place.run(_make_tap, tap)
        base = folder / "modules-root"
        (base / "lib").mkdir(parents=True)
        (base / "lib" / "modules").symlink_to(found.modules)
        init = folder / "init"
        python = os.path.realpath(sys.executable)
        init.write_text(INIT.format(path=PATH, modules=LOADED, base=base, python=python, agent=AGENT))
        init.chmod(0o755)
        self._line, theirs = socket.socketpair()
        self._line.settimeout(60.0)
        self._pending = b""
        with self.console.open("wb") as console, theirs:
            self.process = place.run(
                subprocess.Popen,
                [*found.command(), *self._arguments(init, theirs.fileno(), tap, memory)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=[theirs.fileno()],
                env={"TMPDIR": str(found.outside(folder)), "HOME": str(found.outside(folder)), "PATH": PATH},
                start_new_session=True,
            )
        try:
            self._answer()
        except (OSError, GuestError) as error:
            self.close()
            raise GuestError(f"the guest did not start: {error}\n{self.console.read_text(errors='replace')}") from error

    def _arguments(self, init: Path, line: int, tap: str, memory: str) -> list[str]:
        return [
            f"mem={memory}",
            "rootfstype=hostfs",
            f"rootflags={self.kernel.outside(Path('/'))}",
            "rw",
            f"init={init}",
            "quiet",
            "con=null",
            "con0=null,fd:1",
            "ssl=null",
            f"ssl0=fd:{line}",
            f"uml_dir={self.kernel.outside(self.folder)}/uml",
            "umid=guest",
            f"vec0:transport=tap,ifname={tap},depth=128,mac=52:54:00:00:02:02",
        ]

    def run(self, *command: str, timeout: float = 30.0, check: bool = True) -> str:
        """Runs a program in the guest and returns what it printed."""
        reply = self._ask({"run": command, "timeout": timeout}, timeout + 10)
        if check and reply["status"]:
            raise GuestError(f"{' '.join(command)}: status {reply['status']}\n{reply['output']}")
        return str(reply["output"])

    def start(self, *command: str, log: Path | None = None) -> int:
        """Starts a program in the guest that goes on; its process id there."""
        return int(self._ask({"start": command, "log": str(log or "/dev/null")})["pid"])

    def kill(self, pid: int) -> None:
        self._ask({"kill": pid})

    def close(self) -> None:
        self._line.close()
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _ask(self, request: dict[str, Any], timeout: float = 30.0) -> dict[str, Any]:
        self._line.settimeout(timeout)
        self._line.sendall(json.dumps(request).encode() + b"\n")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        while b"\n" not in self._pending:
            chunk = self._line.recv(65536)
            if not chunk:
                raise GuestError("the guest ended")
            self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise GuestError(reply["error"])
        return reply


def _make_tap(name: str) -> None:
    """The guest's driver does not take what the host's offloads leave undone: they are switched off."""
    with IPRoute() as route:
        route.link("add", ifname=name, kind="tuntap", mode="tap")
        index = route.link_lookup(ifname=name)[0]
        route.link("set", index=index, state="up")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for command in (ETHTOOL_STSO, ETHTOOL_SGSO, ETHTOOL_STXCSUM):
            value = array.array("I", [command, 0])
            fcntl.ioctl(sock, SIOCETHTOOL, struct.pack("16sP8x", name.encode(), value.buffer_info()[0]))
