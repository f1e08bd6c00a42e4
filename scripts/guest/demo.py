#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The part of scripts/demo that runs in the virtual machine.

usage: demo.py [--hugetlb] KERNEL INITRAMFS

Starts Debian's QEMU, whose guest shows two pictures on a virtio-gpu.  Writes
to /run/share what QEMU sees of each, and report.json, which tells about the
udmabufs that it sees them through.
"""

import argparse
import json
import os
import re
import selectors
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

SHARE = Path("/run/share")
QMP = "/run/qmp"
DEVICE = Path("/dev/udmabuf")
BUFINFO = Path("/sys/kernel/debug/dma_buf/bufinfo")
BUFFERS = Path("/sys/kernel/debug/udmabuf/buffers")     # our driver has it
HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")

WIDTH, HEIGHT = 1024, 768
FRAMEBUFFER = 4 * WIDTH * HEIGHT
MEGABYTES = 256             # of the guest's memory
SECONDS = 780               # for everything; scripts/demo allows a little more

# What makes the guest's kernel quick to boot: no ACPI, whose interpreter is
# slow work for an emulated processor, no calibrations, no text console.  (So the
# guest cannot power off; it reboots, and -no-reboot makes that the end of QEMU.)
PARAMETERS = ("console=ttyS0 quiet panic=-1 acpi=off no_timer_check tsc=reliable "
              "drm_kms_helper.fbdev_emulation=0")


class Failed(Exception):
    pass


def say(text):
    print(f"  {text}", flush=True)


def udmabufs():
    """Sizes of the udmabufs that the kernel has."""
    return [int(line.split()[0]) for line in BUFINFO.read_text().splitlines()
            if re.match(r"\d+\t.*\tudmabuf\t", line)]


def buffers():
    """What our driver tells about each: a dictionary by the header's names."""
    if not BUFFERS.exists():
        return None
    names, *rows = (line.split("\t") for line in BUFFERS.read_text().splitlines())
    return [dict(zip(names, row)) for row in rows]


def mappings(pid):
    """Where a process maps dma-bufs."""
    found = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "/dmabuf:" in line:
            span, access = line.split()[:2]
            start, end = (int(address, 16) for address in span.split("-"))
            found.append({"address": start, "size": end - start, "access": access})
    return found


def state(pid=None):
    return {"udmabufs": udmabufs(), "buffers": buffers(),
            "mappings": mappings(pid) if pid else []}


def reserve(count):
    """Huge pages for the guest's memory."""
    HUGEPAGES.write_text(str(count))
    got = int(HUGEPAGES.read_text())
    if got < count:
        raise Failed(f"{count} huge pages wanted, the kernel has {got}: "
                     "the machine needs more memory")


def command(args):
    """QEMU's command line: as plain a guest as the display needs."""
    huge = ",hugetlb=on,hugetlbsize=2M" if args.hugetlb else ""
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot",
        "-machine", "q35,memory-backend=mem,sata=off,smbus=off",
        "-object", f"memory-backend-memfd,id=mem,size={MEGABYTES}M,share=on{huge}",
        "-m", f"{MEGABYTES}M",
        # With -icount the guest's time is counted in instructions.  Otherwise its
        # timer interrupts, on time for a processor as slow as this one, take most
        # of the processor.
        "-accel", "tcg", "-cpu", "qemu64", "-smp", "1", "-icount", "shift=4",
        "-vga", "none", "-display", "none",
        "-device", f"virtio-gpu-pci,blob=true,xres={WIDTH},yres={HEIGHT}",
        "-qmp", f"unix:{QMP},server=on,wait=off",
        "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
        "-kernel", str(args.kernel), "-initrd", str(args.initramfs),
        "-append", PARAMETERS]


class Guest:
    """QEMU and what its guest says on the serial console."""

    def __init__(self, args):
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            command(args), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT)
        self.log = open(SHARE / "demo-guest.log", "wb")
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
            if self.seconds() > SECONDS:
                raise Failed(f"the guest is not done in {SECONDS} s; its last words: "
                             f"{self.last}")
            if not self.read():
                return None
        self.last = self.lines.pop(0) or self.last
        return self.last

    def wait_for(self, text):
        while (line := self.next_line()) is not None:
            if "failed:" in line or "Kernel panic" in line:
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

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


def ask(stream, order, **arguments):
    """One command of QEMU's monitor protocol."""
    stream.write(json.dumps({"execute": order, "arguments": arguments}) + "\n")
    stream.flush()
    for line in stream:
        answer = json.loads(line)
        if "error" in answer:
            raise Failed(f"QEMU's {order}: {answer['error']['desc']}")
        if "return" in answer:
            return
    raise Failed(f"QEMU ended at {order}")


def dump(name):
    """What QEMU shows on its screen, in /run/share."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(300)
        monitor.connect(QMP)
        with monitor.makefile("rw") as stream:
            ask(stream, "qmp_capabilities")
            ask(stream, "screendump", filename=f"/run/{name}.ppm")
    shutil.copyfile(f"/run/{name}.ppm", SHARE / f"{name}.ppm")


def check_shown(seen):
    if not seen["udmabufs"]:
        raise Failed("the guest shows a picture, but QEMU created no udmabuf")
    if FRAMEBUFFER not in [mapping["size"] for mapping in seen["mappings"]]:
        raise Failed("QEMU has mapped no udmabuf of the screen's size: "
                     f"{seen['udmabufs']} are there, {seen['mappings']} are mapped")
    if seen["buffers"] is not None \
       and [int(buffer["size"]) for buffer in seen["buffers"]] != seen["udmabufs"]:
        raise Failed(f"the kernel has udmabufs of {seen['udmabufs']} bytes, but "
                     f"{BUFFERS} tells of {seen['buffers']}")


def show(args, report):
    guest = Guest(args)
    try:
        guest.wait_for("first process runs")
        for number in 1, 2:
            guest.wait_for(f"picture {number} shown")
            dump(f"picture{number}")
            report[f"picture{number}"] = seen = state(guest.process.pid)
            check_shown(seen)
            guest.go_on()
        guest.wait_for_end()
    finally:
        guest.close()
    report["seconds"] = round(guest.seconds())


def demo(args, report):
    if not DEVICE.exists():
        raise Failed(f"this kernel has no udmabuf ({DEVICE} is missing)")
    if args.hugetlb:
        reserve(MEGABYTES // 2)
    report["before"] = state()
    say("starting QEMU; its guest, emulated in an emulated machine, boots in about a")
    say("minute, or two where the machine is busy")
    show(args, report)
    report["after"] = state()
    if report["after"]["udmabufs"]:
        raise Failed("QEMU has ended, but udmabufs are left: "
                     f"{report['after']['udmabufs']}")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--hugetlb", action="store_true")
    parser.add_argument("kernel", type=Path)
    parser.add_argument("initramfs", type=Path)
    report = {}
    try:
        demo(parser.parse_args(), report)
    except (Failed, OSError) as failure:
        print(f"demo: {failure}", flush=True)
        report["failed"] = str(failure)
    (SHARE / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    return "failed" in report


sys.exit(main())
