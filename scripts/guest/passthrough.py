#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""The part of scripts/passthrough that runs in the virtual machine.

usage: passthrough.py [--peer] KERNEL INITRAMFS

QEMU gives the edu device behind port 16 to a guest; with --peer by iommufd, and the
ivshmem behind port 11 as well.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from nested import MEGABYTES, SHARE, Failed, Guest, memfd, qemu, reserve, say

PCI = Path("/sys/bus/pci")
EDU, IVSHMEM = 0x16, 0x11   # slots of their ports
RAM = 64 << 20              # behind ivshmem's BAR 2
SECONDS = 900
TRACE = SHARE / "trace"


def bind(slot):
    """Gives the device behind a port to vfio-pci; returns its address."""
    [device] = (PCI / f"devices/0000:00:{slot:02x}.0").glob("0000:??:??.?")
    (device / "driver_override").write_text("vfio-pci")
    (PCI / "drivers_probe").write_text(device.name)
    return device.name


def assigned(name, more=""):
    """A device of ours as one of the guest's, on a bus of its own: so it can be reset."""
    port = "port" + re.sub(r"\W", "", name)
    return ["-device", f"pcie-root-port,id={port},chassis={int(name[5:7], 16)},hotplug=off",
            "-device", f"vfio-pci,host={name},bus={port}{more}"]


def alone(args, edu):
    with Guest(qemu(args, *assigned(edu)), "guest.log", SECONDS) as guest:
        guest.wait_for("used it after its reset")
        guest.wait_for("passed")
        guest.wait_for_end()


def check_trace():
    """QEMU has given the kernel all of the guest's memory, and the BAR, by file."""
    text = TRACE.read_text()
    exported = re.findall(r"^vfio_region_dmabuf .*", text, re.M)
    mapped = re.findall(r"^iommufd_backend_map_file_dma .*? size=(\w+) .*\((-?\d+)\)",
                        text, re.M)
    failed = [error for _, error in mapped if error != "0"]
    sizes = [int(size, 0) for size, error in mapped if error == "0"]
    say(f"QEMU has exported {len(exported)} regions, and mapped {len(sizes)} files, "
        f"{sum(sizes) >> 20} MiB")
    if not exported:
        raise Failed("QEMU has exported no region as a dma-buf")
    if failed:
        raise Failed(f"{len(failed)} calls of IOMMU_IOAS_MAP_FILE have failed")
    if MEGABYTES << 20 not in sizes:
        raise Failed("QEMU has not mapped the guest's memory by its file")
    if sizes.count(RAM) < 3:
        raise Failed(f"QEMU has mapped ivshmem's memory {sizes.count(RAM)} times")


def decode(device, on):
    """Memory decoding, behind VFIO's back."""
    with open(PCI / "devices" / device / "config", "r+b", buffering=0) as config:
        config.seek(4)
        command = config.read(1)[0]
        config.seek(4)
        config.write(bytes([command | 2 if on else command & ~2]))


def peer(args, edu, ivshmem):
    TRACE.unlink(missing_ok=True)
    command = qemu(
        args, *memfd(args.hugetlb), "-object", "iommufd,id=i0",
        *assigned(edu, ",iommufd=i0"), *assigned(ivshmem, ",iommufd=i0"),
        "-trace", "vfio_region_dmabuf", "-trace", "iommufd_backend_map_file*",
        "-D", TRACE)
    with Guest(command, "guest.log", SECONDS) as guest:
        guest.wait_for("used the other device's memory")
        for _ in range(3):
            guest.wait_for("waiting for decoding that we do not know of")
            decode(ivshmem, True)
            guest.go_on()
            guest.wait_for("waiting for its end")
            decode(ivshmem, False)
            guest.go_on()
        guest.wait_for("used it after its decoding was off")
        guest.wait_for("used it after resets of both")
        # QEMU knows nothing of these: what it has mapped has to come back by itself.
        for _ in range(2):
            guest.wait_for("waiting for a reset from outside")
            (PCI / "devices" / ivshmem / "reset").write_text("1")
            guest.go_on()
        guest.wait_for("passed")
        guest.wait_for_end()
    check_trace()


def passthrough(args):
    for module in "vfio_iommu_type1", "iommufd", "vfio-pci":
        subprocess.run(["modprobe", "-d", "/run/kernel", module], check=True)
    if not args.peer:
        alone(args, bind(EDU))
        return
    edu, ivshmem = bind(EDU), bind(IVSHMEM)
    for args.hugetlb in False, True:
        say(f"the guest's memory is of {'huge' if args.hugetlb else 'small'} pages")
        if args.hugetlb:
            reserve()
        peer(args, edu, ivshmem)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("kernel", type=Path)
    parser.add_argument("initramfs", type=Path)
    try:
        passthrough(parser.parse_args())
    except (Failed, OSError, subprocess.SubprocessError) as failure:
        print(f"passthrough: {failure}", flush=True)
        return 1
    return 0


sys.exit(main())
