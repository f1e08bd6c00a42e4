# SPDX-License-Identifier: GPL-2.0
"""How kernels and tests are configured and made here."""

import functools
import lzma
import os
import re
import shutil
from pathlib import Path

from lab import (CROSS, LINUX, LOGS, ROOT, Failure, architecture, kernel_directory, run, say,
                 tests_directory)

CONFIGS = ROOT / "configs"
# Paths relative to the source, and no time, user or host in the image: so what was
# compiled for one clone, or for the base, serves the others.
os.environ.update(KBUILD_BUILD_TIMESTAMP="Thu Jan  1 00:00:00 UTC 1970",
                  KBUILD_BUILD_USER="zerocopy", KBUILD_BUILD_HOST="lab", CCACHE_NOHASHDIR="1")

TINY = [LINUX / name for name in ("kernel/configs/tiny-base.config", "kernel/configs/tiny.config",
                                  "arch/x86/configs/tiny.config")]


def fragments(*names):
    return [CONFIGS / f"{name}.config" for name in names]


def asked(paths):
    """What fragments want each option to be; the last one to name it decides."""
    text = "\n".join(lzma.open(path, "rt").read() if path.suffix == ".xz" else path.read_text()
                     for path in paths)
    wants = {}
    for option, value, off in re.findall(
            r"^(?:(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set)", text, re.M):
        wants.pop(option or off, None)      # of options that exclude each other the last counts
        wants[option or off] = value or "n"
    return wants


def lost(out, wants):
    """The options that have not survived Kconfig."""
    have = asked([out / ".config"])
    return [f"{name}={want}, is {have.get(name, 'n')}"
            for name, want in wants.items() if have.get(name, "n") != want]


def configure(source, out, wants, goal="allnoconfig", firm=None):
    """Makes out/.config of options; goal says what the others are.  Those in firm must survive.

    Nothing is done twice: series.checkout() removes wants.config where a Kconfig has changed.
    """
    done, new, name = out / "wants.config", out / "wants.new", out.name.removeprefix("build-")
    text = "".join(f"{option}={value}\n" for option, value in wants.items())
    if not (out / ".config").exists() or not done.exists() or done.read_text() != text:
        out.mkdir(exist_ok=True)
        new.write_text(text)
        run(make(source, out, goal, f"KCONFIG_ALLCONFIG={new}"), LOGS / f"config-{name}.log",
            f"configuring {name}")
        new.replace(done)
    if missing := lost(out, firm or {}):
        raise Failure(f"options of {name} that Kconfig did not take:\n  " + "\n  ".join(missing))


def target(kernel):
    """Lets make know, by the environment, which machine a kernel is for."""
    for variable in ("ARCH", "CROSS_COMPILE"):
        os.environ.pop(variable, None)
    if arch := architecture(kernel):
        os.environ.update(ARCH=arch, CROSS_COMPILE=CROSS[arch])


def make(source, out, *goals):
    """The command that makes goals of source in out, a directory inside it."""
    return ["make", "-C", source, f"O={out.name}", f"-j{os.cpu_count()}",
            f"CC=ccache {os.environ.get('CROSS_COMPILE', '')}gcc", *goals]


def objects(names, tree):
    """The objects that are made of the kernel's C files among names."""
    sources = [name for name in names if name.endswith(".c") and (tree / name).exists()
               and not name.startswith(("Documentation/", "samples/", "tools/"))]
    # Tests of static functions are included by what they test.
    included = tuple(other for name in sources for other in re.findall(
        r'^#include "(.*\.c)"', (tree / name).read_text(), re.M))
    return sorted(f"{name[:-2]}.o" for name in sources if not name.endswith(included))


def gates(name, source):
    """The options that let an object into a kernel: a list for each directory above."""
    leaf = Path(name).name
    for directory in map(source.joinpath, Path(name).parents[:-1]):
        # One without a makefile has its objects named by its parent's.
        files = [path for path in (directory / "Kbuild", directory / "Makefile") if path.exists()]
        text = files[0].read_text().replace("\\\n", " ") if files else ""
        yield re.findall(rf"^[\w-]+-\$\((CONFIG_\w+)\)\s*[:+]?=(?:.*[\s/])?"
                         rf"{re.escape(leaf)}(?:\s|$)", text, re.M)
        leaf = f"{directory.name}/"


def configured(name, source, out, more=()):
    """Whether an object is part of the kernel that out/.config describes, and options of more.

    Asked for by name, kbuild would compile it all the same, with headers that are not for it.
    """
    have = asked([out / ".config"])
    return all(any(have.get(option, "n") != "n" or option in more for option in options)
               for options in gates(name, source) if options)


# 6.12.117's tests of iommufd use names of later kernels, which its headers lack: give them
# values.  What tests these, get_hw_info, does not run (scripts/guest/tests).
LATER_NAMES = ("-Wno-error -Wno-unused-function -DIOMMU_HW_INFO_TYPE_DEFAULT=0 "
               "-DIOMMU_HW_INFO_FLAG_INPUT_TYPE=0 -DMOCK_FLAGS_DEVICE_PASID=0 "
               "-DMOCK_PASID_WIDTH=0 -Din_data_type=out_data_type")


@functools.cache
def headers(kernel, tree):
    """The directory of a tree's headers for programs."""
    out = tree / f"build-{kernel}"
    run(make(tree, out, "headers"), LOGS / "headers.log", "installing the tree's headers")
    return out / "usr/include"


def selftests(kernel, target, *programs, flags="", top="tools/testing/selftests", tree=LINUX):
    """The kernel's own way of building selftests: those that are named, or all."""
    source, out = tree / top / target, tests_directory(kernel) / target
    if not (source / "Makefile").exists():
        return              # a tree of a part of the series
    include = f"-isystem {headers(kernel, tree)}"
    later = LATER_NAMES if target == "iommu" else ""
    out.mkdir(parents=True, exist_ok=True)
    run(["make", "-C", source, f"OUTPUT={out}", f"KHDR_INCLUDES={include}",
         f"CFLAGS=-Wall -O2 -D_GNU_SOURCE= -D_FILE_OFFSET_BITS=64 {flags} {later} {include}",
         *(out / program for program in programs)], LOGS / "tests-build.log",
        f"building {' '.join(programs) or 'the tests'} in {target}")


def test_module(kernel, source, target):
    """The modules of a directory of selftests, for a kernel; where they are."""
    built, out = kernel_directory(kernel), tests_directory(kernel) / target
    shutil.copytree(LINUX / "tools/testing/selftests" / source, out, dirs_exist_ok=True)
    run(make(built.parent, built, f"M={out}", "modules"), LOGS / "tests-build.log",
        f"building the modules in {source} for {kernel}")
    return out


def compile_objects(tree, out, names, more=()):
    """Compiles those of the objects among names that a kernel has, and says how many."""
    every = objects(names, tree)
    known = [name for name in every if configured(name, tree, out, more)]
    if known:
        what = f"{tree.name}-{out.name.removeprefix('build-')}"
        run(make(tree, out, *known), LOGS / f"{what}.log", f"compiling {what}")
    say(f"    {len(known)} objects compile" + (
        f"; this kernel has no {', '.join(sorted({*every} - {*known}))}" if every != known else ""))
