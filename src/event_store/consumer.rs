//! Consumers: readers of a category whose positions the database keeps.
//!
//! A consumer has as many members as its group is large; a stream belongs to one of them by the hash of its cardinal
//! id. Each member's position is a row that is inserted, never updated, under a revision; the token a reader gets is
//! that revision, so a commit by somebody who has been overtaken is refused. A change of the size gives every member a
//! new revision and the lowest position of all, and keeps the old positions as a layer: what the old owner of a
//! stream had done is not delivered again.

use std::ffi::CStr;

use pgrx::prelude::*;
use pgrx::{IntoDatum, pg_sys};
use serde_json::Value;

use super::append::column as message;
use super::lock;
use super::native;
use super::read::{self, Filter, member_of};
use super::rows::{Call, returns_rows};
use super::sequence::Positions;
use super::streams::Stream;
use super::table::{Inserter, Key, Scan, Snapshot, Table};
use crate::error::{Refusal, bad_parameter, bug, refuse, required};
use crate::owner::as_owner;
use crate::project;
use crate::random;
use crate::spi::{self, Opaque, arg};

/// Largest group.
const MAX_GROUP: i32 = 1_024;
/// Longest name of a consumer, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// A reader that found nothing for itself moves its position past this many positions of others.
const SKIP: i64 = 1_000;

/// Columns of `consumer`.
mod column {
    pub const CONSUMER_ID: i32 = 2;
    pub const CATEGORY: i32 = 4;
    pub const GROUP_SIZE: i32 = 5;
    pub const LAYERS: i32 = 6;
}

/// A consumer's row.
struct Consumer {
    project: i32,
    id: i64,
    name: String,
    category: String,
    group_size: i32,
    /// Positions of earlier groups, newest first; see the module.
    layers: Vec<Vec<i64>>,
}

/// Where a member stands.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    revision: i64,
    position: i64,
}

impl Consumer {
    /// The consumer of a name, as a snapshot shows it: its places are to be read under the same one.
    fn find(snapshot: &Snapshot, project: i32, name: &str) -> Option<Self> {
        let table = Table::open(c"consumer", false);
        let text = name.into_datum().unwrap_or_else(|| bug("a text has no datum"));
        let keys = [Key::Int4(1, project), Key::Text(2, text)];
        let mut scan = Scan::begin(&table, c"consumer_name_key", snapshot, &keys, false);
        scan.next().then(|| Self {
            project,
            id: scan.must(column::CONSUMER_ID),
            name: name.to_owned(),
            category: scan.must(column::CATEGORY),
            group_size: scan.must(column::GROUP_SIZE),
            layers: layers_of(&Opaque::<3802>(scan.datum(column::LAYERS).0).text()),
        })
    }

    /// Makes a consumer if it is not there.
    fn ensure(project: i32, name: &str, category: &str, group_size: Option<i32>) {
        if Self::find(&Snapshot::latest(), project, name).is_some() {
            return;
        }
        if name.is_empty() || name.len() > MAX_NAME_BYTES {
            bad_parameter(format!("a consumer's name has 1 to {MAX_NAME_BYTES} bytes")).raise();
        }
        let size = group_size.unwrap_or(1);
        check_size(size);
        spi::exec(
            "INSERT INTO meshhook.consumer (project_id, name, category, group_size) VALUES ($1, $2, $3, $4)
             ON CONFLICT DO NOTHING",
            &[arg(project), arg(name.to_owned()), arg(category.to_owned()), arg(size)],
        );
    }

    fn must_find(snapshot: &Snapshot, project: i32, name: &str) -> Self {
        Self::find(snapshot, project, name).unwrap_or_else(|| {
            refuse(PgSqlErrorCode::ERRCODE_NO_DATA_FOUND, format!("consumer \"{name}\" does not exist"))
                .hint("read_consumer makes it.")
                .raise()
        })
    }

    fn check_member(&self, member: i32) {
        if !(0..self.group_size).contains(&member) {
            bad_parameter(format!("consumer \"{}\" has no member {member}", self.name))
                .detail(format!("Its group has {} members, counted from 0.", self.group_size))
                .hint("SELECT meshhook.resize_consumer(consumer, consumer_group_size) changes their number.")
                .raise();
        }
    }

    /// Where a member stands. Under the member's lock nobody moves it.
    fn place(&self, snapshot: &Snapshot, member: i32) -> Place {
        let table = Table::open(c"consumer_position", false);
        let keys = [Key::Int4(1, self.project), Key::Int8(2, self.id), Key::Int4(3, member)];
        let mut scan = Scan::begin(&table, c"consumer_position_pkey", snapshot, &keys, true);
        if !scan.next() {
            return Place::default();
        }
        Place { revision: scan.must(4), position: scan.must(5) }
    }

    /// Puts a member somewhere else, under its lock.
    fn put(&self, member: i32, before: Place, after: Place) {
        let table = Table::open(c"consumer_position", true);
        let mut inserter = Inserter::begin(&table);
        inserter.insert(&[
            self.project.into_datum(),
            self.id.into_datum(),
            member.into_datum(),
            after.revision.into_datum(),
            after.position.into_datum(),
            random::timestamptz(random::now_micros()).into_datum(),
        ]);
        inserter.finish();
        self.remove(member, before);
    }

    /// Takes the row of a place away. Its whole key is known, so no dead row of an earlier one is walked over.
    fn remove(&self, member: i32, place: Place) {
        spi::exec(
            "DELETE FROM meshhook.consumer_position
             WHERE project_id OPERATOR(pg_catalog.=) $1 AND consumer_id OPERATOR(pg_catalog.=) $2
               AND member OPERATOR(pg_catalog.=) $3 AND revision OPERATOR(pg_catalog.=) $4",
            &[arg(self.project), arg(self.id), arg(member), arg(place.revision)],
        );
    }

    /// Whether a message was done before the group had its size, by whoever its stream belonged to then.
    fn is_done(&self, stream: &Stream, global_position: i64) -> bool {
        self.layers.iter().any(|layer| {
            let size = i64::try_from(layer.len()).unwrap_or(i64::MAX);
            let owner = usize::try_from(member_of(stream.member_hash.unwrap_or(0), size)).unwrap_or(0);
            layer.get(owner).is_some_and(|position| global_position <= *position)
        })
    }

    fn lock(&self, member: i32) {
        lock::group_shared(self.id);
        lock::member(self.id, member.cast_unsigned());
    }
}

/// Refuses, with 25006, what writes in a read-only transaction and on a standby, before a lock is taken.
fn prevent_read_only(what: &CStr) {
    // SAFETY: a NUL-terminated string; raises.
    unsafe { pg_sys::PreventCommandIfReadOnly(what.as_ptr()) }
}

fn layers_of(text: &str) -> Vec<Vec<i64>> {
    serde_json::from_str(text).unwrap_or_else(|_| bug("the layers of a consumer are unreadable"))
}

fn check_size(size: i32) {
    if !(1..=MAX_GROUP).contains(&size) {
        bad_parameter(format!("consumer_group_size must be from 1 to {MAX_GROUP}")).raise();
    }
}

returns_rows! {
    /// `read_consumer(consumer, category, batch_size, member, size, types, correlation)`; see the COMMENT.
    pg_finfo_meshhook_read_consumer, meshhook_read_consumer, read_consumer
}

fn read_consumer(call: Call) {
    let name: String = required("consumer", call.arg(0));
    let category: Option<String> = call.arg(1);
    let category = native::check_category("category", category.as_deref());
    native::check_reserved(category);
    let size = native::batch(call.arg(2));
    let member = call.arg::<i32>(3).unwrap_or(0);
    let group_size = call.arg::<i32>(4);
    let correlation: Option<String> = call.arg(6);
    let correlation = correlation.map(|name| native::check_category("correlation", Some(&name)).to_owned());
    let filter = Filter { types: read::texts(call.arg(5)), correlation, member: None };
    let mut output = call.output();
    as_owner(|caller| {
        let project = project::current(caller).0;
        Consumer::ensure(project, &name, category, group_size);
        // One snapshot, the latest: size, layers and position belong together, whatever the transaction is held to.
        let snapshot = Snapshot::latest();
        let consumer = Consumer::must_find(&snapshot, project, &name);
        check_agreement(&consumer, category, group_size);
        consumer.check_member(member);
        let place = consumer.place(&snapshot, member);
        output.add_column(place.revision);
        let mut left = size;
        let walked = read::walk(
            consumer.project,
            Some(category),
            place.position + 1,
            &filter,
            u64::MAX,
            &mut |row: &Scan, stream| {
                // Streams without an id have no hash; the first member has them, so that none is left out.
                let owner = member_of(stream.member_hash.unwrap_or(0), i64::from(consumer.group_size));
                if owner == i64::from(member) && !consumer.is_done(stream, row.must(message::GLOBAL_POSITION))
                {
                    output.push_message(row, stream);
                    left -= 1;
                }
                left > 0
            },
        );
        // Chosen by type or correlation, there may be others that somebody is at.
        let all = filter.types.is_none() && filter.correlation.is_none();
        if all && left == size && walked.through - place.position > SKIP {
            skip(&consumer, member, place, walked.through);
        }
    });
}

fn check_agreement(consumer: &Consumer, category: &str, group_size: Option<i32>) {
    let name = &consumer.name;
    if consumer.category != category {
        bad_parameter(format!("consumer \"{name}\" does not read category \"{category}\""))
            .detail(format!("It reads \"{}\".", consumer.category))
            .hint("Another category needs another consumer.")
            .raise();
    }
    if group_size.is_some_and(|size| size != consumer.group_size) {
        refuse(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            format!("the group of consumer \"{name}\" has another size"),
        )
        .detail(format!("It has {} members.", consumer.group_size))
        .hint("SELECT meshhook.resize_consumer(consumer, consumer_group_size) changes it for all at once.")
        .raise();
    }
}

/// Moves a member past what is not its own, so that it is not walked over again and again. Only where it can be
/// written, and if nobody else moves it.
fn skip(consumer: &Consumer, member: i32, seen: Place, through: i64) {
    // SAFETY: a plain global of this process.
    if unsafe { pg_sys::XactReadOnly } {
        return;
    }
    consumer.lock(member);
    if consumer.place(&Snapshot::latest(), member).revision == seen.revision {
        consumer.put(member, seen, Place { revision: seen.revision + 1, position: through });
    }
}

/// Moves a consumer on; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn commit_consumer(
    consumer: Option<&str>,
    to_position: Option<i64>,
    token: default!(Option<i64>, "NULL"),
    consumer_group_member: default!(Option<i32>, "0"),
) -> i64 {
    let (name, to) = (required("consumer", consumer), required("to_position", to_position));
    let member = consumer_group_member.unwrap_or(0);
    prevent_read_only(c"commit_consumer()");
    as_owner(|caller| {
        let consumer = Consumer::must_find(&Snapshot::latest(), project::current(caller).0, name);
        consumer.lock(member);
        // Nobody changes the size while the group is locked.
        let snapshot = Snapshot::latest();
        let consumer = Consumer::must_find(&snapshot, consumer.project, name);
        consumer.check_member(member);
        let place = consumer.place(&snapshot, member);
        if token.is_some_and(|token| token != place.revision) {
            overtaken(&consumer, member, place).raise();
        }
        if to < place.position {
            bad_parameter(format!("consumer \"{name}\" is already at position {}", place.position))
                .hint("SELECT meshhook.seek_consumer(consumer, to_position) goes back.")
                .raise();
        }
        // Not the safe position: it goes down when a transaction that is open reaches a further category.
        let assigned = Positions::find().last_assigned();
        if to > assigned {
            bad_parameter(format!("position {to} has not been assigned yet"))
                .detail(format!("The last one is {assigned}."))
                .hint("Commit the global position of a message that was read.")
                .raise();
        }
        let after = Place { revision: place.revision + 1, position: to };
        consumer.put(member, place, after);
        after.revision
    })
}

fn overtaken(consumer: &Consumer, member: i32, place: Place) -> Refusal {
    refuse(
        PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
        format!("member {member} of consumer \"{}\" was moved by somebody else", consumer.name),
    )
    .detail(format!("It is at position {} now, with token {}.", place.position, place.revision))
    .hint("Read again; what was read before may be somebody else's now.")
}

/// The places of all members, under the lock of the group.
fn places(consumer: &Consumer) -> Vec<Place> {
    let snapshot = Snapshot::latest();
    (0..consumer.group_size).map(|member| consumer.place(&snapshot, member)).collect()
}

/// Puts all members anew, under the lock of the group: every token given before is worth nothing.
fn replace(consumer: &Consumer, before: &[Place], size: i32, position: i64) {
    let revision = before.iter().map(|place| place.revision).max().unwrap_or(0) + 1;
    for (member, place) in (0i32..).zip(before).filter(|(member, _)| *member >= size) {
        consumer.remove(member, *place);
    }
    for (member, index) in (0..size).zip(0usize..) {
        let place = before.get(index).copied().unwrap_or_default();
        consumer.put(member, place, Place { revision, position });
    }
}

/// Changes the size of a consumer's group; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn resize_consumer(consumer: Option<&str>, consumer_group_size: Option<i32>) {
    let (name, size) = (required("consumer", consumer), required("consumer_group_size", consumer_group_size));
    check_size(size);
    as_owner(|caller| {
        let consumer = locked_group(project::current(caller).0, name);
        let before = places(&consumer);
        let position = before.iter().map(|place| place.position).min().unwrap_or(0);
        let mut layers = vec![before.iter().map(|place| place.position).collect::<Vec<_>>()];
        layers.extend(consumer.layers.iter().cloned());
        // Below the lowest position nothing is delivered anyway.
        layers.retain(|layer| layer.iter().any(|done| *done > position));
        replace(&consumer, &before, size, position);
        update(&consumer, size, &layers);
    });
}

/// Puts a consumer somewhere else; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn seek_consumer(consumer: Option<&str>, to_position: Option<i64>) {
    let (name, position) = (required("consumer", consumer), required("to_position", to_position));
    if position < 0 {
        bad_parameter("to_position cannot be negative").raise();
    }
    as_owner(|caller| {
        let consumer = locked_group(project::current(caller).0, name);
        replace(&consumer, &places(&consumer), consumer.group_size, position);
        update(&consumer, consumer.group_size, &[]);
    });
}

/// A consumer whose members nobody moves until the transaction ends.
fn locked_group(project: i32, name: &str) -> Consumer {
    prevent_read_only(c"changing a consumer");
    let found = Consumer::must_find(&Snapshot::latest(), project, name);
    lock::group_exclusive(found.id);
    Consumer::must_find(&Snapshot::latest(), project, name)
}

fn update(consumer: &Consumer, size: i32, layers: &[Vec<i64>]) {
    spi::exec(
        "UPDATE meshhook.consumer SET group_size = $3, layers = $4::pg_catalog.jsonb
         WHERE project_id OPERATOR(pg_catalog.=) $1 AND consumer_id OPERATOR(pg_catalog.=) $2",
        &[arg(consumer.project), arg(consumer.id), arg(size), arg(Value::from(layers.to_vec()).to_string())],
    );
}

/// Forgets a consumer; see the COMMENT.
#[pg_extern]
#[search_path(pg_catalog, pg_temp)]
fn drop_consumer(consumer: Option<&str>) {
    let name = required("consumer", consumer);
    as_owner(|caller| {
        let consumer = locked_group(project::current(caller).0, name);
        let key = [arg(consumer.project), arg(consumer.id)];
        spi::exec(
            "DELETE FROM meshhook.consumer_position
             WHERE project_id OPERATOR(pg_catalog.=) $1 AND consumer_id OPERATOR(pg_catalog.=) $2",
            &key,
        );
        spi::exec(
            "DELETE FROM meshhook.consumer
             WHERE project_id OPERATOR(pg_catalog.=) $1 AND consumer_id OPERATOR(pg_catalog.=) $2",
            &key,
        );
    });
}
