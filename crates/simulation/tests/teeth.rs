//! What is done wrong on purpose is found, and shrunk to something that can be read.

use meshhook_simulation::client::Op;
use meshhook_simulation::history::{Case, Told};
use meshhook_simulation::search::search;
use meshhook_simulation::workflow::{Kind, Luck, Shape};
use meshhook_simulation::world::Bug;

/// Most histories that a search may take. The rarest bug needs some thousand.
const HISTORIES: u32 = 20_000;

/// A bug is found, whatever the seed; nothing is wrong with the same history without it.
fn is_found(bug: Bug) {
    for seed in 1..=3 {
        let Some(found) = search(Some(bug), HISTORIES, seed) else {
            panic!("{bug:?} is not found in {HISTORIES} histories of seed {seed}");
        };
        let (case, tried) = (&found.case, found.tried);
        println!("{bug:?}: history {tried}, {} nodes, {} choices", case.parent.len(), case.schedule.len());
        println!("{}", Told(case, Some(bug)));
        assert!(Told(case, None).to_string().ends_with("nothing is wrong\n"), "{}", Told(case, None));
    }
}

#[test]
fn a_report_without_its_token_is_found() {
    is_found(Bug::CompletionWithoutFencing);
}

#[test]
fn jobs_behind_the_commit_of_their_events_are_found() {
    is_found(Bug::JobsApart);
}

#[test]
fn deleting_inbox_rows_that_were_not_read_is_found() {
    is_found(Bug::InboxEmptied);
}

#[test]
fn fencing_tokens_that_come_again_are_found() {
    is_found(Bug::TokensAgain);
}

#[test]
fn believing_what_is_remembered_is_found() {
    is_found(Bug::MemoryUnchecked);
}

#[test]
fn a_start_without_its_key_is_found() {
    is_found(Bug::StartWithoutKey);
}

#[test]
fn turns_that_lock_nothing_are_found() {
    is_found(Bug::RunsUnlocked);
}

#[test]
fn effects_that_commit_before_their_event_are_found() {
    is_found(Bug::EffectsApart);
}

#[test]
fn a_report_in_two_transactions_is_found() {
    is_found(Bug::ReportApart);
}

#[test]
fn jobs_of_ended_runs_are_found() {
    is_found(Bug::EndedRunsServed);
}

/// It takes 20,000 histories and more to find this one: it is told.
#[test]
fn what_is_left_from_before_a_redrive_is_taken_back() {
    let node = |kind, luck| vec![Shape { kind, luck, after: vec![0] }];
    let (parent, child) = (node(Kind::Sql, Luck::Fails(1)), node(Kind::Task, Luck::Fails(0)));
    let scripts = [vec![Op::Start(0), Op::Cancel(0)], vec![Op::Redrive(0)]];
    let schedule = vec![98, 223, 18, 35, 72, 159, 145, 0];
    let case = Case { parent, child, input: 1, scripts, schedule };
    let broken = Told(&case, Some(Bug::LeftJobsStay)).to_string();
    assert!(broken.contains("a turn cannot insert timers: Waits"), "{broken}");
    let sound = Told(&case, None).to_string();
    assert!(sound.ends_with("nothing is wrong\n"), "{sound}");
}
