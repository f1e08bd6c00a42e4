# SPDX-License-Identifier: GPL-2.0
"""What the programs in scripts/ share: where things are, and how steps report."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build"
BASE = BUILD / "base"       # the base as it came
# The base with our files and patches: the tree.  TREE names another one, see bisect.
TREE = os.environ.get("TREE")
LINUX = Path(TREE) if TREE else BUILD / "linux"
MAINLINE = BUILD / "mainline"   # Debian's linux-source-7.3, to measure against
LOGS = BUILD / "logs"
ACCELERATOR = BUILD / "accelerator"     # what scripts/vm has found to work
COUNTERS = BUILD / "coverage"   # of the last "make check": a directory for each machine
OUT = ROOT / "out"
# Machines other than x86-64, as the kernel and Debian call them: what the names of their
# compilers begin with.
CROSS = {"arm64": "aarch64-linux-gnu-", "i386": "i686-linux-gnu-"}

# What our Makefile was called with (W=, V=) would mean something else to the kernel's.
for variable in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "ARCH"):
    os.environ.pop(variable, None)

TTY = sys.stdout.isatty()


class Failure(Exception):
    """Something that the person at the keyboard has to know; no traceback."""


def kernel_directory(kernel):
    """Where scripts/build makes a kernel, by its name."""
    return {"base": BASE, "mainline": MAINLINE}.get(kernel, LINUX) / f"build-{kernel}"


def trixie_root(machine=""):
    """A root of Debian 13, from scripts/trixie."""
    return BUILD / (f"trixie-{machine}" if machine else "trixie")


def architecture(kernel):
    """Of CROSS, or "" for x86-64; what it is, and then a dash, begins a kernel's name."""
    name = kernel.partition("-")[0]
    return name if name in CROSS else ""


def image(kernel, there=True):
    path = kernel_directory(kernel) / ("arch/arm64/boot/Image" if architecture(kernel) == "arm64"
                                       else "arch/x86/boot/bzImage")
    if there and not path.exists():
        raise Failure(f"no {kernel} kernel yet: run scripts/build {kernel}")
    return path


def tests_directory(kernel):
    """Where selftests are compiled: some come with modules, which are a kernel's own."""
    if TREE:
        return LINUX / "build-tests"
    return BUILD / ("tests" if kernel == "debug" else f"tests-{kernel}")


def version(tree):
    text = (tree / "Makefile").read_text()
    return ".".join(re.search(rf"^{word} = (\S+)", text, re.M).group(1)
                    for word in ("VERSION", "PATCHLEVEL", "SUBLEVEL"))


def say(text):
    print(text, flush=True)


def main(function):
    """Runs a program's main function; a Failure becomes a message and status 1."""
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    try:
        sys.exit(function())
    except (Failure, subprocess.CalledProcessError, OSError) as failure:
        print(f"{Path(sys.argv[0]).name}: {failure}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this one was", file=sys.stderr)
        sys.exit(130)


def tail(path, lines=20):
    """The end of a log, after the lines in it that say "error"."""
    with open(path, errors="replace") as log:
        text = log.readlines()
    errors = [line for line in text[:-lines] if "error:" in line]
    return "".join(errors[:8] + text[-lines:])


def run(command, log, what, count=None, expect=0, **options):
    """Runs command with its output in a file, showing how far it has got: on a line that moves
    on a terminal, or a line a minute in a log.

    count tells which lines of the output to count, or what to show of them, and expect how
    many there will be, about.  A failure shows the end of the output and names the file.
    Returns the number of lines counted.
    """
    start = shown = time.monotonic()

    def show(text, width=None, end="\n"):
        seconds = int(time.monotonic() - start)
        line = f"  {what}: {text}, {seconds // 60}:{seconds % 60:02d}"
        print("\r" + line.ljust(78)[:width] if TTY else line, end=end if TTY else "\n",
              flush=True)

    log.parent.mkdir(parents=True, exist_ok=True)
    done = 0
    with open(log, "w") as out, \
         subprocess.Popen([str(word) for word in command], text=True, errors="replace",
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, **options) as process:
        for said in process.stdout:
            out.write(said)
            counted = count and count(said)
            done += bool(counted)
            if counted and time.monotonic() - shown > (0.2 if TTY else 60):
                shown = time.monotonic()
                of = f" of about {expect}" if expect > done else ""
                show(counted if isinstance(counted, str) else f"{done}{of}", 78, "")
    if process.returncode:
        show("FAILED")
        raise Failure(f"{what} failed; the end of its output:\n\n{tail(log)}\nall of it: {log}")
    show(f"done ({done} steps)" if done else "done")
    return done


def qemu11(cpu="x86_64"):
    """The command that runs the QEMU of build/trixie on this machine."""
    root = trixie_root()
    lib, share = root / "usr/lib/x86_64-linux-gnu", root / "usr/share"
    return ["env", f"QEMU_MODULE_DIR={lib}/qemu", root / "lib64/ld-linux-x86-64.so.2",
            "--library-path", lib, root / f"usr/bin/qemu-system-{cpu}",
            "-L", share / "qemu", "-L", share / "seabios"]
