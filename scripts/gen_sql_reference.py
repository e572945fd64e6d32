"""Writes docs/sql-reference.md from the COMMENTs of a fresh installation.

usage: gen_sql_reference.py [--check]      --check fails when the file is not what it would write
"""

import difflib
import json
import re
import sys
import textwrap

import catalogue
from pgcluster import ROOT, Cluster

FILE = ROOT / "docs" / "sql-reference.md"
WIDTH = 110
CONTEXTS = {"postmaster": "server start", "sighup": "reload", "superuser": "superuser", "user": "anyone"}
HEAD = """# SQL reference

Schema `meshhook`, version {version}. Written by `make docs` from the COMMENTs in the database; change those, not this
file. `\\df+ meshhook.*` shows the same in psql.

Arguments with a default may be left out; every argument may be named (`batch_size => 10`).
"""
SECTIONS = [
    ("For applications", "After `meshhook.grant_api(role)`, that role may call these. It sees its project only."),
    ("For executors", "Members of `meshhook_executor`, such as the sidecar's login role, may call these, for every "
                      "project."),
    ("For administrators", "Only who installed the extension, or another superuser, may call these."),
]


def reference(cluster):
    """The text of the file for the extension installed in the cluster's database."""
    version = cluster.sql("SELECT meshhook.version()", database=catalogue.DATABASE)
    rights = {row["oid"]: row for row in cluster.rows(
        """SELECT p.oid, has_function_privilege('application', p.oid, 'EXECUTE') AS application,
                  has_function_privilege('meshhook_executor', p.oid, 'EXECUTE') AS executor
           FROM pg_proc p WHERE p.pronamespace = 'meshhook'::regnamespace""", database=catalogue.DATABASE)}
    sections = {title: [] for title, _ in SECTIONS}
    shared = []
    for routine in cluster.rows(catalogue.ROUTINES, database=catalogue.DATABASE):
        right = rights[routine["oid"]]
        if is_machinery(routine):
            continue
        if right["application"]:
            sections["For applications"].append(entry(routine))
            if right["executor"]:
                shared.append(f"`{routine['name']}`")
        elif right["executor"]:
            sections["For executors"].append(entry(routine))
        else:
            sections["For administrators"].append(entry(routine))
    sections["For executors"].append(f"As above: {', '.join(shared)}.\n")
    parts = [HEAD.format(version=version)]
    for title, about in SECTIONS:
        parts.append(f"## {title}\n\n{about}\n")
        parts += sections[title]
    parts.append("## Views\n")
    columns = cluster.rows(catalogue.COLUMNS, database=catalogue.DATABASE)
    relations = cluster.rows(catalogue.RELATIONS, database=catalogue.DATABASE)
    for relation in (r for r in relations if r["kind"] == "v"):
        own = [c for c in columns if c["relation"] == relation["name"]]
        listed = ", ".join(f"`{column['name']}` {column['type'].replace('timestamp with time zone', 'timestamptz')}" for column in own)
        parts.append(f"### {relation['name']}\n\n{relation['comment'] or ''}\n\n{listed}\n")
    parts += ["## Settings\n", "| setting | default | set by | meaning |\n|---|---|---|---|", *settings(cluster), ""]
    parts.append("## Tables\n\nNot an interface: they change between releases. To know what is where:\n")
    parts.append("| table | what it holds |\n|---|---|")
    parts += [f"| `{r['name']}` | {r['comment'] or ''} |" for r in relations if r["kind"] in "rp" and not r["is_leaf"]]
    return "\n".join(parts) + "\n"


def is_machinery(routine):
    """Whether nobody but meshhook itself calls it; its comment then ends with whom it serves: "For maintenance." """
    return bool(re.search(r"\bFor [a-z_ ]+\.$", routine["comment"] or ""))


def entry(routine):
    """A routine as it is called; defaults without their casts."""
    kind = "CALL " if routine["kind"] == "p" else ""
    arguments = re.sub(r"(DEFAULT (?:'[^']*'|NULL))::[a-z ]+(?:\[\])?", r"\1", routine["arguments"])
    arguments = re.sub(r"\bIN (?=[a-z])", "", arguments)
    result = "" if routine["result"] in (None, "void") else f" → {routine['result']}"
    head = f"{kind}{routine['name']}({arguments}){result}".replace("timestamp with time zone", "timestamptz")
    # Broken behind commas only: an argument stays with its type.
    head = re.sub("(?<!,) ", "\0", head)
    head = textwrap.fill(head, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    head = head.replace("\0", " ")
    return f"### {routine['name']}\n\n```sql\n{head}\n```\n\n{routine['comment'] or ''}\n"


def settings(cluster):
    """The settings that the library defines, as rows of a table."""
    text = cluster.sql("""
        LOAD 'meshhook';
        SELECT json_agg(s ORDER BY s.name) FROM (
            SELECT name, coalesce(nullif(boot_val, ''), 'not set') || coalesce(' ' || unit, '') AS preset, short_desc, context
            FROM pg_settings WHERE name LIKE 'meshhook.%' OR name LIKE 'message_store.%'
        ) AS s;""", database=catalogue.DATABASE)
    return [f"| `{row['name']}` | {row['preset']} | {CONTEXTS.get(row['context'], row['context'])} | {row['short_desc']} |"
            for row in json.loads(text or "[]")]


def main():
    with Cluster.create("meshhook-docs-", preload=False, settings={"fsync": "off"}) as cluster:
        catalogue.install(cluster)
        catalogue.grant_api(cluster)
        wanted = reference(cluster)
    if "--check" in sys.argv[1:]:
        found = FILE.read_text(encoding="utf-8") if FILE.exists() else ""
        if found != wanted:
            sys.stdout.writelines(difflib.unified_diff(
                found.splitlines(True), wanted.splitlines(True), str(FILE.relative_to(ROOT)), "as it should be"))
            print("docs/sql-reference.md is out of date: make docs")
            return 1
        return 0
    FILE.parent.mkdir(exist_ok=True)
    FILE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
