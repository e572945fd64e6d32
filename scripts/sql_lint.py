"""Looks at what the extension makes of a real database and reports what breaks the rules of CONTRIBUTING.md.

Each rule is one function that yields its findings; `why` is what breaks when it is broken.
"""

import hashlib
import re
import sys

import catalogue
import gen_sql_reference
from pgcluster import ROOT, Cluster

RELEASES = ROOT / "sql" / "releases"

# Procedures that end transactions: a SET clause would keep them from it.
WITHOUT_SEARCH_PATH = {"await_run", "wait_for_run", "wait_turn", "wait_append", "wait_for_messages", "import_message_store"}
# Functions of the event store, in which a SET clause would cost more than the work: they go past the executor, and what
# SQL they run names its operators in full (src/event_store/native.rs).
PAST_THE_EXECUTOR = {
    "append_message", "append_messages", "hash_64", "holders_of_positions", "last_message", "read_all", "read_category",
    "read_consumer", "read_stream", "safe_position", "stream_cardinal_id", "stream_category", "stream_id",
    "stream_version", "message_store_category", "message_store_last", "message_store_lock", "message_store_stream",
    "message_store_stream_version", "message_store_write"}
# New again in every copy, so that its positions begin beyond what readers of the original may have seen.
NOT_DUMPED = {"recovered_seq"}
# Unique keys that cannot begin with the project: the projects themselves, and what a cluster or database has one of.
WITHOUT_PROJECT = {"project", "installation"}
# A workflow that leaves one run behind, so that leaves exist and are looked at too.
ONE_RUN = """
    SELECT meshhook.publish_workflow('{"name":"lint","nodes":[{"id":"a","type":"transform","with":{"output":1}}],
                                       "edges":[]}');
    SELECT meshhook.start_run('lint');
    SELECT meshhook.tick();"""


class Facts:
    """What the rules look at, read once."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.routines = self.rows(catalogue.ROUTINES)
        self.relations = self.rows(catalogue.RELATIONS)

    def rows(self, query):
        return self.cluster.rows(query, database=catalogue.DATABASE)


def everything_has_a_comment(facts):
    """docs/sql-reference.md and \\df+ are made of them"""
    for routine in facts.routines:
        if not routine["comment"]:
            yield f"{routine['signature']} has no COMMENT"
    for relation in facts.relations:
        if relation["kind"] in "rpvm" and not relation["is_leaf"] and not relation["comment"]:
            yield f"{relation['name']} has no COMMENT"


def search_path_is_pinned(facts):
    """whoever calls could put an object of the same name first"""
    for routine in facts.routines:
        paths = [setting for setting in routine["config"] or [] if setting.startswith("search_path=")]
        if routine["name"] in WITHOUT_SEARCH_PATH | PAST_THE_EXECUTOR or routine["is_parsed"]:
            continue
        if not paths:
            yield f"{routine['signature']} has no SET search_path"
        elif not re.search(r"pg_catalog.*pg_temp$", paths[0]):
            yield f"{routine['signature']} has {paths[0]}: pg_catalog first, pg_temp last"


def public_has_nothing(facts):
    """functions are everybody's by default"""
    for row in facts.rows("""
            SELECT p.oid::regprocedure::text AS name FROM pg_proc p,
                   aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a
            WHERE p.pronamespace = 'meshhook'::regnamespace AND a.grantee = 0
            UNION ALL
            SELECT c.oid::regclass::text FROM pg_class c, aclexplode(c.relacl) AS a
            WHERE c.relnamespace = 'meshhook'::regnamespace AND a.grantee = 0
            UNION ALL
            SELECT n.nspname FROM pg_namespace n, aclexplode(n.nspacl) AS a
            WHERE n.nspname LIKE 'meshhook%' AND a.grantee = 0 AND n.nspname <> 'meshhook_public'"""):
        yield f"PUBLIC has rights on {row['name']}"


def definers_are_not_superusers(facts):
    """such a function does as a superuser what any caller says"""
    for routine in facts.routines:
        if routine["is_definer"] and routine["is_superusers"]:
            yield f"{routine['signature']} is SECURITY DEFINER and owned by a superuser"


def rows_are_guarded(facts):
    """no tenant sees another"""
    for relation in facts.relations:
        if relation["kind"] in "rp" and not relation["row_security"]:
            yield f"table {relation['name']} has no row level security"
        if relation["kind"] == "v" and "security_invoker=true" not in (relation["options"] or []):
            yield f"view {relation['name']} is not security_invoker: it reads as its owner"


def dump_takes_everything(facts):
    """pg_dump leaves out the rows of member tables that are not registered"""
    dumped = {row["name"] for row in facts.rows("""
        SELECT c.relname AS name FROM pg_extension e, unnest(e.extconfig) AS t(oid) JOIN pg_class c ON c.oid = t.oid
        WHERE e.extname = 'meshhook'""")}
    for relation in facts.relations:
        if relation["kind"] in "rpS" and not relation["is_leaf"] and relation["name"] not in dumped | NOT_DUMPED:
            yield f"{relation['name']} is not registered with pg_extension_config_dump"
        if relation["kind"] in "rp" and relation["is_leaf"] and relation["is_member"]:
            yield f"leaf {relation['name']} is a member of the extension; only the script's tables may be"


def keys_begin_with_the_project(facts):
    """rows of one tenant lie together, and the schema can be sharded by project"""
    for row in facts.rows("""
            SELECT c.relname AS relation, i.indexrelid::regclass::text AS index, i.indisunique AS is_unique,
                   c.relkind AS kind, a.attname AS first
            FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
            LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
            WHERE c.relnamespace = 'meshhook'::regnamespace"""):
        if row["is_unique"] and row["first"] != "project_id" and row["relation"] not in WITHOUT_PROJECT:
            yield f"unique index {row['index']} on {row['relation']} begins with {row['first']}"
        if row["kind"] == "p":
            yield f"partitioned {row['relation']} has index {row['index']}: a dump of it cannot be restored"


def arguments_need_no_quotes(facts):
    """`f(limit => 1)` is a syntax error"""
    keywords = {row["word"] for row in facts.rows("SELECT word FROM pg_get_keywords() WHERE catcode IN ('R', 'C')")}
    for routine in facts.routines:
        names = routine["argument_names"] or []
        modes = routine["argument_modes"] or ["i"] * len(names)
        for name, mode in zip(names, modes):
            if mode in "ibv" and (name in keywords or not re.fullmatch(r"[a-z_][a-z0-9_]*", name)):
                yield f"{routine['signature']}: argument {name!r} needs quotes when it is named"
        if modes.count("i") + modes.count("b") + modes.count("v") != routine["input_count"] or "" in names:
            yield f"{routine['signature']} has an argument without a name"


def reference_is_current(facts):
    """docs/sql-reference.md is written from the COMMENTs (make docs)"""
    catalogue.grant_api(facts.cluster)
    wanted = gen_sql_reference.reference(facts.cluster)
    found = gen_sql_reference.FILE.read_text(encoding="utf-8") if gen_sql_reference.FILE.exists() else ""
    if found != wanted:
        yield "docs/sql-reference.md is out of date: make docs"


def releases_are_frozen(_facts):
    """an update starts from what was released, not from what it became since"""
    sums = RELEASES / "SHA256SUMS"
    noted = dict(reversed(line.split()) for line in sums.read_text().splitlines()) if sums.exists() else {}
    for path in RELEASES.glob("meshhook--*.sql"):
        if noted.pop(path.name, None) != hashlib.sha256(path.read_bytes()).hexdigest():
            yield f"{path.relative_to(ROOT)} was changed after its release (scripts/release-snapshot.sh makes them)"
    for name in noted:
        yield f"sql/releases/{name} is gone"


RULES = [everything_has_a_comment, search_path_is_pinned, public_has_nothing, definers_are_not_superusers,
         rows_are_guarded, dump_takes_everything, keys_begin_with_the_project, arguments_need_no_quotes,
         reference_is_current, releases_are_frozen]


def main():
    findings = 0
    with Cluster.create("meshhook-lint-", preload=False, settings={"fsync": "off"}) as cluster:
        catalogue.install(cluster)
        cluster.sql(ONE_RUN, database=catalogue.DATABASE)
        facts = Facts(cluster)
        for rule in RULES:
            for finding in rule(facts):
                findings += 1
                print(f"{finding}   ({rule.__doc__})")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
