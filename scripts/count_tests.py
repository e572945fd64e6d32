"""Prints how many tests passed and failed, from the closing lines of the test runners in a log.

usage: count_tests.py LOG      prints "PASSED FAILED"
"""

import re
import sys

CARGO = re.compile(r"^test result: \w+\. (\d+) passed; (\d+) failed;")
PLAIN = re.compile(r"^(?:\w+: )?(\d+) passed, (\d+) failed(?:, \d+ skipped)?$")
PG_REGRESS_ALL = re.compile(r"^ ?All (\d+) tests? passed")
PG_REGRESS_SOME = re.compile(r"^ ?(\d+) of (\d+) tests? failed")


def count(lines):
    """Counts of the plain closing lines if there are any (they sum up what stands above them), else of the others."""
    plain, other = [0, 0], [0, 0]
    has_plain = False
    for line in lines:
        if match := PLAIN.match(line):
            has_plain = True
            sums, passed, failed = plain, int(match[1]), int(match[2])
        elif match := CARGO.match(line):
            sums, passed, failed = other, int(match[1]), int(match[2])
        elif match := PG_REGRESS_ALL.match(line):
            sums, passed, failed = other, int(match[1]), 0
        elif match := PG_REGRESS_SOME.match(line):
            sums, passed, failed = other, int(match[2]) - int(match[1]), int(match[1])
        else:
            continue
        sums[0] += passed
        sums[1] += failed
    return plain if has_plain else other


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8", errors="replace") as log:
        print(*count(log.read().splitlines()))
