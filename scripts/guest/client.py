#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""What scripts/demo runs in the virtual machine: QEMU, and its guest.

usage: client.py WHAT KERNEL INITRAMFS

demo and demo-hugetlb: a guest shows two pictures on a virtio-gpu.  Writes to /run/share what
QEMU sees of each, and checks the udmabufs that it sees them through.

passthrough: QEMU gives the edu device behind port 16 to a guest.  peer: by iommufd, and the
ivshmem behind port 11 as well, with the guest's memory in small and in huge pages.
"""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

SHARE = Path("/run/share")
PCI = Path("/sys/bus/pci")
SECONDS = 900               # for a guest to end in
MEGABYTES = 256             # of the guest's memory

# What makes the guest's kernel quick to boot: no ACPI, whose interpreter is slow work for an
# emulated processor, no calibrations, no text console.  (So the guest cannot power off; it
# reboots, and -no-reboot makes that the end of QEMU.)
PARAMETERS = ("console=ttyS0 quiet panic=-1 acpi=off no_timer_check tsc=reliable "
              "drm_kms_helper.fbdev_emulation=0")


class Failed(Exception):
    pass


def expect(truth, otherwise):
    if not truth:
        raise Failed(otherwise)


def say(text):
    print(f"  {text}", flush=True)


def memfd(hugetlb):
    """The guest's memory, in a file that devices can be given."""
    if hugetlb:
        Path("/proc/sys/vm/nr_hugepages").write_text(str(MEGABYTES // 2))
    huge = ",hugetlb=on,hugetlbsize=2M" if hugetlb else ""
    return ["-machine", "memory-backend=mem", "-object",
            f"memory-backend-memfd,id=mem,size={MEGABYTES}M,share=on{huge}"]


def run(options, *steps):
    """As plain a guest as QEMU's options need.

    For each step its guest has to say a text, on the serial console; if something is to be
    done then, by a function of QEMU's process, the guest waits for a line before it goes on.
    """
    command = [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot",
        "-machine", "q35,sata=off,smbus=off", "-m", f"{MEGABYTES}M",
        # With -icount the guest's time is counted in instructions.  Otherwise its timer
        # interrupts, on time for a processor as slow as this one, take most of the processor.
        "-accel", "tcg", "-cpu", "qemu64", "-smp", "1", "-icount", "shift=4",
        "-vga", "none", "-display", "none",
        "-chardev", "stdio,id=serial,signal=off", "-serial", "chardev:serial",
        "-kernel", sys.argv[2], "-initrd", sys.argv[3], "-append", PARAMETERS, *options]
    start, said = time.monotonic(), []
    with open(SHARE / "guest.log", "a") as log, subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", bufsize=1) as process:
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()

        def hear():
            for line in process.stdout:
                log.write(line)
                said.append(line.strip())
                yield line

        try:
            for text, do in steps:
                expect(any(text in line for line in hear()),
                       "\n  ".join([f'the guest ended before "{text}":', *said[-40:]]))
                say(f"{text} ({time.monotonic() - start:.0f} s)")
                if do:
                    do(process)
                    process.stdin.write("go on\n")
            list(hear())
            expect(process.wait() == 0, f"QEMU ended with status {process.poll()}")
        finally:
            expect(timer.is_alive(), f"the guest was not done in {SECONDS} s, and stopped")
            timer.cancel()
            process.kill()


# A screen that QEMU sees through a udmabuf.

QMP = "/run/qmp"
WIDTH, HEIGHT = 1024, 768


def buffers():
    """What the driver tells about each udmabuf: a dictionary by the header's names."""
    text = Path("/sys/kernel/debug/udmabuf/buffers").read_text()
    names, *rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(names, row)) for row in rows]


def dump(path):
    """What QEMU shows on its screen, by its monitor protocol."""
    with socket.socket(socket.AF_UNIX) as monitor:
        monitor.settimeout(300)
        monitor.connect(QMP)
        stream = monitor.makefile("rw")
        for order, arguments in (("qmp_capabilities", {}),
                                 ("screendump", {"filename": str(path)})):
            print(json.dumps({"execute": order, "arguments": arguments}), file=stream, flush=True)
            answer = next((line for line in stream if re.match(r'{"(error|return)"', line)),
                          "it has ended")
            expect("return" in answer, f"QEMU's {order}: {answer}")


def look(process, number):
    dump(SHARE / f"picture{number}.ppm")
    found = buffers()
    for buffer in found:
        say("{size} bytes in {runs} runs of pages, created by {comm} ({pid})".format(**buffer))
    spans = re.findall(r"^(\w+)-(\w+) .*/dmabuf:",
                       Path(f"/proc/{process.pid}/maps").read_text(), re.M)
    mapped = [int(end, 16) - int(start, 16) for start, end in spans]
    say(f"QEMU has mapped {mapped} bytes")
    expect(str(4 * WIDTH * HEIGHT) in [buffer["size"] for buffer in found],
           "the guest shows a picture, but QEMU created no udmabuf of its size")
    expect(4 * WIDTH * HEIGHT in mapped, "QEMU has mapped no udmabuf of the screen's size")


def screen(hugetlb):
    say("starting QEMU; its guest, emulated in an emulated machine, boots in about a")
    say("minute, or two where the machine is busy")
    run([*memfd(hugetlb), "-device", f"virtio-gpu-pci,blob=true,xres={WIDTH},yres={HEIGHT}",
         "-qmp", f"unix:{QMP},server=on,wait=off"],
        ("first process runs", None), ("picture 1 shown", lambda process: look(process, 1)),
        ("picture 2 shown", lambda process: look(process, 2)))
    left = buffers()
    expect(not left, f"QEMU has ended, but udmabufs are left: {left}")


# Devices that QEMU has by VFIO.

EDU, IVSHMEM = 0x16, 0x11   # slots of their ports
RAM = 64 << 20              # behind ivshmem's BAR 2
TRACE = SHARE / "trace"


def assign(slot, more=""):
    """The device behind a port, for the guest: its directory, and options for QEMU.

    There, too, it is behind a port, as a device can be reset that is alone on its bus.
    """
    [device] = (PCI / f"devices/0000:00:{slot:02x}.0").glob("0000:??:??.?")
    (device / "driver_override").write_text("vfio-pci")
    (PCI / "drivers_probe").write_text(device.name)
    port = f"port{slot:x}"
    return device, [
        "-device", f"pcie-root-port,id={port},chassis={slot},addr={slot:#x},hotplug=off",
        "-device", f"vfio-pci,host={device.name},bus={port}{more}"]


def check_trace():
    """QEMU has given the kernel all of the guest's memory, and the BAR, by file."""
    text = TRACE.read_text()
    exported = re.findall(r"^vfio_region_dmabuf .*", text, re.M)
    mapped = re.findall(r"^iommufd_backend_map_file_dma .*? size=(\w+) .*\((-?\d+)\)",
                        text, re.M)
    sizes = [int(size, 0) for size, _ in mapped]
    say(f"QEMU has exported {len(exported)} regions, and mapped {len(sizes)} files, "
        f"{sum(sizes) >> 20} MiB")
    expect(exported, "QEMU has exported no region as a dma-buf")
    expect({error for _, error in mapped} == {"0"}, "calls of IOMMU_IOAS_MAP_FILE have failed")
    expect(MEGABYTES << 20 in sizes, "QEMU has not mapped the guest's memory by its file")
    expect(sizes.count(RAM) >= 3, f"QEMU has mapped ivshmem's memory {sizes.count(RAM)} times")


def decode(device, on):
    """Memory decoding, behind VFIO's back."""
    with open(device / "config", "r+b", buffering=0) as config:
        [command] = os.pread(config.fileno(), 1, 4)
        os.pwrite(config.fileno(), bytes([command | 2 if on else command & ~2]), 4)


def peer(hugetlb):
    say(f"the guest's memory is of {'huge' if hugetlb else 'small'} pages")
    TRACE.unlink(missing_ok=True)
    ivshmem, options = assign(IVSHMEM, ",iommufd=i0")
    switched = (("waiting for decoding that we do not know of", lambda _: decode(ivshmem, True)),
                ("waiting for its end", lambda _: decode(ivshmem, False)))
    # QEMU knows nothing of these: what it has mapped has to come back by itself.
    reset = ("waiting for a reset from outside", lambda _: (ivshmem / "reset").write_text("1"))
    run([*memfd(hugetlb), "-object", "iommufd,id=i0", *assign(EDU, ",iommufd=i0")[1], *options,
         "-trace", "vfio_region_dmabuf", "-trace", "iommufd_backend_map_file*", "-D", TRACE],
        ("used the other device's memory", None), *switched, *switched, *switched,
        ("used it after its decoding was off", None), ("used it after resets of both", None),
        reset, reset, ("passed", None))
    check_trace()


def passthrough(what):
    subprocess.run(["modprobe", "-a", "vfio_iommu_type1", "iommufd", "vfio-pci"], check=True)
    if what == "passthrough":
        run(assign(EDU)[1], ("used it after its reset", None), ("passed", None))
    else:
        peer(False)
        peer(True)


try:
    if sys.argv[1].startswith("demo"):
        screen(sys.argv[1] == "demo-hugetlb")
    else:
        passthrough(sys.argv[1])
except (Failed, OSError, subprocess.SubprocessError) as failure:
    sys.exit(f"{sys.argv[1]}: {failure}")
