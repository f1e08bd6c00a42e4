# SPDX-License-Identifier: GPL-2.0
"""What the programs in scripts/ share: where things are, and how steps report."""

import os
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
LOGS = BUILD / "logs"
OUT = ROOT / "out"

# What our Makefile was called with (W=, V=) would mean something else to the kernel's.
for variable in ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL"):
    os.environ.pop(variable, None)

TTY = sys.stdout.isatty()


class Failure(Exception):
    """Something that the person at the keyboard has to know; no traceback."""


def say(text):
    print(text, flush=True)


def main(function):
    """Runs a program's main function; a Failure becomes a message and status 1."""
    os.environ.setdefault("LC_ALL", "C.UTF-8")
    try:
        sys.exit(function())
    except Failure as failure:
        print(f"{Path(sys.argv[0]).name}: {failure}", file=sys.stderr, flush=True)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on where this one was",
              file=sys.stderr)
        sys.exit(130)


class Progress:
    """One line that moves on a terminal, or a line a minute in a log."""

    def __init__(self, what):
        self.what = what
        self.start = time.monotonic()
        self.last = self.start

    def elapsed(self):
        seconds = int(time.monotonic() - self.start)
        return f"{seconds // 60}:{seconds % 60:02d}"

    def show(self, text):
        now = time.monotonic()
        if now - self.last < (0.2 if TTY else 60):
            return
        self.last = now
        line = f"  {self.what}: {text}, {self.elapsed()}"
        print(f"\r{line:<78.78}" if TTY else line, end="" if TTY else "\n",
              flush=True)

    def done(self, text="done"):
        line = f"  {self.what}: {text}, {self.elapsed()}"
        print(f"\r{line:<78}" if TTY else line, flush=True)


def tail(path, lines=20):
    """The end of a log, after the lines in it that say "error"."""
    with open(path, errors="replace") as log:
        text = log.readlines()
    errors = [line for line in text[:-lines] if "error:" in line]
    return "".join(errors[:8] + text[-lines:])


def run(command, log, what, count=None, expect=0, **options):
    """Runs command with its output in a file, showing how far it has got.

    count tells which lines of the output to count, and expect how many of them
    there will be, about.  A failure shows the end of the output and names the
    file.  Returns the number of lines counted.
    """
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    progress = Progress(what)
    done = 0
    with open(log, "w") as out, \
         subprocess.Popen([str(word) for word in command], text=True,
                          errors="replace", stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          **options) as process:
        for line in process.stdout:
            out.write(line)
            if count and count(line):
                done += 1
                of = f" of about {expect}" if expect > done else ""
                progress.show(f"{done}{of}")
    if process.returncode:
        progress.done("FAILED")
        raise Failure(f"{what} failed; the end of its output:\n\n{tail(log)}\n"
                      f"all of it: {log}")
    progress.done(f"done ({done} steps)" if done else "done")
    return done


def cpio(files):
    """A newc archive; not compressed, which is quicker for the guest."""
    archive = bytearray()
    trailer = ("TRAILER!!!", 0, b"")
    for inode, (name, mode, data) in enumerate([*files, trailer]):
        name = name.encode() + b"\0"
        fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08x" % field for field in fields) + name
        archive += bytes(-len(archive) % 4) + data
        archive += bytes(-len(archive) % 4)
    return bytes(archive)
