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
import re
import shutil
import socket
import sys
from pathlib import Path

from nested import SHARE, Failed, Guest, memfd, qemu, reserve, say

QMP = "/run/qmp"
DEVICE = Path("/dev/udmabuf")
BUFINFO = Path("/sys/kernel/debug/dma_buf/bufinfo")
BUFFERS = Path("/sys/kernel/debug/udmabuf/buffers")     # our driver has it

WIDTH, HEIGHT = 1024, 768
FRAMEBUFFER = 4 * WIDTH * HEIGHT
SECONDS = 780               # for everything; scripts/demo allows a little more


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


def command(args):
    return qemu(args, *memfd(args.hugetlb),
                "-device", f"virtio-gpu-pci,blob=true,xres={WIDTH},yres={HEIGHT}",
                "-qmp", f"unix:{QMP},server=on,wait=off")


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
    with Guest(command(args), "demo-guest.log", SECONDS) as guest:
        guest.wait_for("first process runs")
        for number in 1, 2:
            guest.wait_for(f"picture {number} shown")
            dump(f"picture{number}")
            report[f"picture{number}"] = seen = state(guest.process.pid)
            check_shown(seen)
            guest.go_on()
        guest.wait_for_end()
    report["seconds"] = round(guest.seconds())


def demo(args, report):
    if not DEVICE.exists():
        raise Failed(f"this kernel has no udmabuf ({DEVICE} is missing)")
    if args.hugetlb:
        reserve()
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
