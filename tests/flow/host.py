"""A disk and a network for processes under test, with the faults of real ones.

Both need the rights of root and raise PermissionError without them.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MIB = 1 << 20
# not every kernel has netem; the other one delays and drops what exceeds its rate
SHAPES = ("netem delay 200ms 100ms loss 5%", "tbf rate 256kbit burst 4kb latency 200ms")


def run(*command: str) -> None:
    """Run a system command. Raises: PermissionError with the command's output when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise PermissionError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise PermissionError(f"{' '.join(command)}: {done.stderr.strip()}")


class Disk:
    """A file system in a file. Each fault lasts some seconds and undoes itself.

    Attributes: place: where it is mounted.
    """

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.place = folder / "disk"
        self._image = folder / "disk.img"
        self._megabytes = megabytes

    def __enter__(self) -> Disk:
        self.place.mkdir()
        with self._image.open("wb") as file:
            file.truncate(self._megabytes * MIB)
        run("mkfs.ext4", "-q", "-m", "0", str(self._image))
        run("mount", "-o", "loop", str(self._image), str(self.place))
        return self

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["umount", "-l", str(self.place)], check=False)
        self._image.unlink()

    def fill(self, seconds: float) -> None:
        """Fill the disk."""
        filler = self.place / "filler"
        try:
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                stat = os.statvfs(self.place)
                free = stat.f_bavail * stat.f_frsize
                with suppress(OSError):
                    os.posix_fallocate(file.fileno(), 0, max(free - 2 * MIB, 1))
                file.seek(0, os.SEEK_END)
                while file.write(b"\0" * 65536):
                    pass
            time.sleep(seconds)
        finally:
            filler.unlink(missing_ok=True)

    def refuse_writes(self, folder: Path, seconds: float) -> None:
        """Refuse every write below a folder, also into files that are open.

        The kernel refuses `mount -o remount,ro` while a file is open for writing. A file that is
        immutable fails its writers as a file system does that has become read-only by an error.
        """
        self._change(folder, "+i")
        try:
            time.sleep(seconds)
        finally:
            self._change(folder, "-i")

    def _change(self, folder: Path, attribute: str) -> None:
        # some files are deleted meanwhile
        subprocess.run(["chattr", "-R", "-f", attribute, str(folder)], check=False)

    def hang(self, seconds: float) -> None:
        """Let every write wait."""
        run("fsfreeze", "-f", str(self.place))
        try:
            time.sleep(seconds)
        finally:
            run("fsfreeze", "-u", str(self.place))


class Network:
    """A network namespace behind two pairs of interfaces: one link is cut, requests use the other.

    Attributes:
        command: prefix of a command that runs inside.
        link: the namespace's address on the link that is cut.
        whole: the namespace's address on the other link.
    """

    def __init__(self) -> None:
        number = os.getpid()
        self._space = f"cs{number}"
        self.command = ["ip", "netns", "exec", self._space]
        # 8 addresses of its own for each process
        base = number * 8 & 0xFFFF
        self._prefix, self._first = f"10.77.{base >> 8}.", base & 0xFF
        self.link, self.whole = self._address(2), self._address(6)

    def _address(self, number: int) -> str:
        return f"{self._prefix}{self._first + number}"

    def _inside(self, *words: str) -> tuple[str, ...]:
        return ("ip", "-n", self._space, *words)

    def __enter__(self) -> Network:
        try:
            self._make()
        except PermissionError:
            self.__exit__()
            raise
        return self

    def _make(self) -> None:
        run("ip", "netns", "add", self._space)
        run(*self._inside("link", "set", "lo", "up"))
        for name, near, far in (("a", 1, 2), ("b", 5, 6)):
            outer, inner = f"{self._space}{name}", f"{self._space}{name}i"
            run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner)
            run("ip", "link", "set", inner, "netns", self._space)
            run("ip", "address", "add", f"{self._address(near)}/30", "dev", outer)
            run(*self._inside("address", "add", f"{self._address(far)}/30", "dev", inner))
            run("ip", "link", "set", outer, "up")
            run(*self._inside("link", "set", inner, "up"))

    def __exit__(self, *exception: object) -> None:
        # this removes its interfaces too
        for command in (["netns", "del", self._space], ["link", "del", f"{self._space}a"]):
            subprocess.run(["ip", *command], check=False, capture_output=True)

    def cut(self, seconds: float, *, far: bool) -> None:
        """Take the link down. Args: far: at its other end, which this end does not notice."""
        link = ("link", "set", f"{self._space}a{'i' if far else ''}")
        command = self._inside(*link) if far else ("ip", *link)
        run(*command, "down")
        try:
            time.sleep(seconds)
        finally:
            run(*command, "up")

    def narrow(self, seconds: float, draw: random.Random) -> str:
        """Make the link slow and lossy. Returns: how; "" when this kernel supports no way."""
        for shape in draw.sample(SHAPES, len(SHAPES)):
            with suppress(PermissionError), self._shaped(shape):
                time.sleep(seconds)
                return shape
        return ""

    @contextmanager
    def _shaped(self, shape: str) -> Iterator[None]:
        ends = [("tc", f"{self._space}a"), ("tc", "-n", self._space, f"{self._space}ai")]
        done = []
        try:
            for *tc, device in ends:
                run(*tc, "qdisc", "add", "dev", device, "root", *shape.split())
                done.append([*tc, "qdisc", "del", "dev", device, "root"])
            yield
        finally:
            for command in done:
                run(*command)
