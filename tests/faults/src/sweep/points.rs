//! The points of the extension, and how one is armed: by files in the cluster's data folder (`src/fault/armed.rs`).

use meshhook_testkit::{Cluster, install};
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// The same list that the extension is compiled with.
const SITES: &str = include_str!("../../../../src/fault/sites.txt");

/// A point, and the how manieth time it is reached.
#[derive(Clone, Debug)]
pub struct Crash {
    pub point: String,
    pub nth: u32,
}

/// Every point, in the order of the list.
pub fn all() -> Vec<String> {
    let names = SITES.lines().filter_map(|line| line.split_whitespace().next());
    names.flat_map(|site| ["before", "after"].map(|side| format!("{site}.{side}"))).collect()
}

/// The points of one database of a cluster.
pub struct Points<'a> {
    cluster: &'a Cluster,
    database: u32,
}

impl<'a> Points<'a> {
    pub fn of(cluster: &'a Cluster, database: &str) -> Self {
        let sql = "SELECT oid FROM pg_catalog.pg_database WHERE datname = $1";
        Points { cluster, database: cluster.superuser("postgres").value(sql, &[&database]) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.cluster.data_dir().join(name)
    }

    /// Makes a file that is there at once and whole, and is the server's.
    fn put(&self, name: &str, text: &str) {
        let new = self.file(&format!("{name}.new"));
        fs::write(&new, text).unwrap_or_else(|e| panic!("{}: {e}", new.display()));
        install::give_to_server(&new);
        fs::rename(&new, self.file(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    }

    fn take(&self, name: &str) -> Option<String> {
        let path = self.file(name);
        let text = fs::read_to_string(&path).ok()?;
        let _ = fs::remove_file(&path);
        Some(text)
    }

    /// From now on reaching the point ends the server, once.
    pub fn arm(&self, crash: &Crash) {
        self.put("meshhook_fault", &format!("{} {} {}", crash.point, crash.nth, self.database));
    }

    /// Whether it did; disarms what it has not reached.
    pub fn has_crashed(&self) -> bool {
        self.take("meshhook_fault").is_none()
    }

    /// Notes from now on which points are reached.
    pub fn watch(&self) {
        self.put("meshhook_reached", "");
    }

    /// How often each was.
    pub fn reached(&self) -> BTreeMap<String, u32> {
        let mut counts = BTreeMap::new();
        let mine = format!("{} ", self.database);
        for point in self.take("meshhook_reached").unwrap_or_default().lines() {
            if let Some(point) = point.strip_prefix(&mine) {
                *counts.entry(point.to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// Plants a bug.
    pub fn plant(&self, bug: &str) {
        self.put("meshhook_bug", bug);
    }
}
