# SPDX-License-Identifier: GPL-2.0
"""The series in patches/: which patches they have, and what each brings along.

patches/series has a line for each series, in the order in which the tree is composed:
the name of its directory, and the name of the series that it is on top of.  The file
`series` in a directory has a line for each patch: its name, the files of ours that come
with it, and, after the word "needs", the numbers of the patches that it does not apply
or makes no sense without.  Lines that begin with white space continue the one before.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from lab import BASE, ROOT, Failure

PATCHES = ROOT / "patches"
# Where files of ours can be; everything else in the repository is not the kernel's.
OURS = ("Documentation", "drivers", "include", "lib", "mm", "samples", "tools")


class Patch:
    """One patch: its file, the paths that it changes, the files of ours with it."""

    def __init__(self, name, words):
        self.name = name
        self.path = PATCHES / name
        self.files = [word for word in words if word != "needs" and not word.isdigit()]
        self.needs = [word for word in words if word.isdigit()]
        if not self.path.exists():
            raise Failure(f"patches/{os.path.dirname(name)}/series names "
                          f"{self.path.name}, which is not there")
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

    @property
    def remarks(self):
        """What follows the description, for reviewers and not for git's log."""
        return self.message.partition("\n---\n")[2].strip()


def lines(path):
    """The words of each line of a file `series`."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M)
    return [line.split() for line in re.sub(r"\n[ \t]+", " ", text).splitlines() if line]


class Series:
    """Patches in order, and the series that they are on top of."""

    def __init__(self, name, parent=None):
        self.name = name
        self.parent = parent
        self.directory = PATCHES / name
        self.patches = [Patch(f"{name}/{words[0]}", words[1:])
                        for words in lines(self.directory / "series")]
        for number, patch in enumerate(self.patches, 1):
            if not patch.path.name.startswith(f"{number:04}-"):
                raise Failure(f"{patch.name} is number {number:04} of its series")
        for path in self.directory.glob("*.patch"):
            if path not in [patch.path for patch in self.patches]:
                raise Failure(f"patches/{name}/series does not name {path.name}")


def read_all():
    """The series, in order; every file of ours belongs to exactly one patch."""
    every = []
    for name, *needs in lines(PATCHES / "series"):
        every.append(Series(name, *(one for one in every if one.name in needs)))
    named = [name for one in every for patch in one.patches for name in patch.files]
    have = {str(path.relative_to(ROOT)) for top in OURS
            for path in (ROOT / top).rglob("*") if path.is_file()}
    for name in named:
        if name not in have:
            raise Failure(f"a series names {name}, which is not there")
        if named.count(name) > 1:
            raise Failure(f"the series name {name} twice")
    for name in sorted(have - set(named)):
        raise Failure(f"{name} belongs to no patch: name it in its series")
    return every


def patches_of(every):
    return [patch for one in every for patch in one.patches]


def read():
    """All patches, in order."""
    return patches_of(read_all())


def below(one):
    """The patches that a series is on top of, in order."""
    return below(one.parent) + one.parent.patches if one.parent else []


def copy(source, target):
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def place(name, stage, tree):
    """Gives one file of a tree the contents of the stage or the base; tells if it had not."""
    source = next((top / name for top in (stage, BASE) if (top / name).exists()), None)
    target = tree / name
    if (source.read_bytes() if source else None) == \
       (target.read_bytes() if target.exists() else None):
        return False
    target.unlink(missing_ok=True)      # it may be a link to the base's
    if source:
        copy(source, target)
    return True


def lay(patch, stage):
    """Adds what a patch and its files do to the files under stage."""
    for name in patch.files:
        copy(ROOT / name, stage / name)
    for name in patch.paths:
        if not (stage / name).exists() and (BASE / name).exists():
            copy(BASE / name, stage / name)
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
        raise Failure(f"patches/{patch.name} does not apply:\n{where}")


def stage_all(patches, stage):
    """Makes stage hold every file that differs from the base, and nothing else."""
    shutil.rmtree(stage, ignore_errors=True)
    os.makedirs(stage)
    for patch in patches:
        lay(patch, stage)
    return sorted(str(path.relative_to(stage)) for path in Path(stage).rglob("*")
                  if path.is_file())
