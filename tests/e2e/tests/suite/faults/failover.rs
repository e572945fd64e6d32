//! The primary dies and a standby takes its place: what was replicated goes on there, whole.

use super::{PATIENCE, PAUSE, publish_orders};
use meshhook_e2e::load::{Ledger, configs, keep_starting, keep_working};
use meshhook_e2e::{APP, Database, EXECUTOR, Stop, counted, prepare};
use meshhook_testkit::{Cluster, history, wait_for};
use std::sync::atomic::{AtomicBool, Ordering};

/// A durable primary and its standby: what is not durable does not reach a standby.
fn pair(synchronous: bool) -> (Cluster, Cluster) {
    let primary = prepare(Cluster::builder().preload(true).kek(true).start());
    let standby = primary.standby();
    if synchronous {
        primary.set("synchronous_standby_names", "*");
        // The standby has copied the setting's absence.
        wait_for("the standby to be waited for", PATIENCE, || {
            primary
                .superuser("postgres")
                .value("SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'", &[])
        });
    }
    (primary, standby)
}

/// Keeps orders under load, kills the primary in the midst of it and has everybody go on at the promoted standby.
/// Returns what clients were told.
fn fail_over(primary: &Cluster, standby: &Cluster, before: impl FnOnce()) -> Ledger {
    let db = Database::create(primary, "failover");
    publish_orders(&db);
    let (ledger, starting, working) = (Ledger::default(), Stop::default(), Stop::default());
    let moved = AtomicBool::new(false);
    let here = |user| {
        let (old, new) = (configs(primary, user, "failover"), configs(standby, user, "failover"));
        let moved = &moved;
        move || if moved.load(Ordering::SeqCst) { new() } else { old() }
    };
    std::thread::scope(|scope| {
        let _work = working.at_end();
        scope.spawn(|| keep_working(here(EXECUTOR), &working));
        let starts = starting.at_end();
        let clients = ["a", "b"].map(|client| {
            let (server, ledger, starting) = (here(APP), &ledger, &starting);
            scope.spawn(move || keep_starting(server, "order", client, PAUSE, ledger, starting))
        });
        ledger.wait_more(60);
        before();
        ledger.wait_more(20);
        primary.kill9_postmaster();
        standby.promote();
        moved.store(true, Ordering::SeqCst);
        ledger.wait_more(60);
        drop(starts);
        for client in clients {
            client.join().expect("a client that goes on");
        }
        let mut admin = standby.superuser("failover");
        let open = "SELECT count(*) FROM meshhook.runs WHERE finished_at IS NULL";
        wait_for("every run to end", PATIENCE, || counted(&mut admin, open) == 0);
    });
    ledger
}

#[test]
fn a_synchronous_standby_takes_over_and_nothing_is_lost_or_doubled() {
    let (primary, standby) = pair(true);
    let ledger = fail_over(&primary, &standby, || ());
    let mut admin = standby.superuser("failover");
    let active: bool = admin.value("SELECT meshhook.is_active()", &[]);
    assert!(active, "a promoted standby is no copy: it acts by itself");
    ledger.check(&mut admin, "order");
}

#[test]
fn what_an_asynchronous_standby_was_not_sent_is_gone_as_a_whole() {
    let (primary, standby) = pair(false);
    let ledger = fail_over(&primary, &standby, || standby.cut_off());
    let mut admin = standby.superuser("failover");
    let (lost, doubled) = ledger.lost_and_doubled(&mut admin, "order");
    assert!(lost > 0, "the last starts were acknowledged and not sent");
    assert_eq!(doubled, 0);
    let sound = "SELECT count(*) FROM meshhook.runs WHERE status = 'succeeded'";
    let ended = history::check_all(&mut admin);
    assert_eq!(usize::try_from(counted(&mut admin, sound)), Ok(ended), "no run is there by half");
    assert_eq!(ledger.started() - lost, ended);
}
