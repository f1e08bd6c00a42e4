# SPDX-License-Identifier: GPL-2.0
"""How kernels and tests are configured and made here."""

import functools
import os
import re
import shutil
import subprocess

from lab import (CROSS, LINUX, LOGS, ROOT, architecture, kernel_directory, run, say,
                 tests_directory)

CONFIGS = ROOT / "scripts" / "configs"
TINY = ("kernel/configs/tiny-base.config", "kernel/configs/tiny.config",
        "arch/x86/configs/tiny.config")

# Paths relative to the source, and no time, user or host in the image: so what was
# compiled for one clone, or for the base, serves the others.
ENVIRONMENT = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "zerocopy",
    "KBUILD_BUILD_HOST": "lab",
    "CCACHE_NOHASHDIR": "1",
}


def fragment(name):
    return CONFIGS / f"{name}.config"


def asked(fragments):
    """What the fragments want each option to be; the last one to name it decides."""
    wants = {}
    for path in fragments:
        for line in path.read_text().splitlines():
            if match := re.match(r"(CONFIG_\w+)=(.*)", line):
                wants[match[1]] = match[2]
            elif match := re.match(r"# (CONFIG_\w+) is not set", line):
                wants[match[1]] = None
    return wants


def lost(config, fragments):
    """The options that were asked for and have not survived Kconfig."""
    have = asked([config])
    return [f"{name}={want or 'n'}, is {have.get(name) or 'n'}"
            for name, want in asked(fragments).items() if have.get(name) != want]


def target(kernel):
    """Lets make know, by the environment, which machine a kernel is for."""
    for variable in ("ARCH", "CROSS_COMPILE"):
        os.environ.pop(variable, None)
    if arch := architecture(kernel):
        os.environ.update(ARCH=arch, CROSS_COMPILE=CROSS[arch])


def merge(source, out, fragments, log, what):
    """Makes out/.config of fragments; what they do not name is off."""
    out.mkdir(parents=True, exist_ok=True)
    wants = asked([source / path for path in fragments])
    (out / "fragments.config").write_text("".join(
        f"# {name} is not set\n" if value is None else f"{name}={value}\n"
        for name, value in wants.items()))
    run(["make", "-C", source, f"O={out.name}", "allnoconfig",
         f"KCONFIG_ALLCONFIG={out / 'fragments.config'}"], log, what)


def make(source, out, *goals):
    """The command that makes goals of source in out, a directory inside it."""
    cache = "ccache " if shutil.which("ccache") else ""
    return ["make", "-C", source, f"O={out.name}",
            f"CC={cache}{os.environ.get('CROSS_COMPILE', '')}gcc", f"-j{os.cpu_count()}", *goals]


# Of whose functions "make coverage" tells which have run, on the debug kernel,
OURS = ("udmabuf", "pfn_runs", "dma-buf-mapping", "vfio_pci_dmabuf",
        "vfio_pci_dmabuf_revoke", "vfio_pci_dmabuf_notify", "dmabuf", "hmm_range")
# and what else the fuzzer looks for ways through.
NEIGHBOURS = ("dma-buf", "memfd", "gup", "hmm", "mmu_notifier", "vfio_pci_core",
              "vfio_pci_config", "ioas", "io_pagetable", "pages")


def covered(kernel):
    """What make needs to be told to have the coverage of these objects."""
    if kernel != "debug":
        return []
    return [*(f"GCOV_PROFILE_{name}.o=y" for name in OURS),
            *(f"KCOV_INSTRUMENT_{name}.o=y" for name in OURS + NEIGHBOURS)]


def objects(names, tree):
    """The objects that are made of the kernel's C files among names."""
    sources = [name for name in names if name.endswith(".c") and (tree / name).exists()
               and not name.startswith(("Documentation/", "samples/", "tools/"))]
    # Tests of static functions are included by what they test.
    included = {os.path.normpath(os.path.join(os.path.dirname(name), other))
                for name in sources for other in
                re.findall(r'^#include "(.*\.c)"', (tree / name).read_text(), re.M)}
    return sorted(re.sub(r"\.c$", ".o", name) for name in set(sources) - included)


def gates(name, source):
    """The options that let an object into a kernel: a list for each directory above."""
    path = source / name
    while path.parent != source:
        leaf = path.name if path.suffix else f"{path.name}/"
        path = path.parent
        makefile = next((path / file for file in ("Kbuild", "Makefile")
                         if (path / file).exists()), None)
        if not makefile:
            continue        # a directory whose parent's makefile names its objects
        text = makefile.read_text().replace("\\\n", " ")
        yield re.findall(rf"^[\w-]+-\$\((CONFIG_\w+)\)\s*[:+]?=(?:.*[\s/])?"
                         rf"{re.escape(leaf)}(?:\s|$)", text, re.M)


def configured(name, source, out, more=()):
    """Whether an object is part of the kernel that out/.config describes.

    Asked for by name, kbuild would compile it all the same, with the headers of a
    kernel that has no use for it.  Options of more count as if they were on.
    """
    have = asked([out / ".config"])
    return all(any(have.get(option) or option in more for option in options)
               for options in gates(name, source) if options)


def later_names(target):
    """What the compiler has to be told for a directory of selftests.

    6.12.117's tests of iommufd use names of later kernels, which its headers lack: give
    them values.  What tests these, get_hw_info, does not run (scripts/guest/tests).
    """
    if target != "iommu":
        return ""
    names = {"IOMMU_HW_INFO_TYPE_DEFAULT": 0, "IOMMU_HW_INFO_FLAG_INPUT_TYPE": 0,
             "MOCK_FLAGS_DEVICE_PASID": 0, "MOCK_PASID_WIDTH": 0,
             "in_data_type": "out_data_type"}
    return "-Wno-error -Wno-unused-function " + " ".join(
        f"-D{name}={value}" for name, value in names.items())


@functools.cache
def headers(kernel, tree):
    """The directory of a tree's headers for programs."""
    run(["make", "-C", tree, f"O=build-{kernel}", "headers"], LOGS / "headers.log",
        "installing the tree's headers")
    return tree / f"build-{kernel}/usr/include"


def selftests(kernel, target, *programs, flags="", top="tools/testing/selftests", tree=LINUX):
    """The kernel's own way of building selftests: those that are named, or all."""
    source, out = tree / top / target, tests_directory(kernel) / target
    if not (source / "Makefile").exists():
        return              # a tree of a part of the series
    include = f"-isystem {headers(kernel, tree)}"
    out.mkdir(parents=True, exist_ok=True)
    run(["make", "-C", source, f"OUTPUT={out}", f"KHDR_INCLUDES={include}",
         "CFLAGS=-Wall -O2 -D_GNU_SOURCE= -D_FILE_OFFSET_BITS=64 "
         f"{flags} {later_names(target)} {include}",
         *(out / program for program in programs)], LOGS / "tests-build.log",
        f"building {' '.join(programs) or 'the tests'} in {target}")


def test_module(kernel, source, target):
    """The modules of a directory of selftests, for a kernel; where they are."""
    built, out = kernel_directory(kernel), tests_directory(kernel) / target
    shutil.copytree(LINUX / "tools/testing/selftests" / source, out, dirs_exist_ok=True)
    run(make(built.parent, built, f"M={out}", "modules"), LOGS / "tests-build.log",
        f"building the modules in {source} for {kernel}")
    return out


def compile_objects(command, names, tree, out, log, what, more=()):
    """Compiles those of the objects among names that a kernel has, and says how many."""
    every = objects(names, tree)
    targets = [name for name in every if configured(name, tree, out, more)]
    result = subprocess.run([*map(str, command), "-k", *targets], text=True,
                            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, check=False) if targets else None
    # Those that kbuild does not know how to make; others fail once more, with a message.
    unknown = re.findall(r"No rule to make target '([^']+\.o)'", result.stdout) \
        if result and result.returncode else []
    known = [name for name in targets if name not in unknown]
    if known and result.returncode:
        run([*command, *known], log, what)
    say(f"    {len(known)} objects compile" + (
        f"; this kernel has no {', '.join(sorted({*every} - {*known}))}"
        if len(known) < len(every) else ""))
