# SPDX-License-Identifier: GPL-2.0
"""QEMU in the virtual machine, and its guest: for demo.py and passthrough.py."""

import os
import selectors
import subprocess
import time
from pathlib import Path

SHARE = Path("/run/share")
HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")

MEGABYTES = 256             # of the guest's memory

# What makes the guest's kernel quick to boot: no ACPI, whose interpreter is
# slow work for an emulated processor, no calibrations, no text console.  (So the
# guest cannot power off; it reboots, and -no-reboot makes that the end of QEMU.)
PARAMETERS = ("console=ttyS0 quiet panic=-1 acpi=off no_timer_check tsc=reliable "
              "drm_kms_helper.fbdev_emulation=0")


class Failed(Exception):
    pass


def say(text):
    print(f"  {text}", flush=True)


def reserve():
    """Huge pages for the guest's memory."""
    HUGEPAGES.write_text(str(MEGABYTES // 2))
    got = int(HUGEPAGES.read_text())
    if got < MEGABYTES // 2:
        raise Failed(f"{MEGABYTES // 2} huge pages wanted, the kernel has {got}: "
                     "the machine needs more memory")


def memfd(hugetlb):
    """The guest's memory, in a file that devices can be given."""
    huge = ",hugetlb=on,hugetlbsize=2M" if hugetlb else ""
    return ["-machine", "memory-backend=mem", "-object",
            f"memory-backend-memfd,id=mem,size={MEGABYTES}M,share=on{huge}"]


def qemu(args, *options):
    """QEMU's command line: as plain a guest as the options need."""
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot",
        "-machine", "q35,sata=off,smbus=off", "-m", f"{MEGABYTES}M",
        # With -icount the guest's time is counted in instructions.  Otherwise its
        # timer interrupts, on time for a processor as slow as this one, take most
        # of the processor.
        "-accel", "tcg", "-cpu", "qemu64", "-smp", "1", "-icount", "shift=4",
        "-vga", "none", "-display", "none",
        "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
        "-kernel", str(args.kernel), "-initrd", str(args.initramfs),
        "-append", PARAMETERS, *options]


class Guest:
    """QEMU and what its guest says on the serial console."""

    def __init__(self, command, log, seconds):
        self.start = time.monotonic()
        self.limit = seconds
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        self.log = open(SHARE / log, "wb")
        self.rest = b""         # of a line that has not ended
        self.lines = []         # that nobody has looked at
        self.last = "nothing"
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)

    def seconds(self):
        return time.monotonic() - self.start

    def read(self):
        """Takes what has come; tells if there may be more."""
        if not self.selector.select(timeout=15):
            say(f"... {self.seconds():.0f} s, the guest is at work")
            return True
        data = os.read(self.process.stdout.fileno(), 65536)
        self.log.write(data)
        self.log.flush()
        *lines, self.rest = (self.rest + data).split(b"\n")
        self.lines += [line.decode(errors="replace").strip() for line in lines]
        return bool(data)

    def next_line(self):
        while not self.lines:
            if self.seconds() > self.limit:
                raise Failed(f"the guest is not done in {self.limit} s; its last words: "
                             f"{self.last}")
            if not self.read():
                return None
        self.last = self.lines.pop(0) or self.last
        return self.last

    def wait_for(self, text):
        while (line := self.next_line()) is not None:
            if line.startswith("failed:") or "Kernel panic" in line:
                raise Failed(f"the guest says: {line}")
            if text in line:
                say(f"{text} ({self.seconds():.0f} s)")
                return
        raise Failed(f'the guest ended before "{text}"; its last words: {self.last}')

    def go_on(self):
        self.process.stdin.write(b"go on\n")
        self.process.stdin.flush()

    def wait_for_end(self):
        while self.next_line() is not None:
            pass
        if self.process.wait():
            raise Failed(f"QEMU ended with status {self.process.returncode}")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()
