//! Tables past the executor: a row found by its key, or inserted, without a plan.
//!
//! An append is one probe and one insert, a read is one walk along an index; going through SPI would cost more than
//! both, could plan them wrongly, and cannot read under two snapshots at once. Decides nothing. Everything runs as
//! whoever is the current user with no check of rights: callers have switched to the owner role.
//!
//! What is open here is closed on drop, but not while an error unwinds: the abort that follows releases it all.

use std::cell::Cell;
use std::ffi::CStr;

use pgrx::datum::FromDatum;
use pgrx::pg_sys;

use crate::error::bug;

thread_local! {
    /// The schema's object id as it was found last.
    static SCHEMA: Cell<pg_sys::Oid> = const { Cell::new(pg_sys::InvalidOid) };
}

/// Where a table or an index is found: names of schema `meshhook`. Looked up anew each time, for object ids change
/// under REINDEX CONCURRENTLY.
fn lookup(name: &CStr) -> pg_sys::Oid {
    // SAFETY: catalogue look-ups inside a transaction.
    unsafe {
        let oid = pg_sys::get_relname_relid(name.as_ptr(), SCHEMA.get());
        if oid != pg_sys::InvalidOid {
            return oid;
        }
        SCHEMA.set(pg_sys::get_namespace_oid(c"meshhook".as_ptr(), false));
        let oid = pg_sys::get_relname_relid(name.as_ptr(), SCHEMA.get());
        if oid == pg_sys::InvalidOid {
            bug(&format!("meshhook.{} does not exist", name.to_string_lossy()));
        }
        oid
    }
}

/// The object id of a table or sequence of schema `meshhook`: another one than before means that the extension was made
/// anew.
pub(super) fn oid(name: &CStr) -> pg_sys::Oid {
    lookup(name)
}

/// An open table.
#[derive(Debug)]
pub(super) struct Table {
    relation: pg_sys::Relation,
}

impl Table {
    /// Opens a table of schema `meshhook` to read, or to insert.
    pub fn open(name: &CStr, insert: bool) -> Self {
        let mode = if insert { pg_sys::RowExclusiveLock } else { pg_sys::AccessShareLock };
        // SAFETY: inside a transaction; an unknown name raises.
        Self { relation: unsafe { pg_sys::table_open(lookup(name), mode as pg_sys::LOCKMODE) } }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: open; its lock stays until the transaction ends.
            unsafe { pg_sys::table_close(self.relation, pg_sys::NoLock as pg_sys::LOCKMODE) }
        }
    }
}

/// A snapshot, held until dropped.
#[derive(Debug)]
pub(super) struct Snapshot(pg_sys::Snapshot);

impl Snapshot {
    /// As of now, whatever the isolation level.
    pub fn latest() -> Self {
        // SAFETY: inside a transaction.
        Self(unsafe { pg_sys::RegisterSnapshot(pg_sys::GetLatestSnapshot()) })
    }

    /// The one the whole transaction is held to; `None` where each statement has its own.
    pub fn of_transaction() -> Option<Self> {
        // SAFETY: a plain global; inside a transaction.
        unsafe {
            (pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32)
                .then(|| Self(pg_sys::RegisterSnapshot(pg_sys::GetTransactionSnapshot())))
        }
    }

    /// For SPI.
    pub fn raw(&self) -> pg_sys::Snapshot {
        self.0
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: registered by the constructor.
            unsafe { pg_sys::UnregisterSnapshot(self.0) }
        }
    }
}

/// One condition on a column of an index, by its number there.
#[derive(Clone, Copy, Debug)]
pub(super) enum Key {
    /// `integer =`
    Int4(i16, i32),
    /// `bigint =`
    Int8(i16, i64),
    /// `bigint >=`
    AtLeast(i16, i64),
    /// `bigint <=`
    AtMost(i16, i64),
    /// `uuid =`
    Uuid(i16, pg_sys::Datum),
    /// `text =`, in collation "C"
    Text(i16, pg_sys::Datum),
}

impl Key {
    fn init(self, entry: &mut pg_sys::ScanKeyData) {
        let (column, strategy, procedure, argument) = match self {
            Key::Int4(column, value) => {
                (column, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT4EQ, pg_sys::Datum::from(value))
            }
            Key::Int8(column, value) => {
                (column, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT8EQ, pg_sys::Datum::from(value))
            }
            Key::AtLeast(column, value) => {
                (column, pg_sys::BTGreaterEqualStrategyNumber, pg_sys::F_INT8GE, pg_sys::Datum::from(value))
            }
            Key::AtMost(column, value) => {
                (column, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_INT8LE, pg_sys::Datum::from(value))
            }
            Key::Uuid(column, value) => (column, pg_sys::BTEqualStrategyNumber, pg_sys::F_UUID_EQ, value),
            Key::Text(column, value) => (column, pg_sys::BTEqualStrategyNumber, pg_sys::F_TEXTEQ, value),
        };
        // SAFETY: the entry is ours; the procedures belong to the default B-tree families of these types.
        unsafe {
            pg_sys::ScanKeyInit(
                entry,
                column,
                strategy as pg_sys::StrategyNumber,
                pg_sys::Oid::from(procedure),
                argument,
            );
        }
    }
}

/// Most conditions a scan can have.
const MAX_KEYS: usize = 6;

/// A walk along an index.
pub(super) struct Scan<'a> {
    table: &'a Table,
    _snapshot: &'a Snapshot,
    index: pg_sys::Relation,
    scan: pg_sys::IndexScanDesc,
    slot: *mut pg_sys::TupleTableSlot,
    direction: pg_sys::ScanDirection::Type,
}

impl<'a> Scan<'a> {
    /// Begins a walk over the rows that the snapshot shows and the keys allow, backwards if said so.
    pub fn begin(
        table: &'a Table,
        index: &CStr,
        snapshot: &'a Snapshot,
        keys: &[Key],
        backwards: bool,
    ) -> Self {
        let mut entries = [pg_sys::ScanKeyData::default(); MAX_KEYS];
        let count = keys.len().min(MAX_KEYS);
        entries.iter_mut().zip(keys).for_each(|(entry, key)| key.init(entry));
        let direction = if backwards {
            pg_sys::ScanDirection::BackwardScanDirection
        } else {
            pg_sys::ScanDirection::ForwardScanDirection
        };
        // SAFETY: table and snapshot are open for 'a; the access method copies the keys.
        unsafe {
            let index = pg_sys::index_open(lookup(index), pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            #[cfg(not(feature = "pg18"))]
            let scan = pg_sys::index_beginscan(table.relation, index, snapshot.0, count as i32, 0);
            #[cfg(feature = "pg18")]
            let scan = pg_sys::index_beginscan(
                table.relation,
                index,
                snapshot.0,
                std::ptr::null_mut(),
                count as i32,
                0,
            );
            pg_sys::index_rescan(scan, entries.as_mut_ptr(), count as i32, std::ptr::null_mut(), 0);
            let slot = pg_sys::table_slot_create(table.relation, std::ptr::null_mut());
            Self { table, _snapshot: snapshot, index, scan, slot, direction }
        }
    }

    /// Goes to the next row; false at the end. Cancellation gets through.
    pub fn next(&mut self) -> bool {
        pgrx::check_for_interrupts!();
        // SAFETY: the scan is open and the slot of the table's kind.
        unsafe { pg_sys::index_getnext_slot(self.scan, self.direction, self.slot) }
    }

    /// A column of the current row that cannot be null.
    pub fn must<T: FromDatum>(&self, column: i32) -> T {
        let (datum, is_null) = self.datum(column);
        // SAFETY: the column has the type asked for.
        unsafe { T::from_datum(datum, is_null) }
            .unwrap_or_else(|| bug(&format!("column {column} of a row is unexpectedly null")))
    }

    /// A column of the current row as it lies there; valid until the next row.
    pub fn datum(&self, column: i32) -> (pg_sys::Datum, bool) {
        let mut is_null = false;
        // SAFETY: the slot holds a row of the table.
        let datum = unsafe { pg_sys::slot_getattr(self.slot, column, &raw mut is_null) };
        (datum, is_null)
    }

    /// Whether another snapshot shows the current row too.
    pub fn visible_in(&self, snapshot: &Snapshot) -> bool {
        // SAFETY: the slot holds a row of the table, with its buffer.
        unsafe { pg_sys::table_tuple_satisfies_snapshot(self.table.relation, self.slot, snapshot.0) }
    }

    /// Whether the current row was inserted by the transaction under way.
    pub fn is_own(&self) -> bool {
        let mut is_null = false;
        // SAFETY: a system column of a row that has its buffer.
        unsafe {
            let xmin =
                pg_sys::slot_getsysattr(self.slot, pg_sys::MinTransactionIdAttributeNumber, &raw mut is_null);
            let xid = pg_sys::TransactionId::from_datum(xmin, is_null);
            xid.is_some_and(|xid| pg_sys::TransactionIdIsCurrentTransactionId(xid))
        }
    }
}

impl Drop for Scan<'_> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // SAFETY: opened by `begin`; locks stay until the transaction ends.
            unsafe {
                pg_sys::ExecDropSingleTupleTableSlot(self.slot);
                pg_sys::index_endscan(self.scan);
                pg_sys::index_close(self.index, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
        }
    }
}

/// Inserts rows into one table, through its constraints, indexes and triggers, as logical replication does.
pub(super) struct Inserter<'a> {
    _table: &'a Table,
    state: *mut pg_sys::EState,
    target: *mut pg_sys::ResultRelInfo,
    slot: *mut pg_sys::TupleTableSlot,
    previous: pg_sys::MemoryContext,
}

impl<'a> Inserter<'a> {
    /// Opens the table's indexes.
    pub fn begin(table: &'a Table) -> Self {
        // SAFETY: inside a transaction; everything is allocated in the executor state's context, which lives until
        // `finish` or the transaction's abort.
        unsafe {
            let previous = pg_sys::CurrentMemoryContext;
            let state = pg_sys::CreateExecutorState();
            pg_sys::MemoryContextSwitchTo((*state).es_query_cxt);
            let target = pg_sys::palloc0(size_of::<pg_sys::ResultRelInfo>()).cast::<pg_sys::ResultRelInfo>();
            (*target).type_ = pg_sys::NodeTag::T_ResultRelInfo;
            pg_sys::InitResultRelInfo(target, table.relation, 0, std::ptr::null_mut(), 0);
            pg_sys::ExecOpenIndices(target, false);
            let slot =
                pg_sys::MakeSingleTupleTableSlot((*table.relation).rd_att, &raw const pg_sys::TTSOpsVirtual);
            pg_sys::AfterTriggerBeginQuery();
            pg_sys::MemoryContextSwitchTo(previous);
            Self { _table: table, state, target, slot, previous }
        }
    }

    /// Inserts a row: all columns in order, `None` is null.
    pub fn insert(&mut self, columns: &[Option<pg_sys::Datum>]) {
        // SAFETY: the slot has as many columns as the table; the datums live through the call.
        unsafe {
            pg_sys::MemoryContextSwitchTo((*self.state).es_query_cxt);
            pg_sys::ExecClearTuple(self.slot);
            let count = usize::try_from((*(*self.slot).tts_tupleDescriptor).natts).unwrap_or(0);
            if count != columns.len() {
                bug("a row has another number of columns than its table");
            }
            for (n, column) in columns.iter().enumerate() {
                *(*self.slot).tts_values.add(n) = column.unwrap_or(pg_sys::Datum::from(0));
                *(*self.slot).tts_isnull.add(n) = column.is_none();
            }
            pg_sys::ExecStoreVirtualTuple(self.slot);
            pg_sys::ExecSimpleRelationInsert(self.target, self.state, self.slot);
            let per_row = (*self.state).es_per_tuple_exprcontext;
            if !per_row.is_null() {
                pg_sys::MemoryContextReset((*per_row).ecxt_per_tuple_memory);
            }
            pg_sys::MemoryContextSwitchTo(self.previous);
        }
    }

    /// Fires what waits for the end of a statement and makes the rows visible to the next one.
    pub fn finish(self) {
        // SAFETY: closes what `begin` opened.
        unsafe {
            pg_sys::AfterTriggerEndQuery(self.state);
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
            pg_sys::ExecCloseIndices(self.target);
            pg_sys::FreeExecutorState(self.state);
            pg_sys::CommandCounterIncrement();
        }
    }
}
