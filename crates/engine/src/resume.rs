//! Resume URLs: how `{{ $resume.<node> }}` stands in the log, and whether a node still takes an answer.
//!
//! What is recorded is a placeholder, which says the path of the wait node; whoever hands the input out puts the URL in
//! its place. The placeholder ends with a hash that is keyed with the run's seed, which nobody outside knows, so that
//! no data can pretend to be one.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::path;
use crate::state::RunState;

/// What every placeholder begins with.
pub const PREFIX: &str = "meshhook:resume:";
/// How many characters its hash has: 128 bits.
const HASH_LENGTH: usize = 32;

/// The placeholders of the nodes of one graph.
#[derive(Clone, Copy, Debug)]
pub struct Placeholders<'a> {
    /// The run's seed.
    pub seed: u64,
    /// What the paths of the graph's nodes begin with.
    pub prefix: &'a str,
}

impl Placeholders<'_> {
    /// The placeholder of a node.
    #[must_use]
    pub fn of(&self, node: &str) -> String {
        placeholder(self.seed, &format!("{}{node}", self.prefix))
    }
}

fn placeholder(seed: u64, path: &str) -> String {
    format!("{PREFIX}{path}:{}", hash(seed, path))
}

fn hash(seed: u64, path: &str) -> String {
    // HMAC takes keys of any length.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&seed.to_be_bytes()) else { return String::new() };
    mac.update(PREFIX.as_bytes());
    mac.update(path.as_bytes());
    let mut text = hex::encode(mac.finalize().into_bytes());
    text.truncate(HASH_LENGTH);
    text
}

/// Puts a URL in the place of every placeholder of a run in a JSON text. `url` gets the path of the wait node; what it
/// returns must be free of characters that JSON escapes. What only looks like a placeholder stays as it is.
#[must_use]
pub fn fill(text: &str, seed: u64, mut url: impl FnMut(&str) -> String) -> String {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(PREFIX) {
        filled.push_str(before);
        let found = split(after).filter(|(path, found, _)| *found == hash(seed, path));
        match found {
            Some((path, _, behind)) => {
                filled.push_str(&url(path));
                rest = behind;
            }
            None => {
                filled.push_str(PREFIX);
                rest = after;
            }
        }
    }
    filled.push_str(rest);
    filled
}

/// Path, hash, and what follows them.
fn split(text: &str) -> Option<(&str, &str, &str)> {
    let in_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '/');
    let (path, rest) = text.split_at(text.find(|c: char| !in_path(c))?);
    let (hash, behind) = rest.strip_prefix(':')?.split_at_checked(HASH_LENGTH)?;
    Some((path, hash, behind))
}

/// Whether a wait node takes an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has not begun to wait.
    Ahead,
    /// It waits.
    Waiting,
    /// It is settled, or will never wait: its run is over, is being undone, or has gone past it.
    Past,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ahead => "ahead",
            Self::Waiting => "waiting",
            Self::Past => "past",
        })
    }
}

/// Where the wait node at a path stands in a run.
#[must_use]
pub fn standing(state: &RunState, path: &str) -> Standing {
    if state.status.is_terminal() || state.unwinding.is_some() {
        return Standing::Past;
    }
    match state.nodes.get(path) {
        Some(node) if node.is_open() => Standing::Waiting,
        Some(_) => Standing::Past,
        None if is_under_way(state, path::prefix(path)) => Standing::Ahead,
        None => Standing::Past,
    }
}

/// Whether the graph whose paths begin so is one that nodes may still begin in.
fn is_under_way(state: &RunState, prefix: &str) -> bool {
    let Some((node, index)) = path::owner(prefix) else { return true };
    let scope = state.nodes.get(node).filter(|node| node.is_open()).and_then(|node| node.scope.as_ref());
    // An item that is to be done again begins anew.
    scope.is_some_and(|scope| scope.running.contains(&index) || scope.again.contains(&index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_placeholders_of_the_run_are_filled() {
        let placeholders = Placeholders { seed: 7, prefix: "each/3/" };
        let own = placeholders.of("ok");
        assert_eq!(own, Placeholders { seed: 7, prefix: "each/3/" }.of("ok"));
        let others = [
            Placeholders { seed: 8, prefix: "each/3/" }.of("ok"),
            own.replace("each/3", "each/4"),
            own.replace(":resume:", ":resume:meshhook:resume:x"),
            format!("{PREFIX}ok:{}", "0".repeat(HASH_LENGTH)),
            own[..own.len() - 1].to_owned(),
            format!("{PREFIX}ok:é{}", "0".repeat(HASH_LENGTH - 1)),
            PREFIX.to_owned(),
        ];
        for other in others {
            assert_eq!(fill(&other, 7, |_| "URL".to_owned()), other);
            let nested = format!("{PREFIX}{other} {own}/tail{own}");
            let filled = fill(&nested, 7, |path| format!("<{path}>"));
            assert_eq!(filled, format!("{PREFIX}{other} <each/3/ok>/tail<each/3/ok>"));
        }
    }
}
