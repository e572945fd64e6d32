//! Who was given what, compared with what there is; and how what is wrong came about.

use super::load::{Load, is_of};
use super::reader::{Source, Tail};
use super::writer::Ledger;
use meshhook_testkit::order::{Finding, Log, Message, Written, report};
use std::collections::HashMap;
use std::sync::Arc;

/// Which of two members a stream belongs to, as Message DB defines it, without asking the extension.
const STREAMS: &str = "SELECT name, \
     abs(('x' || left(md5(split_part(split_part(name, '-', 2), '+', 1)), 16))::bit(64)::bigint) FROM meshhook.stream";
const MESSAGES: &str = "SELECT m.id, s.name, m.position, m.global_position \
     FROM meshhook.message m JOIN meshhook.stream s USING (project_id, stream_id)";

/// What there is once the writers have ended.
pub struct Truth {
    /// The messages.
    pub log: Log,
    /// The hash of each stream's cardinal id, without its sign.
    hashes: HashMap<Arc<str>, i64>,
}

impl Truth {
    /// Reads the tables.
    pub fn of(load: &Load) -> Truth {
        let mut admin = load.db.admin();
        let rows = admin.rows(STREAMS, &[]);
        let hashes = rows.iter().map(|row| (load.name(row.get(0)), row.get(1))).collect();
        let rows = admin.rows(MESSAGES, &[]);
        let message = |row: &postgres::Row| Message {
            id: row.get(0),
            stream: load.name(row.get(1)),
            position: row.get(2),
            global_position: row.get(3),
        };
        Truth { log: Log::new(rows.iter().map(message).collect()), hashes }
    }

    /// What is wrong with what a tail was given.
    pub fn findings(&self, tail: &Tail) -> Vec<Finding> {
        let wanted = |message: &Message| match &tail.source {
            Source::All | Source::Unguarded => true,
            Source::Category(category) | Source::MessageStore(category) => is_of(&message.stream, category),
            Source::Consumer { category, member, size } => {
                is_of(&message.stream, category)
                    && self.hashes.get(&message.stream).map(|hash| hash % i64::from(*size))
                        == Some(i64::from(*member))
            }
        };
        self.log.check_reader(wanted, &tail.delivered)
    }

    /// Demands that the writers were told the truth, and that it is in order.
    pub fn assert_written(&self, load: &Load, ledgers: &[Ledger]) {
        let mut findings = self.log.check();
        let written: Vec<Written> =
            ledgers.iter().flat_map(|ledger| ledger.written.iter().cloned()).collect();
        findings.extend(self.log.check_writers(&written));
        let story = |finding: &Finding| story(load, ledgers, finding, None);
        assert!(findings.is_empty(), "the store: {}", report(&findings, story));
    }

    /// Demands that each tail was given what it wants, each message once and in order.
    pub fn assert_sound(&self, load: &Load, ledgers: &[Ledger], tails: &[Tail]) {
        let mut faults = String::new();
        for tail in tails {
            let findings = self.findings(tail);
            if !findings.is_empty() {
                let story = |finding: &Finding| story(load, ledgers, finding, Some(tail));
                faults.push_str(&format!("{:?}: {}", tail.source, report(&findings, story)));
            }
        }
        assert!(faults.is_empty(), "{faults}");
    }
}

/// How it came about: who wrote the message and when, and which read went past it.
pub fn story(load: &Load, ledgers: &[Ledger], finding: &Finding, tail: Option<&Tail>) -> String {
    let id = finding.message.id;
    let (writer, number) = Load::writer_of(id);
    let transaction = usize::try_from(writer)
        .ok()
        .filter(|_| id == load.id(writer, number))
        .and_then(|writer| ledgers.get(writer))
        .and_then(|ledger| ledger.transactions.iter().find(|one| (one.first..one.end).contains(&number)));
    let written = transaction.map_or_else(
        || "\n    not by any of these writers".to_owned(),
        |one| {
            let commit = one.committing.map_or_else(|| "never".to_owned(), |at| format!("{at:.6?}"));
            format!(
                "\n    message {number} of writer {writer}: began {:.6?}, commit {commit}, ended {:.6?}",
                one.began, one.ended
            )
        },
    );
    let position = finding.message.global_position;
    let past = tail.and_then(|tail| tail.reads.iter().find(|read| read.through >= position));
    let past = past.map_or_else(String::new, |read| {
        format!("\n    read from {} through {} at {:.6?}", read.from, read.through, read.at)
    });
    format!("{written}{past}")
}
