# SPDX-License-Identifier: GPL-2.0
"""The series in patches/: which patches they have, and what each brings along.

The file `series` of each has a line for each patch: with the files of ours that come with it,
and, after the word "needs", the numbers of the patches that it does not apply or makes no sense
without.

In build/series.git each patch, with the files that it brings, is a commit on top of the patch
before it, and the first of each series one on top of fixes.  These commits have only the files
that the patches change, and so are made in a second or two.
"""

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter

from lab import BASE, BUILD, ROOT, Failure

PATCHES = ROOT / "patches"
GIT = BUILD / "series.git"
# Where files of ours can be; everything else in the repository is not the kernel's.
OURS = ("Documentation", "drivers", "include", "lib", "mm", "samples", "tools")


class Patch:
    """One patch: its file, the paths that it changes, the files of ours with it."""

    def __init__(self, one, words):
        self.series = one
        self.name = f"{one.name}/{words.pop(0)}"
        self.path = PATCHES / self.name
        self.files = [word for word in words if word != "needs" and not word.isdigit()]
        self.needs = [word for word in words if word.isdigit()]
        self.commit = None      # see commit_all()
        self.text = self.path.read_text()
        self.paths = re.findall(r"^\+\+\+ b/(\S+)", self.text, re.M)
        self.names = [*self.files, *self.paths]
        # What stands before the first hunk: subject and description, which git's log gets,
        # and behind a line of dashes what is for reviewers alone.
        message = re.split(r"^diff --git", self.text, maxsplit=1, flags=re.M)[0]
        log, _, self.remarks = message.partition("\n---\n")
        self.log = log.removeprefix("Subject: ").rstrip("\n") + "\n"


def lines(path):
    """The words of each line of a file `series`."""
    text = re.sub(r"^#.*\n", "", path.read_text(), flags=re.M)
    return [line.split() for line in re.sub(r"\n[ \t]+", " ", text).splitlines() if line]


class Series:
    """Patches in order, and the series that they are on top of: fixes, or none."""

    def __init__(self, name, parent=None):
        self.name, self.parent = name, parent
        self.base = None        # the commit that it is on top of, see commit_all()
        self.directory = PATCHES / name
        self.patches = [Patch(self, words) for words in lines(self.directory / "series")]
        for number, patch in enumerate(self.patches, 1):
            if not patch.path.name.startswith(f"{number:04}-"):
                raise Failure(f"{patch.name} is number {number:04} of its series")
        if more := set(self.directory.glob("*.patch")) - {patch.path for patch in self.patches}:
            raise Failure(f"patches/{name}/series does not name {more.pop().name}")


def read_all():
    """The series, in order; every file of ours belongs to exactly one patch."""
    fixes = Series("fixes")
    every = [fixes, *(Series(name, fixes) for name in ("udmabuf", "vfio-pci-dmabuf", "hmm-range"))]
    named = Counter(name for patch in patches_of(every) for name in patch.files)
    have = Counter(str(path.relative_to(ROOT)) for top in OURS
                   for path in (ROOT / top).rglob("*") if path.is_file())
    if wrong := have - named or named - have:
        raise Failure("named by no patch, by several, or not there: " + ", ".join(sorted(wrong)))
    return every


def patches_of(every):
    return [patch for one in every for patch in one.patches]


class Git:
    """git on a repository of ours, with no configuration but its own."""

    def __init__(self, directory=GIT, tree=None, index=None, **environment):
        self.tree = tree
        places = {"GIT_DIR": directory, "GIT_WORK_TREE": tree, "GIT_INDEX_FILE": index}
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            **{name: str(path) for name, path in places.items() if path},
            "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull,
            **{f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
               for what, value in (("NAME", "Nobody"), ("EMAIL", "nobody@localhost"),
                                   ("DATE", "2000-01-01T00:00Z"))}, **environment}

    def __call__(self, *words, **options):
        result = subprocess.run(["git", *map(str, words)], cwd=self.tree, text=True,
                                env=self.environment, capture_output=True, check=False, **options)
        if result.returncode:
            raise Failure(f"git {words[0]} said:\n{result.stdout}{result.stderr}")
        return result.stdout

    def names(self, *words):
        """What a command lists: the names of files."""
        return set(self(*words).splitlines())


def commit_all(every, more=(), **who):
    """Makes a commit of each patch; returns those of the base and of the composed tree.

    more: files that are to be in the commits beside those that a patch changes.
    """
    names = {name for patch in patches_of(every) for name in patch.names}.union(more)
    if not GIT.exists():
        Git()("init", "--quiet", "--bare", GIT)
    with tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        index = f"{scratch}/index"
        git = Git(index=index, **who)

        def add(tree, files):
            Git(tree=tree, index=index)("update-index", "--add", "--stdin", input="\n".join(files))

        def lay(patch):
            add(ROOT, patch.files)
            try:
                git("apply", "--cached", "--allow-empty", "-C1", patch.path)
            except Failure as failure:
                raise Failure(f"patches/{patch.name} does not apply: {failure}") from None

        def commit(message, *parent):
            return git("commit-tree", git("write-tree").strip(), *parent, input=message).strip()

        add(BASE, [name for name in names if (BASE / name).exists()])
        base = commit("base\n")
        for one in every:
            tip = one.base = one.parent.patches[-1].commit if one.parent else base
            git("read-tree", tip)
            for patch in one.patches:
                lay(patch)
                tip = patch.commit = commit(patch.log, "-p", tip)
        git("read-tree", base)
        for patch in patches_of(every):
            lay(patch)
        return base, commit("the tree\n", "-p", base)


def track(tree, base, commit):
    """git for a tree that is the base with the files of a commit; what these were before.

    The index, in the tree, has what was composed there: "git diff" is what was edited since.
    """
    git = Git(tree=tree, index=tree / ".series-index")
    had = git.names("ls-files")
    entries = {line.partition("\t")[2]: line for of in (commit, base)
               for line in git("ls-tree", "-r", of).splitlines()}
    git("update-index", "--index-info", input="".join(
        f"{line}\n" for name, line in entries.items() if name not in had))
    return git, had


def checkout(tree, base, commit, discard=False):
    """Makes a tree the base with the files of a commit; returns the files that it has to write.

    Files that were edited since the tree was composed are a failure, or are overwritten.
    """
    git, had = track(tree, base, commit)
    edited = git.names("diff", "--name-only", "--diff-filter=M") & \
        git.names("diff", "--name-only", commit)
    if edited and not discard:
        raise Failure("edited in build/linux, and not in a patch yet:\n  "
                      + "\n  ".join(sorted(edited))
                      + "\nscripts/refresh turns the edits into patches, "
                        "scripts/tree --discard drops them")
    git("add", "--update")
    changed = git.names("diff", "--cached", "--name-only", commit)
    git("read-tree", "--reset", "-u", commit)
    for name in had - git.names("ls-files"):
        if (BASE / name).exists():
            shutil.copy(BASE / name, tree / name)
    if any("Kconfig" in name for name in changed):
        for done in tree.glob("build-*/wants.config"):      # to be configured again
            done.unlink()
    return changed
