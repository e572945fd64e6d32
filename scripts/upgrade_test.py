"""Every released version, updated to this one, must be what a fresh installation is, with its runs intact.

For each frozen script sql/releases/meshhook--V.sql: install V, load what sql/releases/meshhook--V.load.sql makes (if
there), ALTER EXTENSION UPDATE, compare the catalogues with a fresh installation, run sql/releases/check.sql. A
snapshot of the current version must give the same catalogues by itself.

The old scripts are found in a private copy of the server's folders, so that the machine's installation stays as it is.
"""

import difflib
import os
import shutil
import sys
from pathlib import Path

import catalogue
from pgcluster import ROOT, Cluster, ClusterError, make_folder, pg_config

RELEASES = ROOT / "sql" / "releases"
SETTINGS = {"fsync": "off"}


def private_installation(folder):
    """A copy of the server below `folder` whose extension folder is ours; returns its folder of programs.

    PostgreSQL finds its files relative to its own program, so copies of the programs make the copy; links the rest.
    """
    bin_folder, share, lib = (Path(pg_config(option)) for option in ("--bindir", "--sharedir", "--pkglibdir"))
    prefix = Path(os.path.commonpath([bin_folder, share, lib]))
    own_bin, own_share, own_lib = (folder / path.relative_to(prefix) for path in (bin_folder, share, lib))
    for path in (own_bin, own_share / "extension", own_lib.parent):
        path.mkdir(parents=True, exist_ok=True)
    for program in bin_folder.iterdir():
        if program.name in ("postgres", "initdb"):
            shutil.copy(program, own_bin)
        else:
            (own_bin / program.name).symlink_to(program)
    own_lib.symlink_to(lib)
    for source, target in ((share, own_share), (share / "extension", own_share / "extension")):
        for entry in source.iterdir():
            if entry.name != "extension" and not entry.name.startswith("meshhook"):
                (target / entry.name).symlink_to(entry)
    shutil.copy(share / "extension" / "meshhook.control", own_share / "extension")
    for script in [*ROOT.glob("sql/meshhook--*--*.sql"), *frozen_scripts()]:
        shutil.copy(script, own_share / "extension")
    folder.chmod(0o755)
    return own_bin


def frozen_scripts():
    """The install scripts of the released versions."""
    return sorted(path for path in RELEASES.glob("meshhook--*.sql") if path.name.count("--") == 1
                  and not path.name.endswith(".load.sql"))


def version_of(script):
    return script.name.removeprefix("meshhook--").removesuffix(".sql")


def update(version, current, fresh, bin_folder):
    """Installs a released version, updates it; raises when it is not what a fresh installation is."""
    with Cluster.create("meshhook-up-", preload=False, settings=SETTINGS, bin_folder=bin_folder) as cluster:
        catalogue.install(cluster, version)
        load = RELEASES / f"meshhook--{version}.load.sql"
        if load.exists():
            cluster.sql(load.read_text(encoding="utf-8"), database=catalogue.DATABASE)
        if version != current:
            cluster.sql("ALTER EXTENSION meshhook UPDATE", database=catalogue.DATABASE)
        updated = catalogue.snapshot(cluster)
        difference = list(difflib.unified_diff(
            "\n".join(fresh).split("\n"), "\n".join(updated).split("\n"), "fresh", f"updated from {version}",
            lineterm="", n=2))
        if difference:
            raise ClusterError("\n".join(difference))
        if load.exists():
            cluster.sql((RELEASES / "check.sql").read_text(encoding="utf-8"), database=catalogue.DATABASE)


def main():
    with Cluster.create("meshhook-up-", preload=False, settings=SETTINGS) as cluster:
        catalogue.install(cluster)
        current = cluster.sql("SELECT meshhook.version()", database=catalogue.DATABASE)
        fresh = catalogue.snapshot(cluster)
    passed = failed = 0
    folder = make_folder("meshhook-pg-")
    try:
        bin_folder = private_installation(folder)
        for version in map(version_of, frozen_scripts()):
            try:
                update(version, current, fresh, bin_folder)
                passed += 1
                print(f"ok      {version} updated to {current} is a fresh {current}; its runs go on")
            except ClusterError as error:
                failed += 1
                print(f"FAILED  {version} updated to {current}:\n{error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
