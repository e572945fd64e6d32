"""Reports what no file of the repository may hold: paths of one machine, unfinished work, endless files."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINES_MAX = 800
PROSE = (".md", ".lock", ".out", ".sql", ".json")
FORBIDDEN = [
    (re.compile(r"(?<![\w.~-])/(?:home|Users|root)/[A-Za-z]"), "a path of one machine"),
    (re.compile(r"\b(?:TO" r"DO|FIX" r"ME|XX" r"X)\b|\btodo!\(|\bunimplemented!\("), "unfinished work"),
    (re.compile(r"[ \t]+$"), "space at the end of the line"),
    (re.compile(r"^(?:<{7}|>{7}) "), "a merge conflict"),
]


def files():
    """The files git knows or would add."""
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, check=True, capture_output=True).stdout
    return sorted({ROOT / name.decode() for name in listed.split(b"\0") if name})


def findings(path):
    """What is wrong with a file, as (line number, what)."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (UnicodeDecodeError, FileNotFoundError):
        return
    # What other programs wrote.
    golden = "expected" in path.parts or "golden" in path.parts or "releases" in path.parts or path.suffix == ".lock"
    for number, line in enumerate(lines, 1):
        for pattern, what in FORBIDDEN:
            if pattern.search(line) and not golden:
                yield number, what
    if len(lines) > LINES_MAX and path.suffix not in PROSE:
        yield len(lines), f"more than {LINES_MAX} lines: a file is one concept"


def main():
    count = 0
    for path in files():
        for number, what in findings(path):
            count += 1
            print(f"{path.relative_to(ROOT)}:{number}: {what}")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
