//! What differs between two definitions, told by node and edge instead of by place in a list.

use std::collections::BTreeMap;

use super::pointer;
use crate::json::Json;
use crate::state::OUT;

/// What happened to a part of a definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It is in the second definition only.
    Added,
    /// It is in the first definition only.
    Removed,
    /// Both have it, with different values.
    Changed,
}

impl ChangeKind {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Changed => "changed",
        }
    }
}

/// A difference.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// To what: `workflow`, `node charge`, `edge charge (error) -> refund`.
    pub subject: String,
    /// JSON pointer into the second definition; into the first for what was removed.
    pub pointer: String,
    /// The value in the first definition.
    pub before: Option<Json>,
    /// The value in the second definition.
    pub after: Option<Json>,
}

/// The differences between two definitions, sound or not, in the order of the second one's keys. Nodes are
/// matched by id and edges by (from, port, to): where they stand in their list is no difference.
#[must_use]
pub fn diff(before: &Json, after: &Json) -> Vec<Change> {
    let mut changes = Vec::new();
    let (Some(old), Some(new)) = (before.as_obj(), after.as_obj()) else {
        compare("workflow", "", before, after, &mut changes);
        return changes;
    };
    let mut keys: Vec<_> = old.keys().chain(new.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let at = pointer("", key);
        let name = match &**key {
            "nodes" => node_name,
            "edges" => edge_name,
            _ => {
                member("workflow", &at, old.get(key), new.get(key), &mut changes);
                continue;
            }
        };
        match (named(old.get(key), name), named(new.get(key), name)) {
            (Some(old), Some(new)) => compare_named(&at, &old, &new, &mut changes),
            _ => member("workflow", &at, old.get(key), new.get(key), &mut changes),
        }
    }
    changes
}

fn node_name(node: &Json) -> Option<String> {
    Some(format!("node {}", node.get("id")?.as_str()?))
}

fn edge_name(edge: &Json) -> Option<String> {
    let end = |key: &str| edge.get(key)?.as_str();
    let port = edge.get("port").map_or(Some(OUT), Json::as_str)?;
    let port = if port == OUT { String::new() } else { format!(" ({port})") };
    Some(format!("edge {}{port} -> {}", end("from")?, end("to")?))
}

/// The items of a list by name, with their places; `None` if that is no list in which each has one of its own.
fn named(list: Option<&Json>, name: fn(&Json) -> Option<String>) -> Option<BTreeMap<String, (usize, &Json)>> {
    let Some(list) = list else { return Some(BTreeMap::new()) };
    let list = list.as_arr()?;
    let mut items = BTreeMap::new();
    for (i, item) in list.iter().enumerate() {
        if items.insert(name(item)?, (i, item)).is_some() {
            return None;
        }
    }
    Some(items)
}

fn compare_named(
    at: &str,
    old: &BTreeMap<String, (usize, &Json)>,
    new: &BTreeMap<String, (usize, &Json)>,
    changes: &mut Vec<Change>,
) {
    for (name, (i, item)) in new {
        let at = pointer(at, i);
        match old.get(name) {
            Some((_, before)) => compare(name, &at, before, item, changes),
            None => member(name, &at, None, Some(item), changes),
        }
    }
    for (name, (i, item)) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
        member(name, &pointer(at, i), Some(item), None, changes);
    }
}

fn member(subject: &str, at: &str, before: Option<&Json>, after: Option<&Json>, changes: &mut Vec<Change>) {
    let kind = match (before, after) {
        (Some(before), Some(after)) => return compare(subject, at, before, after, changes),
        (None, Some(_)) => ChangeKind::Added,
        (Some(_), None) => ChangeKind::Removed,
        (None, None) => return,
    };
    let (before, after) = (before.cloned(), after.cloned());
    changes.push(Change { kind, subject: subject.to_owned(), pointer: at.to_owned(), before, after });
}

/// Compares two values: objects by key, lists by place, anything else as a whole.
fn compare(subject: &str, at: &str, before: &Json, after: &Json, changes: &mut Vec<Change>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Json::Obj(old), Json::Obj(new)) => {
            for (key, value) in new.iter() {
                member(subject, &pointer(at, key), old.get(key), Some(value), changes);
            }
            for (key, value) in old.iter().filter(|(key, _)| !new.contains_key(*key)) {
                member(subject, &pointer(at, key), Some(value), None, changes);
            }
        }
        (Json::Arr(old), Json::Arr(new)) => {
            for i in 0..old.len().max(new.len()) {
                member(subject, &pointer(at, i), old.get(i), new.get(i), changes);
            }
        }
        _ => changes.push(Change {
            kind: ChangeKind::Changed,
            subject: subject.to_owned(),
            pointer: at.to_owned(),
            before: Some(before.clone()),
            after: Some(after.clone()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(before: &str, after: &str) -> Vec<String> {
        let show = |value: Option<Json>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
        diff(&Json::parse(before).unwrap(), &Json::parse(after).unwrap())
            .into_iter()
            .map(|c| {
                let (kind, before, after) = (c.kind.as_str(), show(c.before), show(c.after));
                format!("{kind} {} {} {before} {after}", c.subject, c.pointer)
            })
            .collect()
    }

    #[test]
    fn nodes_are_matched_by_id_and_edges_by_their_ends() {
        let before = r#"{"name":"x","nodes":[{"id":"a","type":"task","with":{"queue":"q"}},{"id":"b","type":"task"}],
            "edges":[{"from":"a","to":"b"}]}"#;
        let after = r#"{"name":"x","vars":{},"nodes":[{"id":"c","type":"task"},{"id":"b","type":"task"},
            {"id":"a","type":"task","with":{"queue":"r"}}],
            "edges":[{"from":"a","port":"error","to":"c"},{"from":"a","port":"out","to":"b"}]}"#;
        assert_eq!(
            lines(before, after),
            [
                r#"added edge a (error) -> c /edges/0 - {"from":"a","port":"error","to":"c"}"#,
                r#"added edge a -> b /edges/1/port - "out""#,
                r#"changed node a /nodes/2/with/queue "q" "r""#,
                r#"added node c /nodes/0 - {"id":"c","type":"task"}"#,
                r#"added workflow /vars - {}"#,
            ]
        );
        assert_eq!(lines(after, before).len(), 5);
        assert_eq!(lines(before, before), [] as [&str; 0]);
    }

    #[test]
    fn faulty_definitions_are_compared_by_place() {
        let twice = r#"{"nodes":[{"id":"a","x":1},{"id":"a","x":2}]}"#;
        assert_eq!(lines(twice, &twice.replace('2', "3")), ["changed workflow /nodes/1/x 2 3"]);
        assert_eq!(lines("[1]", "{}"), ["changed workflow  [1] {}"]);
    }
}
