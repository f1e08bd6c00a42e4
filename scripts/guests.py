# SPDX-License-Identifier: GPL-2.0
"""Commands in a machine of scripts/vm, and machines that have nothing but an initramfs."""

import shutil
import subprocess

import kbuild
from lab import BUILD, LINUX, LOGS, ROOT, Failure, image, run


def guest(name, command, *options):
    """Runs a command in a machine of scripts/vm; its status, and its output.

    The output is kept in build/logs/NAME.out, the kernel's log in vm-NAME.log beside it.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    output = LOGS / f"{name}.out"
    output.unlink(missing_ok=True)
    status = subprocess.run(
        [str(word) for word in (ROOT / "scripts/vm", "--log", LOGS / f"vm-{name}.log",
                                "--output", output, *options, "--", command)],
        check=False).returncode
    return status, output.read_text(errors="replace") if output.exists() else ""


def initramfs(name, init, files=()):
    """An archive with files, a dictionary by name, whose /init is scripts/guest/INIT.c.

    It is the same each time: bench counts the instructions of a machine that unpacks it.
    """
    place = BUILD / name
    root = place / "root"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir(parents=True)
    run(["gcc", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE=", "-static", "-s",
         "-isystem", kbuild.headers("plain", LINUX), "-o", root / "init",
         ROOT / f"scripts/guest/{init}.c"],
        LOGS / f"{init}-build.log", f"compiling {init}")
    for path, data in dict(files).items():
        (root / path).write_bytes(data)
        (root / path).chmod(0o755)
    subprocess.run(
        "find . -exec touch -h -d @0 {} + && find . | LC_ALL=C sort | "
        "cpio --create --format=newc --owner=0:0 --reproducible --quiet >../initramfs",
        shell=True, cwd=root, check=True)
    return place / "initramfs"


def client(name, init, files, *arguments, options=()):
    """Runs scripts/guest/client.py in a machine: QEMU in it, and its guest in that.

    The guest has nothing but files and init, as initramfs() has them.  Returns the
    directory that the machine shared.
    """
    archive = initramfs(name, init, files)
    share = BUILD / name / "share"
    shutil.rmtree(share, ignore_errors=True)
    status, _ = guest(name, " ".join(
        ["python3", f"{ROOT}/scripts/guest/client.py", *arguments, str(image("plain")),
         str(archive)]), "--kernel", "plain", "--share", share, "--timeout", 2400, *options)
    if status:
        raise Failure(
            f"failed in the virtual machine (status {status}): see above, then\n"
            f"  {LOGS}/vm-{name}.log  the kernel's log\n"
            f"  {LOGS}/{name}.out  what was printed in the machine\n"
            f"  {share}/guest.log  QEMU's and its guest's words, if it got that far")
    return share
