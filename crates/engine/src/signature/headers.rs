//! Looking up request headers.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;

/// A request's headers as the verifier sees them: names in lower case, one value per name (a
/// repeated header joined by `", "`).
pub trait Headers {
    /// The value of the header `name` (lower case).
    fn get(&self, name: &str) -> Option<&str>;
}

/// The form `receive_webhook` takes; values that are not strings count as absent.
impl Headers for serde_json::Map<String, serde_json::Value> {
    fn get(&self, name: &str) -> Option<&str> {
        serde_json::Map::get(self, name).and_then(serde_json::Value::as_str)
    }
}

impl Headers for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<&str> {
        BTreeMap::get(self, name).map(String::as_str)
    }
}

impl<S: BuildHasher> Headers for HashMap<String, String, S> {
    fn get(&self, name: &str) -> Option<&str> {
        HashMap::get(self, name).map(String::as_str)
    }
}

/// Pairs of name and value, such as [`sign`](super::sign) returns; the first of a name counts.
impl<N: AsRef<str>, V: AsRef<str>> Headers for [(N, V)] {
    fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| n.as_ref() == name).map(|(_, v)| v.as_ref())
    }
}

impl<N: AsRef<str>, V: AsRef<str>> Headers for Vec<(N, V)> {
    fn get(&self, name: &str) -> Option<&str> {
        Headers::get(self.as_slice(), name)
    }
}
