//! Paths of nodes: the id, inside a body `<map>/<index>/<id>`, and for what undoes a node `<path>/compensate`.
//!
//! Ids hold letters, digits and underscores and begin with no digit, so a path can be taken apart again:
//! what follows an id is an index, or the word.

/// The last token of the path of what undoes a node.
const COMPENSATE: &str = "compensate";

/// What the paths of a body's nodes begin with, for one item.
#[must_use]
pub fn item(node: &str, index: u32) -> String {
    format!("{node}/{index}/")
}

/// The path of what undoes a node.
#[must_use]
pub fn compensation(node: &str) -> String {
    format!("{node}/{COMPENSATE}")
}

/// The node that this path undoes, if it is such a path.
#[must_use]
pub fn compensated(path: &str) -> Option<&str> {
    path.strip_suffix(COMPENSATE)?.strip_suffix('/')
}

/// Whether a path lies inside the body of a node.
#[must_use]
pub fn is_within(path: &str, node: &str) -> bool {
    path.strip_prefix(node).is_some_and(|rest| rest.starts_with('/'))
}

/// What the paths of the nodes beside this one begin with: empty outside of bodies.
#[must_use]
pub fn prefix(path: &str) -> &str {
    let path = compensated(path).unwrap_or(path);
    path.rfind('/').map_or("", |slash| &path[..=slash])
}

/// The map or repeat, and the index, that a prefix belongs to; `None` outside of bodies.
#[must_use]
pub fn owner(prefix: &str) -> Option<(&str, u32)> {
    let (node, index) = prefix.strip_suffix('/')?.rsplit_once('/')?;
    Some((node, index.parse().ok()?))
}

/// The maps and repeats in whose bodies the node stands, from the innermost out.
pub fn around(path: &str) -> impl Iterator<Item = &str> {
    let owner_of = |path: &str| owner(prefix(path)).map(|(node, _)| node.len());
    std::iter::successors(owner_of(path), move |end| owner_of(&path[..*end])).map(|end| &path[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_apart_as_it_was_put_together() {
        let inner = format!("{}call", item("each", 3));
        assert_eq!(inner, "each/3/call");
        assert_eq!((prefix(&inner), owner(prefix(&inner))), ("each/3/", Some(("each", 3))));
        assert_eq!((prefix("call"), owner("")), ("", None));
        let undo = compensation(&inner);
        assert_eq!((compensated(&undo), prefix(&undo)), (Some("each/3/call"), "each/3/"));
        assert_eq!(compensated("compensate"), None);
        assert_eq!(around("a/0/b/1/c").collect::<Vec<_>>(), ["a/0/b", "a"]);
        assert!(is_within(&inner, "each") && !is_within("each_other/3/x", "each"));
    }
}
