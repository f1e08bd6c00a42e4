# SPDX-License-Identifier: GPL-2.0
"""patches/series: which patches there are, and what each brings along.

A line is the name of a patch, then the files of ours that belong to it.  A line
that begins with white space goes on with the line before it.  MAINTAINERS is a file
of ours too, whose entries go into the kernel's file of this name.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import maintainers
from lab import BASE, ROOT, Failure

PATCHES = ROOT / "patches"
# Where files of ours can be; everything else in the repository is not the kernel's.
OURS = ("Documentation", "drivers", "include", "lib", "mm", "samples", "tools")


class Patch:
    """One patch: its file, the paths that it changes, the files of ours with it."""

    def __init__(self, name, files):
        self.name = name
        self.path = PATCHES / name
        self.files = files
        if not self.path.exists():
            raise Failure(f"patches/series names {name}, which is not there")
        self.text = self.path.read_text()

    @property
    def paths(self):
        return re.findall(r"^\+\+\+ b/(\S+)", self.text, re.M)

    @property
    def message(self):
        """What stands before the first hunk: subject and description."""
        return re.split(r"^(?:diff --git|---) ", self.text, maxsplit=1,
                        flags=re.M)[0]

    @property
    def log(self):
        """Subject and description as git wants them."""
        subject, _, body = self.message.partition("\n\n")
        body = re.split(r"^---$", body, maxsplit=1, flags=re.M)[0]
        return f"{subject.removeprefix('Subject: ').strip()}\n\n{body.strip()}\n"


def read():
    """The patches, in order; every file of ours belongs to exactly one."""
    text = (PATCHES / "series").read_text()
    text = re.sub(r"^#.*\n", "", text, flags=re.M)
    lines = re.sub(r"\n[ \t]+", " ", text).splitlines()
    patches = [Patch(words[0], words[1:]) for words in map(str.split, lines) if words]

    named = [name for patch in patches for name in patch.files]
    have = {str(path.relative_to(ROOT)) for top in OURS
            for path in (ROOT / top).rglob("*") if path.is_file()} | {"MAINTAINERS"}
    for name in named:
        if name not in have:
            raise Failure(f"patches/series names {name}, which is not there")
        if named.count(name) > 1:
            raise Failure(f"patches/series names {name} twice")
    for name in sorted(have - set(named)):
        raise Failure(f"{name} belongs to no patch: name it in patches/series")
    return patches


def enter_maintainers(stage):
    """Our entries, into the kernel's MAINTAINERS under stage."""
    target = stage / "MAINTAINERS"
    kernel = (target if target.exists() else BASE / "MAINTAINERS").read_text()
    target.write_text(maintainers.merge(kernel, (ROOT / "MAINTAINERS").read_text()))


def lay(patch, stage):
    """Adds what a patch and its files do to the files under stage."""
    for name in patch.files:
        if name == "MAINTAINERS":
            enter_maintainers(stage)
            continue
        target = stage / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
        shutil.copymode(ROOT / name, target)
    for name in patch.paths:
        target = stage / name
        if not target.exists() and (BASE / name).exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(BASE / name, target)
            shutil.copymode(BASE / name, target)
    if not patch.paths:
        return
    result = subprocess.run(
        ["patch", "-p1", "--forward", "--no-backup-if-mismatch", "--fuzz=2",
         "--reject-file=-", "--directory", stage, "--input", patch.path],
        text=True, errors="replace", stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        where = "\n".join(line for line in result.stdout.splitlines()
                          if re.match(r"patching|Hunk.*FAILED|can't find", line))
        raise Failure(f"patches/{patch.name} does not apply to this base:\n{where}")


def stage_all(patches, stage):
    """Makes stage hold every file that differs from the base, and nothing else."""
    shutil.rmtree(stage, ignore_errors=True)
    os.makedirs(stage)
    for patch in patches:
        lay(patch, stage)
    return sorted(str(path.relative_to(stage)) for path in Path(stage).rglob("*")
                  if path.is_file())
