//! A table that several transactions see differently: READ COMMITTED, row by row.
//!
//! A row has what was committed last and at most one change that was not; whoever made that change holds the row, and so
//! does whoever locked it. What a statement sees is what its transaction sees at that moment.

use std::collections::BTreeMap;

/// A transaction.
pub type Tx = u32;

#[derive(Clone, Debug)]
struct Row<V> {
    committed: Option<V>,
    /// What it becomes if that transaction commits; nothing where it deletes the row.
    changed: Option<(Tx, Option<V>)>,
    locked: Option<Tx>,
}

/// Why a row cannot be inserted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Another transaction holds a row with this key: its end decides.
    Held,
    /// There is one.
    Taken,
}

/// A table.
#[derive(Clone, Debug)]
pub struct Table<K, V> {
    rows: BTreeMap<K, Row<V>>,
    touched: Vec<(Tx, K)>,
}

impl<K: Ord + Clone, V: Clone> Default for Table<K, V> {
    fn default() -> Self {
        Self { rows: BTreeMap::new(), touched: Vec::new() }
    }
}

impl<V> Row<V> {
    fn seen_by(&self, tx: Tx) -> Option<&V> {
        match &self.changed {
            Some((by, value)) if *by == tx => value.as_ref(),
            _ => self.committed.as_ref(),
        }
    }

    fn is_held_from(&self, tx: Tx) -> bool {
        let changer = self.changed.as_ref().map(|(by, _)| *by);
        changer.into_iter().chain(self.locked).any(|by| by != tx)
    }
}

impl<K: Ord + Clone, V: Clone> Table<K, V> {
    /// A row as a transaction sees it.
    pub fn get(&self, tx: Tx, key: &K) -> Option<&V> {
        self.rows.get(key)?.seen_by(tx)
    }

    /// The rows that a transaction sees.
    pub fn rows(&self, tx: Tx) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter().filter_map(move |(key, row)| Some((key, row.seen_by(tx)?)))
    }

    /// The rows from a key on that a transaction sees.
    pub fn rows_from(&self, tx: Tx, first: K) -> impl Iterator<Item = (&K, &V)> {
        self.rows.range(first..).filter_map(move |(key, row)| Some((key, row.seen_by(tx)?)))
    }

    /// The committed rows.
    pub fn committed(&self) -> impl DoubleEndedIterator<Item = (&K, &V)> {
        self.rows.iter().filter_map(|(key, row)| Some((key, row.committed.as_ref()?)))
    }

    /// A committed row.
    pub fn committed_row(&self, key: &K) -> Option<&V> {
        self.rows.get(key)?.committed.as_ref()
    }

    /// Whether another transaction holds the row: `SKIP LOCKED` passes over it, everybody else waits.
    pub fn is_held_from(&self, tx: Tx, key: &K) -> bool {
        self.rows.get(key).is_some_and(|row| row.is_held_from(tx))
    }

    /// `FOR UPDATE`, of a row that nobody else holds.
    pub fn lock(&mut self, tx: Tx, key: &K) {
        if let Some(row) = self.rows.get_mut(key) {
            row.locked = Some(tx);
            self.touched.push((tx, key.clone()));
        }
    }

    /// `INSERT` into a table with a unique key.
    pub fn insert(&mut self, tx: Tx, key: K, value: V) -> Result<(), Conflict> {
        if self.is_held_from(tx, &key) {
            return Err(Conflict::Held);
        }
        if self.get(tx, &key).is_some() {
            return Err(Conflict::Taken);
        }
        self.put(tx, key, Some(value));
        Ok(())
    }

    /// `UPDATE`, of a row that nobody else holds, or the second half of `INSERT … ON CONFLICT DO UPDATE`.
    pub fn update(&mut self, tx: Tx, key: K, value: V) {
        self.put(tx, key, Some(value));
    }

    /// `DELETE`, of a row that nobody else holds.
    pub fn delete(&mut self, tx: Tx, key: &K) {
        self.put(tx, key.clone(), None);
    }

    fn put(&mut self, tx: Tx, key: K, value: Option<V>) {
        self.touched.push((tx, key.clone()));
        let new = Row { committed: None, changed: None, locked: None };
        self.rows.entry(key).or_insert(new).changed = Some((tx, value));
    }

    /// Ends a transaction.
    pub fn end(&mut self, tx: Tx, commits: bool) {
        let Self { rows, touched } = self;
        touched.retain(|(by, key)| {
            if *by != tx {
                return true;
            }
            if let Some(row) = rows.get_mut(key) {
                row.locked = row.locked.filter(|by| *by != tx);
                if let Some((_, value)) = row.changed.take_if(|(by, _)| *by == tx)
                    && commits
                {
                    row.committed = value;
                }
                if row.committed.is_none() && row.changed.is_none() {
                    rows.remove(key);
                }
            }
            false
        });
    }
}
