# SPDX-License-Identifier: GPL-2.0
"""MAINTAINERS: our entries, and how they go into the kernel's file.

An entry is a title, then lines of a letter, a colon, a tab and a value.
"""

import fnmatch
import re

# What stands before the entries in the kernel's file.
HEAD = "\nMaintainers List\n"


def entries(text):
    """Title -> lines."""
    found = {}
    for block in re.split(r"\n\n+", text.strip("\n")):
        title, *lines = block.split("\n")
        if lines and all(re.match(r"[A-Z]:\t", line) for line in lines):
            found[title] = lines
    return found


def united(old, new):
    """The old lines with those of the new that it lacks, after their like."""
    lines = list(old)
    for line in new:
        if line in lines or line.startswith("S:"):
            continue
        like = [i for i, have in enumerate(lines) if have[0] == line[0]]
        lines.insert(like[-1] + 1 if like else len(lines), line)
    files = iter(sorted(line for line in lines if line[0] == "F"))
    return [next(files) if line[0] == "F" else line for line in lines]


def merge(kernel, ours):
    """The kernel's file with our entries, in the order of the alphabet."""
    place = kernel.index(HEAD)
    head, body = kernel[:place], kernel[place:]
    for title, lines in entries(ours).items():
        have = entries(body)
        if title in have:
            body = body.replace("\n".join(["", title, *have[title], ""]),
                                "\n".join(["", title, *united(have[title], lines), ""]))
            continue
        before = max((other for other in have if other < title), default=None)
        if before is None:
            raise ValueError(f"MAINTAINERS: no entry comes before {title}")
        entry = "\n".join(["", before, *have[before], ""])
        body = body.replace(entry, entry + "\n".join(["", title, *lines, ""]))
    return head + body


def unnamed(ours, names):
    """Those of the files that no entry of ours names."""
    patterns = [line[3:] for lines in entries(ours).values() for line in lines
                if line.startswith("F:")]
    return [name for name in names
            if not any(name.startswith(pattern) if pattern.endswith("/")
                       else fnmatch.fnmatch(name, pattern) for pattern in patterns)]
