# SPDX-License-Identifier: GPL-2.0
"""Commands in a machine of scripts/vm, and machines that have nothing but an initramfs."""

import shutil
import subprocess

import kbuild
from lab import BUILD, LINUX, LOGS, ROOT, Failure, image, kernel_directory, run


def guest(name, command, *options):
    """Runs a command in a machine of scripts/vm; its status, and its output.

    The output is kept in build/logs/NAME.out, the kernel's log in vm-NAME.log beside it.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    output = LOGS / f"{name}.out"
    output.write_text("")
    vm = [ROOT / "scripts/vm", "--log", LOGS / f"vm-{name}.log", "--output", output,
          *options, "--", command]
    status = subprocess.run([str(word) for word in vm], check=False).returncode
    return status, output.read_text(errors="replace")


def initramfs(name, init, files):
    """An archive with files, a dictionary by name, whose /init is scripts/guest/INIT.c.

    It is the same each time: bench counts the instructions of a machine that unpacks it.
    """
    place = BUILD / name
    place.mkdir(parents=True, exist_ok=True)
    run(["gcc", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE=", "-static", "-s",
         "-isystem", kbuild.headers("plain", LINUX), "-I", LINUX / "tools/testing/selftests",
         "-o", place / "init", ROOT / f"scripts/guest/{init}.c"],
        LOGS / f"{init}-build.log", f"compiling {init}")
    (place / "list").write_text("".join(
        f"file /{path} {file} 755 0 0\n"
        for path, file in {"init": place / "init", **files}.items()))
    with open(place / "initramfs", "wb") as archive:
        subprocess.run([kernel_directory("plain") / "usr/gen_init_cpio", "-t", "0",
                        place / "list"], stdout=archive, check=True)
    return place / "initramfs"


def client(what, init, files, *options):
    """Runs scripts/guest/client.py in a machine: QEMU in it, and its guest in that.

    The guest has nothing but files and init, as initramfs() has them.  Returns the
    directory that the machine shared.
    """
    kernel, archive = image("plain"), initramfs(what, init, files)
    share = BUILD / what / "share"
    shutil.rmtree(share, ignore_errors=True)
    status, _ = guest(what, f"python3 scripts/guest/client.py {what} {kernel} {archive}",
                      "--share", share, "--timeout", 2400, *options)
    if status:
        raise Failure(
            f"failed in the virtual machine (status {status}): see above, then\n"
            f"  {LOGS}/vm-{what}.log  the kernel's log\n"
            f"  {LOGS}/{what}.out  what was printed in the machine\n"
            f"  {share}/guest.log  QEMU's and its guest's words, if it got that far")
    return share
