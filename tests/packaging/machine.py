"""A machine of its own for a test: this one's files, changed in memory only, with systemd as process 1."""

from __future__ import annotations

import os
import re
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

SYSTEMD = Path("/lib/systemd/systemd")

# Of this machine's own services none is to start there.
_MASKED = (
    "systemd-udevd.service systemd-udev-trigger.service systemd-resolved.service"
    " systemd-networkd.service systemd-remount-fs.service"
    " systemd-timesyncd.service systemd-modules-load.service systemd-sysctl.service"
    " systemd-random-seed.service systemd-update-utmp.service dev-hugepages.mount dev-mqueue.mount tmp.mount"
    " sys-kernel-debug.mount sys-kernel-tracing.mount apparmor.service ssh.service"
)

_BOOT = """
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs {folder}
mkdir {folder}/upper {folder}/work {folder}/root
root={folder}/root
mount -t overlay overlay -o lowerdir=/,upperdir={folder}/upper,workdir={folder}/work $root
mount -t proc proc $root/proc
mount -t sysfs sysfs $root/sys
mkdir -p $root/sys/fs/cgroup
mount -t cgroup2 cgroup2 $root/sys/fs/cgroup
mount -t tmpfs tmpfs $root/run
mount -t tmpfs tmpfs $root/tmp
mount -t tmpfs tmpfs $root/dev
for each in null zero full random urandom tty; do
    touch $root/dev/$each
    mount --bind /dev/$each $root/dev/$each
done
mkdir $root/dev/pts $root/dev/shm
mount -t devpts devpts $root/dev/pts -o newinstance,ptmxmode=0666
ln -s pts/ptmx $root/dev/ptmx
ln -s /proc/self/fd $root/dev/fd
rm -rf $root/etc/systemd/system
mkdir $root/etc/systemd/system
for unit in {masked}; do ln -s /dev/null $root/etc/systemd/system/$unit; done
printf '[Unit]\\nRequires=basic.target\\nAfter=basic.target\\n' > $root/etc/systemd/system/lab.target
: > $root/etc/fstab
: > $root/etc/machine-id
cd $root
mkdir -p mnt/old
pivot_root . mnt/old
umount -l /mnt/old
export container=lab PATH=/usr/sbin:/usr/bin:/sbin:/bin
exec {systemd} --system --unit=lab.target --show-status=no
"""


class Machine:
    """Use it as a context manager: nothing stays behind. Raises MachineError where there can be none."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._cgroup: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._first = 0

    def __enter__(self) -> Self:
        try:
            self._boot()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Switch it off."""
        if self._process is not None:
            self._process.kill()  # and unshare's child with it, the machine's first process
            self._process.wait()
        if self._cgroup is not None:
            deadline = time.monotonic() + 10
            while _remove_groups(self._cgroup) and time.monotonic() < deadline:
                time.sleep(0.05)

    def run(self, *command: str, check: bool = True) -> str:
        """Run a command there, and return what it says. Raises MachineError with that, if it fails."""
        done = subprocess.run(
            [
                "nsenter",
                f"--target={self._first}",
                "-m",
                "-p",
                "-n",
                "-i",
                "-u",
                "-C",
                "-r",
                "-w",
                "--",
                *command,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            text=True,
            check=False,
            timeout=120,
        )
        if check and done.returncode:
            journal = self.run("journalctl", "--no-pager", "--lines=30", check=False)
            raise MachineError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}{journal}")
        return done.stdout

    def write(self, path: str, text: str, *, owner: str = "root:root", mode: str = "644") -> None:
        """Put a file there."""
        self.run("sh", "-c", 'cat > "$0" <<"END"\n' + text + "\nEND", path)
        self.run("chown", owner, path)
        self.run("chmod", mode, path)

    def copy(self, file: Path, path: str) -> None:
        """Put one of our files there."""
        target = Path(f"/proc/{self._first}/root") / path.lstrip("/")
        target.write_bytes(file.read_bytes())

    def _boot(self) -> None:
        if os.geteuid() != 0 or not SYSTEMD.exists():
            raise MachineError("a machine of its own needs root and systemd")
        groups = re.search(r"^cgroup2? (\S+) cgroup2 ", Path("/proc/self/mounts").read_text(), re.MULTILINE)
        if groups is None:
            raise MachineError("a machine of its own needs control groups, version 2")
        self._cgroup = Path(groups[1]) / f"isthmus-test-{os.getpid()}"
        self._cgroup.mkdir()
        script = _BOOT.format(folder=self._folder, masked=_MASKED, systemd=SYSTEMD)
        with (self._folder.parent / "machine.log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("sh", "-c", f'echo $$ > {self._cgroup}/cgroup.procs && exec "$@"', "sh"),
                    *("unshare", "--mount", "--pid", "--fork", "--ipc", "--uts", "--net", "--cgroup"),
                    *("--kill-child", "sh", "-c", script),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while not self._is_up():
            if self._process.poll() is not None or time.monotonic() > deadline:
                said = (self._folder.parent / "machine.log").read_text()
                raise MachineError(f"a machine of its own does not start here: {said[-500:]}")
            time.sleep(0.1)

    def _is_up(self) -> bool:
        children = (
            Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children") if self._process else None
        )
        found = children.read_text().split() if children is not None and children.exists() else []
        if not found:
            return False
        self._first = int(found[0])
        state = self.run("systemctl", "is-system-running", check=False).strip()
        return state in ("running", "degraded")


class MachineError(Exception):
    """Something there went wrong; the message says what."""


def _remove_groups(group: Path) -> bool:
    """Remove a control group with all below it; return whether something is still in it."""
    for folder in sorted((each for each in group.rglob("*") if each.is_dir()), reverse=True):
        _remove(folder)
    return _remove(group)


def _remove(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return folder.exists()
    return False
