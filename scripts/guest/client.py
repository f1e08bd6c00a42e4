#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What scripts/demo and scripts/check run in the virtual machine: QEMU, and its guest.

usage: client.py WHAT KERNEL INITRAMFS

screen and screen-hugetlb: a guest shows two pictures on a virtio-gpu.  Writes to
/run/share what QEMU sees of each, and checks the udmabufs that it sees them through.

passthrough: QEMU gives the edu device behind port 16 to a guest.  peer: by iommufd, and
the ivshmem behind port 11 as well, with the guest's memory in small and in huge pages.
"""

import json
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

SHARE = Path("/run/share")
HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
PCI = Path("/sys/bus/pci")
KERNEL, INITRAMFS = sys.argv[2:]

SECONDS = 900               # for a guest to end in
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


def memfd(hugetlb):
    """The guest's memory, in a file that devices can be given."""
    if hugetlb:
        HUGEPAGES.write_text(str(MEGABYTES // 2))
    huge = ",hugetlb=on,hugetlbsize=2M" if hugetlb else ""
    return ["-machine", "memory-backend=mem", "-object",
            f"memory-backend-memfd,id=mem,size={MEGABYTES}M,share=on{huge}"]


def qemu(*options):
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
        "-kernel", KERNEL, "-initrd", INITRAMFS,
        "-append", PARAMETERS, *options]


class Guest:
    """QEMU and what its guest says on the serial console."""

    def __init__(self, command):
        self.start = time.monotonic()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", bufsize=1)
        self.timer = threading.Timer(SECONDS, self.process.kill)
        self.timer.start()
        self.said = []

    def lines(self):
        with open(SHARE / "guest.log", "a") as log:
            for line in self.process.stdout:
                log.write(line)
                self.said.append(line.strip())
                yield self.said[-1]

    def wait_for(self, text):
        for line in self.lines():
            if text in line:
                say(f"{text} ({time.monotonic() - self.start:.0f} s)")
                return
        raise Failed(f'the guest ended before "{text}"; its last words:\n  '
                     + "\n  ".join(self.said[-40:]))

    def go_on(self):
        self.process.stdin.write("go on\n")

    def wait_for_end(self):
        for _ in self.lines():
            pass
        if self.process.wait():
            raise Failed(f"QEMU ended with status {self.process.returncode}")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        late = not self.timer.is_alive()
        self.timer.cancel()
        self.process.kill()
        self.process.wait()
        if late:
            raise Failed(f"the guest was not done in {SECONDS} s, and stopped")


# A screen that QEMU sees through a udmabuf.

QMP = "/run/qmp"
BUFFERS = Path("/sys/kernel/debug/udmabuf/buffers")
WIDTH, HEIGHT = 1024, 768


def buffers():
    """What the driver tells about each udmabuf: a dictionary by the header's names."""
    names, *rows = (line.split("\t") for line in BUFFERS.read_text().splitlines())
    return [dict(zip(names, row)) for row in rows]


def mappings(pid):
    """Sizes of a process's mappings of dma-bufs."""
    spans = re.findall(r"^(\w+)-(\w+) .*/dmabuf:", Path(f"/proc/{pid}/maps").read_text(), re.M)
    return [int(end, 16) - int(start, 16) for start, end in spans]


def dump(name):
    """What QEMU shows on its screen, in /run/share, by its monitor protocol."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(300)
        monitor.connect(QMP)
        with monitor.makefile("rw") as stream:
            for order, arguments in (("qmp_capabilities", {}), (
                    "screendump", {"filename": str(SHARE / f"{name}.ppm")})):
                stream.write(json.dumps({"execute": order, "arguments": arguments}) + "\n")
                stream.flush()
                answer = next((line for line in stream if re.match(r'{"(error|return)"', line)),
                              "it has ended")
                if "return" not in answer:
                    raise Failed(f"QEMU's {order}: {answer}")


def check_shown(pid):
    found, mapped = buffers(), mappings(pid)
    for buffer in found:
        say("{size} bytes in {runs} runs of pages, created by {comm} ({pid})".format(**buffer))
    say(f"QEMU has mapped {mapped} bytes")
    if str(4 * WIDTH * HEIGHT) not in [buffer["size"] for buffer in found]:
        raise Failed("the guest shows a picture, but QEMU created no udmabuf of its size")
    if 4 * WIDTH * HEIGHT not in mapped:
        raise Failed("QEMU has mapped no udmabuf of the screen's size")


def screen(hugetlb):
    say("starting QEMU; its guest, emulated in an emulated machine, boots in about a")
    say("minute, or two where the machine is busy")
    with Guest(qemu(*memfd(hugetlb),
                    "-device", f"virtio-gpu-pci,blob=true,xres={WIDTH},yres={HEIGHT}",
                    "-qmp", f"unix:{QMP},server=on,wait=off")) as guest:
        guest.wait_for("first process runs")
        for number in 1, 2:
            guest.wait_for(f"picture {number} shown")
            dump(f"picture{number}")
            check_shown(guest.process.pid)
            guest.go_on()
        guest.wait_for_end()
    if left := buffers():
        raise Failed(f"QEMU has ended, but udmabufs are left: {left}")


# Devices that QEMU has by VFIO.

EDU, IVSHMEM = 0x16, 0x11   # slots of their ports
RAM = 64 << 20              # behind ivshmem's BAR 2
TRACE = SHARE / "trace"


def assign(slot, more=""):
    """The device behind a port, for the guest: its address, and options for QEMU.

    There, too, it is behind a port, as a device can be reset that is alone on its bus.
    """
    [device] = (PCI / f"devices/0000:00:{slot:02x}.0").glob("0000:??:??.?")
    (device / "driver_override").write_text("vfio-pci")
    (PCI / "drivers_probe").write_text(device.name)
    port = f"port{slot:x}"
    return device.name, [
        "-device", f"pcie-root-port,id={port},chassis={slot},addr={slot:#x},hotplug=off",
        "-device", f"vfio-pci,host={device.name},bus={port}{more}"]


def load():
    for module in "vfio_iommu_type1", "iommufd", "vfio-pci":
        subprocess.run(["modprobe", "-d", "/run/kernel", module], check=True)


def passthrough():
    load()
    with Guest(qemu(*assign(EDU)[1])) as guest:
        guest.wait_for("used it after its reset")
        guest.wait_for("passed")
        guest.wait_for_end()


def check_trace():
    """QEMU has given the kernel all of the guest's memory, and the BAR, by file."""
    text = TRACE.read_text()
    exported = re.findall(r"^vfio_region_dmabuf .*", text, re.M)
    mapped = re.findall(r"^iommufd_backend_map_file_dma .*? size=(\w+) .*\((-?\d+)\)",
                        text, re.M)
    sizes = [int(size, 0) for size, _ in mapped]
    say(f"QEMU has exported {len(exported)} regions, and mapped {len(sizes)} files, "
        f"{sum(sizes) >> 20} MiB")
    if not exported:
        raise Failed("QEMU has exported no region as a dma-buf")
    if {error for _, error in mapped} != {"0"}:
        raise Failed("calls of IOMMU_IOAS_MAP_FILE have failed")
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


def peer(hugetlb):
    say(f"the guest's memory is of {'huge' if hugetlb else 'small'} pages")
    TRACE.unlink(missing_ok=True)
    ivshmem, options = assign(IVSHMEM, ",iommufd=i0")
    command = qemu(
        *memfd(hugetlb), "-object", "iommufd,id=i0", *assign(EDU, ",iommufd=i0")[1], *options,
        "-trace", "vfio_region_dmabuf", "-trace", "iommufd_backend_map_file*", "-D", TRACE)
    with Guest(command) as guest:
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


def peers():
    load()
    peer(False)
    peer(True)


CLIENTS = {"screen": lambda: screen(False), "screen-hugetlb": lambda: screen(True),
           "passthrough": passthrough, "peer": peers}

try:
    CLIENTS[sys.argv[1]]()
except (Failed, OSError, subprocess.SubprocessError) as failure:
    sys.exit(f"{sys.argv[1]}: {failure}")
