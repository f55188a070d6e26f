"""A Linux guest whose instructions can be counted: an emulated CPU, a Debian cloud kernel, this machine's files.

The kernel comes as a package from apt, unpacked into a folder and never installed. There is no image: the guest's root
is this machine's own root, read-only, over virtiofs; its first process is a shell script that starts one Python module
of this project and ends the guest with it. Lines go to and from that module over a serial line.

Not KVM, but TCG with `-icount`: slow, and each instruction moves the clock by one nanosecond (see `counting`).
"""

from __future__ import annotations

import os
import platform
import re
import selectors
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from ipsecfast.bench.results import BenchError
from ipsecfast.lab.netns import stop

QEMU = "qemu-system-x86_64"
VIRTIOFSD = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd")  # Debian 12 has it in qemu's own packages
PACKAGES = {QEMU: "qemu-system-x86", "ip": "iproute2", "modprobe": "kmod", "setpriv": "util-linux"}
KERNEL_NAME = re.compile(r"linux-image-\d\S*-cloud-amd64")
PROJECT = Path(__file__).parents[2]
MEMORY = "768M"
INIT = """#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/run TMPDIR=/run
export PYTHONPATH={path} PYTHONDONTWRITEBYTECODE=1 OPENBLAS_NUM_THREADS=1
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t tmpfs run /run; mount -t devtmpfs dev /dev
cd /run
{command} </dev/ttyS1 >/dev/ttyS1
echo o > /proc/sysrq-trigger
sleep 60
"""
BOOT = "root=root rootfstype=virtiofs ro console=ttyS0 loglevel=4 tsc=reliable panic=-1"
CONSOLE_LINES = 20


class GuestError(BenchError):
    """There is no guest, or it did not do its work; the text says why."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel package: `folder` has lib/modules and a boot image."""

    folder: Path

    @property
    def image(self) -> Path:
        return next(self.folder.glob("boot/vmlinuz-*"))

    @property
    def release(self) -> str:
        return self.image.name.removeprefix("vmlinuz-")


# ---- what it needs ----


def missing() -> str | None:
    """Why no guest can run here, with what would help; None if one can."""
    if platform.machine() != "x86_64":
        return (
            f"the emulated guest is x86-64 and runs this machine's programs, and this machine is {platform.machine()}"
        )
    if os.geteuid() != 0:
        return "to share this machine's files with a guest needs root"
    packages = {package for tool, package in PACKAGES.items() if not shutil.which(tool)}
    if PACKAGES[QEMU] not in packages and virtiofsd() is None:
        packages.add("virtiofsd")
    if packages:
        return f"an emulated guest needs: apt-get install --no-install-recommends {' '.join(sorted(packages))}"
    return None


def virtiofsd() -> str | None:
    return next((path for path in VIRTIOFSD if os.access(path, os.X_OK)), None)


def default_cache() -> Path:
    """In a checkout its build folder, else the user's cache."""
    if (PROJECT / "pyproject.toml").exists():
        return PROJECT / "build" / "kernel"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ipsecfast" / "kernel"


def newest(packages: Sequence[str]) -> str:
    """Of the names of packages the cloud kernel with the highest version. Raises GuestError if there is none."""
    names = [name for name in packages if KERNEL_NAME.fullmatch(name)]
    if not names:
        raise GuestError(
            "apt knows no package linux-image-*-cloud-amd64: apt-get update, or name a kernel's package file (.deb)"
        )
    return max(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def fetch_kernel(cache: Path, deb: Path | None = None) -> Kernel:
    """The newest cloud kernel that apt offers, or the one in `deb`, unpacked in `cache`; fetched once.

    Raises GuestError, with apt's own words, if it can't be had.
    """
    name = deb.stem if deb is not None else newest(_output("apt-cache", "pkgnames", "linux-image-").split())
    kernel = Kernel(cache / name)
    if kernel.folder.is_dir():
        return kernel
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="unpack-") as text:
        folder = Path(text)
        if deb is None:
            _output("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", name, cwd=folder)
        package = deb.resolve() if deb is not None else next(folder.glob("*.deb"))
        _unpack(package, folder / "kernel")
        try:
            (folder / "kernel").rename(kernel.folder)
        except OSError:
            if not kernel.folder.is_dir():  # else another run was faster
                raise
    return kernel


def _unpack(package: Path, folder: Path) -> None:
    _output("dpkg", "-x", str(package), str(folder))
    if not (folder / "lib").exists():
        (folder / "lib").symlink_to("usr/lib")
    if not list(folder.glob("boot/vmlinuz-*")) or not (folder / "lib" / "modules").is_dir():
        raise GuestError(f"{package.name} holds no kernel with its modules")
    _output("depmod", "-b", str(folder), Kernel(folder).release)


def _output(*command: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(command, check=False, cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise GuestError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise GuestError(f"{' '.join(command)}: {done.stderr.strip() or f'status {done.returncode}'}")
    return done.stdout


# ---- the guest ----


class Guest:
    """A guest that boots and runs `python -m module arguments` as its only program. `close` ends it.

    `cpu` is what qemu calls `-cpu`.
    """

    def __init__(self, kernel: Kernel, module: str, *arguments: str, cpu: str = "max") -> None:
        self._pending = b""
        with ExitStack() as undo:
            self._folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ipsecfast-")))
            init = self._folder / "init"
            command = shlex.join([sys.executable, "-m", module, *arguments])
            init.write_text(INIT.format(path=shlex.quote(str(PROJECT)), command=command))
            init.chmod(0o755)
            share = self._start(undo, _share_command(self._folder / "share"))
            _await_path(self._folder / "share", share)
            self._process = self._start(undo, _qemu_command(kernel, self._folder, cpu), subprocess.PIPE)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def ask(self, text: str) -> None:
        """A line to the module's standard input. Raises GuestError if the guest is gone."""
        assert self._process.stdin is not None  # noqa: S101 (it was started with a pipe)
        try:
            self._process.stdin.write(text.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise self._failure("the guest has ended") from error

    def answer(self, seconds: float) -> str:
        """The next line that the module prints. Raises GuestError after `seconds`, or if the guest ends instead."""
        assert self._process.stdout is not None  # noqa: S101 (it was started with a pipe)
        pipe, deadline = self._process.stdout.fileno(), time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            while b"\n" not in self._pending:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise self._failure(f"the guest said nothing for {seconds:g} s")
                chunk = os.read(pipe, 65536)
                if not chunk:
                    raise self._failure("the guest ended")
                self._pending += chunk
        line, _, self._pending = self._pending.partition(b"\n")
        return line.decode("utf-8", "replace").strip()

    def _start(
        self, undo: ExitStack, command: Sequence[str], pipe: int = subprocess.DEVNULL
    ) -> subprocess.Popen[bytes]:
        """It dies with this process, and with `close`."""
        with (self._folder / "programs.log").open("ab") as log:
            output = pipe if pipe == subprocess.PIPE else log
            process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=pipe, stdout=output, stderr=log, start_new_session=True,
            )  # fmt: skip
        undo.callback(_end, process)
        return process

    def _failure(self, text: str) -> GuestError:
        """With what programs and guest said last."""
        files = (self._folder / name for name in ("programs.log", "console.log"))
        said = [line for file in files if file.exists() for line in file.read_text("utf-8", "replace").splitlines()]
        return GuestError("\n".join([text, *said[-CONSOLE_LINES:]]))


def _end(process: subprocess.Popen[bytes]) -> None:
    stop(process)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _await_path(path: Path, process: subprocess.Popen[bytes], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise GuestError(f"virtiofsd did not start: status {process.poll()}")
        time.sleep(0.01)


def _share_command(socket: Path) -> list[str]:
    program = virtiofsd()
    if program is None:
        raise GuestError("there is no virtiofsd")
    return [program, f"--socket-path={socket}", "-o", "source=/", "-o", "sandbox=chroot", "-o", "cache=always"]


def _qemu_command(kernel: Kernel, folder: Path, cpu: str) -> list[str]:
    options = {
        "-machine": ["q35"],
        "-accel": ["tcg"],
        "-cpu": [cpu],
        "-smp": ["1"],
        "-m": [MEMORY],
        "-icount": ["shift=0,sleep=on"],
        "-rtc": ["clock=vm"],
        "-display": ["none"],
        "-object": [f"memory-backend-memfd,id=memory,size={MEMORY},share=on"],
        "-numa": ["node,memdev=memory"],
        "-chardev": [f"socket,id=share,path={folder}/share"],
        "-device": ["vhost-user-fs-pci,chardev=share,tag=root"],
        "-serial": [f"file:{folder}/console.log", "stdio"],
        "-kernel": [str(kernel.image)],
        "-append": [f"{BOOT} init={folder}/init"],
    }
    words = [word for option, values in options.items() for value in values for word in (option, value)]
    return [QEMU, "-nodefaults", "-no-user-config", "-no-reboot", *words]
