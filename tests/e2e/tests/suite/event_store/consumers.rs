//! Consumers: the database keeps their positions; what was not committed comes again, what was does not.

use super::{Placed, append, append_all, both, last_drawn};
use meshhook_e2e::{Database, counted};
use meshhook_testkit::Session;

/// What a read of a consumer gives: global positions, and the token of the read.
#[track_caller]
fn read(session: &mut Session, arguments: &str) -> (Vec<i64>, Option<i64>) {
    let rows =
        session.rows(&format!("SELECT global_position, token FROM meshhook.read_consumer({arguments})"), &[]);
    let tokens: Vec<i64> = rows.iter().map(|row| row.get(1)).collect();
    assert!(tokens.iter().all(|token| *token == tokens[0]), "one read has one token: {tokens:?}");
    (rows.iter().map(|row| row.get(0)).collect(), tokens.first().copied())
}

#[track_caller]
fn commit(session: &mut Session, position: i64, token: Option<i64>) -> i64 {
    session.value("SELECT meshhook.commit_consumer('worker', $1, $2)", &[&position, &token])
}

/// Appends this many messages to streams of category `work`.
fn work(session: &mut Session, count: usize) -> Vec<i64> {
    (0..count).map(|n| append(session, &format!("work-{}", n % 7)).global).collect()
}

#[test]
fn what_was_not_committed_is_read_again() {
    both("again", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        let all = work(&mut app, 10);
        let mut first = db.app();
        let (seen, token) = read(&mut first, "'worker', 'work', 4");
        assert_eq!(seen, all[..4]);
        // Killed with work done and nothing committed; then with the commit under way.
        let pid = first.backend_pid();
        admin.value::<bool>("SELECT pg_terminate_backend($1, 10000)", &[&pid]);
        let mut second = db.app();
        assert_eq!(read(&mut second, "'worker', 'work', 4"), (all[..4].to_vec(), token));
        second.exec("BEGIN");
        commit(&mut second, seen[3], token);
        let pid = second.backend_pid();
        admin.value::<bool>("SELECT pg_terminate_backend($1, 10000)", &[&pid]);
        let mut third = db.app();
        assert_eq!(read(&mut third, "'worker', 'work', 4"), (all[..4].to_vec(), token));
        let next = commit(&mut third, seen[3], token);
        let (seen, token) = read(&mut third, "'worker', 'work'");
        assert_eq!(
            (seen.as_slice(), token),
            (&all[4..], Some(next)),
            "the token is the one that was returned"
        );
        // Without a token too, and only part of what was read.
        commit(&mut third, seen[1], None);
        assert_eq!(read(&mut third, "'worker', 'work'").0, all[6..]);
        commit(&mut third, all[9], None);
        assert_eq!(read(&mut third, "'worker', 'work'"), (vec![], None));
    });
}

#[test]
fn a_token_is_worth_nothing_once_somebody_else_has_moved() {
    both("token", |db| {
        let all = work(&mut db.app(), 6);
        let (mut slow, mut quick) = (db.app(), db.app());
        let (_, old) = read(&mut slow, "'worker', 'work', 3");
        let (_, token) = read(&mut quick, "'worker', 'work', 3");
        let next = commit(&mut quick, all[2], token);
        let refused = |session: &mut Session, token: Option<i64>| {
            let sql = "SELECT meshhook.commit_consumer('worker', $1, $2)";
            let error = session.error(sql, &[&all[2], &token]);
            assert_eq!(error.code().code(), "55000", "{error:?}");
            assert!(error.detail().is_some_and(|detail| detail.contains(&format!("position {}", all[2]))));
        };
        refused(&mut slow, old);
        refused(&mut slow, Some(next + 1));
        // Sought and resized away: no token of before is good.
        quick.exec(&format!("SELECT meshhook.seek_consumer('worker', {})", all[0]));
        refused_at(&mut slow, all[3], next);
        let (_, token) = read(&mut quick, "'worker', 'work', 3");
        quick.exec("SELECT meshhook.resize_consumer('worker', 1)");
        refused_at(&mut quick, all[3], token.unwrap_or(0));
        // What is seen in a transaction that is open does not count yet; who comes second waits and is refused.
        let (_, token) = read(&mut quick, "'worker', 'work', 3");
        quick.exec("BEGIN");
        commit(&mut quick, all[2], token);
        let sql = format!("SELECT meshhook.commit_consumer('worker', {}, {})", all[3], token.unwrap_or(0));
        let pending = super::Pending::start(slow, &sql);
        pending.wait_blocked(&mut db.admin());
        quick.exec("COMMIT");
        assert_eq!(pending.end().failed().0, "55000");
        assert_eq!(read(&mut quick, "'worker', 'work'").0, all[3..]);
    });
}

fn refused_at(session: &mut Session, position: i64, token: i64) {
    let error = session.error("SELECT meshhook.commit_consumer('worker', $1, $2)", &[&position, &token]);
    assert_eq!(error.code().code(), "55000", "{error:?}");
}

#[test]
fn a_position_commits_with_its_effects_or_not_at_all() {
    both("effects", |db| {
        let (mut admin, mut app) = (db.admin(), db.app());
        admin.exec("CREATE TABLE done (global_position bigint PRIMARY KEY); GRANT ALL ON done TO shop");
        let all = work(&mut app, 6);
        let step = |app: &mut Session, end: &str| {
            app.exec("BEGIN");
            let (seen, token) = read(app, "'worker', 'work', 2");
            for global in &seen {
                app.exec(&format!("INSERT INTO done VALUES ({global})"));
            }
            if let Some(last) = seen.last() {
                commit(app, *last, token);
            }
            append(app, "result-1");
            app.exec(end);
            seen
        };
        // The first read makes the consumer; that is undone too.
        assert_eq!(step(&mut app, "ROLLBACK"), all[..2]);
        assert_eq!(counted(&mut admin, "SELECT count(*) FROM meshhook.consumer"), 0);
        assert_eq!(step(&mut app, "COMMIT"), all[..2]);
        assert_eq!(step(&mut app, "ROLLBACK"), all[2..4], "both are undone");
        app.exec("BEGIN; SAVEPOINT s");
        commit(&mut app, all[5], None);
        app.exec("ROLLBACK TO s; COMMIT");
        assert_eq!(step(&mut app, "COMMIT"), all[2..4]);
        assert_eq!(step(&mut app, "COMMIT"), all[4..]);
        assert!(step(&mut app, "COMMIT").is_empty());
        let done: Vec<i64> = admin.values("SELECT global_position FROM done ORDER BY 1", &[]);
        assert_eq!(done, all);
    });
}

#[test]
fn what_was_read_can_be_committed_and_what_was_never_assigned_cannot() {
    both("undecided", |db| {
        let (mut admin, mut app, mut late) = (db.admin(), db.app(), db.app());
        late.exec("BEGIN");
        append(&mut late, "aside-1");
        let all = work(&mut app, 3);
        assert_eq!(read(&mut app, "'worker', 'work'").0, all);
        let never = last_drawn(&mut admin) + 1;
        let error = app.error("SELECT meshhook.commit_consumer('worker', $1)", &[&never]);
        assert_eq!(error.code().code(), "22023", "{error:?}");
        assert!(error.detail().is_some_and(|detail| detail.contains(&all[2].to_string())), "{error:?}");
        // The open transaction reaches this category too: its bound lies below what was read, its messages do not.
        let open = append(&mut late, "work-9").global;
        let behind = work(&mut app, 1)[0];
        assert!(super::safe(&mut app, Some("work")) < all[0]);
        commit(&mut app, all[2], None);
        // Back is for seek alone.
        let error = app.error("SELECT meshhook.commit_consumer('worker', $1)", &[&all[1]]);
        assert_eq!(error.code().code(), "22023");
        assert!(error.hint().is_some_and(|hint| hint.contains("seek_consumer")), "{error:?}");
        late.exec("COMMIT");
        assert_eq!(read(&mut app, "'worker', 'work'").0, [open, behind]);
        app.exec(&format!("SELECT meshhook.seek_consumer('worker', {})", all[0]));
        assert_eq!(read(&mut app, "'worker', 'work'").0, [all[1], all[2], open, behind]);
        app.exec("SELECT meshhook.seek_consumer('worker', 0)");
        assert_eq!(read(&mut app, "'worker', 'work'").0.len(), 5);
    });
}

#[test]
fn streams_without_an_id_are_the_first_member_s() {
    both("without_id", |db| {
        let mut app = db.app();
        let bare = append(&mut app, "work").global;
        let others = work(&mut app, 14);
        let alone = read(&mut app, "'alone', 'work'").0;
        assert_eq!(alone.len(), 15, "one member has them all");
        let members: Vec<Vec<i64>> =
            (0..3).map(|member| read(&mut app, &format!("'worker', 'work', 100, {member}, 3")).0).collect();
        assert!(members[0].contains(&bare));
        let mut together = members.concat();
        together.sort_unstable();
        let mut expected = vec![bare];
        expected.extend(&others);
        assert_eq!(together, expected, "each belongs to one member");
        // As Message DB tells them apart, apart from the bare one, which there is nobody's.
        for (member, given) in members.iter().enumerate() {
            let sql = format!(
                "SELECT global_position FROM meshhook.read_category('work', consumer_group_member => {member}, \
                 consumer_group_size => 3)"
            );
            let of_category: Vec<i64> = app.values(&sql, &[]);
            let given: Vec<i64> = given.iter().copied().filter(|global| *global != bare).collect();
            assert_eq!(of_category, given);
        }
        // Compound ids stay with their cardinal id.
        let one = append_all(&mut app, &["work-x+a", "work-x+b", "work-x"]);
        let globals: Vec<i64> = one.iter().map(|placed: &Placed| placed.global).collect();
        let with_them: Vec<Vec<i64>> = (0..3)
            .map(|member| {
                let mut seen = read(&mut app, &format!("'worker', 'work', 100, {member}")).0;
                seen.retain(|global| globals.contains(global));
                seen
            })
            .filter(|seen| !seen.is_empty())
            .collect();
        assert_eq!(with_them, [globals]);
    });
}

#[test]
fn a_consumer_keeps_to_what_it_was_made_for() {
    both("agreed", |db| {
        let mut app = db.app();
        let all = work(&mut app, 3);
        append(&mut app, "other-1");
        read(&mut app, "'worker', 'work', 10, 0, 2");
        for (arguments, code) in [
            ("'worker', 'other'", "22023"),
            ("'worker', 'work', 10, 0, 3", "55000"),
            ("'worker', 'work', 10, 2", "22023"),
            ("'worker', 'work', 10, -1", "22023"),
            ("'worker', 'work-1'", "22023"),
            ("'worker', 'work', 0", "22023"),
            ("'', 'work'", "22023"),
            ("'much', 'work', 10, 0, 2000", "22023"),
            ("'runs', 'meshhook:run'", "22023"),
        ] {
            let error = app.error(&format!("SELECT * FROM meshhook.read_consumer({arguments})"), &[]);
            assert_eq!(error.code().code(), code, "{arguments}: {error:?}");
        }
        for sql in [
            "SELECT meshhook.commit_consumer('unknown', 1)",
            "SELECT meshhook.resize_consumer('unknown', 1)",
            "SELECT meshhook.seek_consumer('unknown', 1)",
            "SELECT meshhook.drop_consumer('unknown')",
        ] {
            assert_eq!(app.error(sql, &[]).code().code(), "P0002", "{sql}");
        }
        assert_eq!(app.error("SELECT meshhook.resize_consumer('worker', 0)", &[]).code().code(), "22023");
        assert_eq!(
            app.error("SELECT meshhook.commit_consumer('worker', 1, NULL, 2)", &[]).code().code(),
            "22023"
        );
        // Dropped, it begins anew and may be another.
        app.exec("SELECT meshhook.commit_consumer('worker', 2); SELECT meshhook.drop_consumer('worker')");
        assert_eq!(counted(&mut db.admin(), "SELECT count(*) FROM meshhook.consumer_position"), 0);
        assert_eq!(read(&mut app, "'worker', 'work'").0, all);
        app.exec("SELECT meshhook.drop_consumer('worker')");
        assert_eq!(read(&mut app, "'worker', 'other'").0.len(), 1);
    });
}

#[test]
fn filters_of_a_consumer_choose_and_do_not_hold_up() {
    both("filters", |db| {
        let mut app = db.app();
        app.exec(
            "SELECT meshhook.append_message('work-' || n % 5, CASE WHEN n % 100 = 0 THEN 'Wanted' ELSE 'Other' END, '{}',
                 CASE WHEN n % 200 = 0 THEN '{\"correlationStreamName\": \"cause-1\"}'::jsonb END)
             FROM generate_series(1, 2500) AS n",
        );
        let (wanted, token) = read(&mut app, "'worker', 'work', 10, 0, NULL, '{Wanted}'");
        assert_eq!(wanted.len(), 10);
        commit(&mut app, wanted[9], token);
        assert_eq!(read(&mut app, "'worker', 'work', 100, 0, NULL, '{Wanted}'").0.len(), 15);
        assert_eq!(read(&mut app, "'caused', 'work', 100, 0, NULL, NULL, 'cause'").0.len(), 12);
        // A member to whom nothing of a long way belongs does not walk it again and again. One that chooses stays:
        // others may be at what it does not want.
        let position = |app: &mut Session, consumer: &str| -> i64 {
            app.value("SELECT position FROM meshhook.consumer_lag WHERE consumer = $1", &[&consumer])
        };
        assert_eq!(read(&mut app, "'choosy', 'work', 10, 0, NULL, '{Never}'").0.len(), 0);
        assert_eq!(position(&mut app, "choosy"), 0);
        assert_eq!(read(&mut app, "'idle', 'elsewhere', 10").0.len(), 0);
        assert_eq!(position(&mut app, "idle"), last_drawn(&mut db.admin()));
    });
}

#[test]
fn a_read_that_finds_nothing_takes_nothing_from_others() {
    both("choosy", |db| {
        let (mut app, mut other) = (db.app(), db.app());
        app.exec(
            "SELECT meshhook.append_message('work-' || n % 5, 'T', '{}') FROM generate_series(1, 1500) AS n",
        );
        let (seen, token) = read(&mut app, "'worker', 'work', 10");
        assert_eq!(seen.len(), 10);
        // The same member, asked for what there is none of: a wrong call, or an older version of the program.
        assert_eq!(read(&mut other, "'worker', 'work', 10, 0, NULL, '{Never}'").0.len(), 0);
        assert_eq!(read(&mut app, "'worker', 'work', 10"), (seen, token), "nobody has committed anything");
    });
}

#[test]
fn the_lag_is_told_for_each_member() {
    both("lag", |db| {
        let mut app = db.app();
        let all = work(&mut app, 20);
        append(&mut app, "other-1");
        read(&mut app, "'worker', 'work', 5, 0, 2");
        app.exec(&format!("SELECT meshhook.commit_consumer('worker', {}, NULL, 1)", all[11]));
        let rows = app.rows(
            "SELECT consumer, category, member, group_size, position, head_position, messages_behind, \
                    committed_at IS NOT NULL, behind_for >= interval '0', oldest_at IS NOT NULL \
             FROM meshhook.consumer_lag ORDER BY member",
            &[],
        );
        let lags: Vec<(i32, i64, i64, i64, bool)> =
            rows.iter().map(|row| (row.get(2), row.get(4), row.get(5), row.get(6), row.get(7))).collect();
        assert_eq!(lags, [(0, 0, all[19], 20, false), (1, all[11], all[19], 8, true)]);
        assert_eq!((rows[0].get::<_, &str>(0), rows[0].get::<_, &str>(1)), ("worker", "work"));
        assert_eq!((rows[0].get(3), rows[0].get(8), rows[0].get(9)), (2, true, true));
        for member in 0..2 {
            app.exec(&format!("SELECT meshhook.commit_consumer('worker', {}, NULL, {member})", all[19]));
        }
        assert_eq!(counted(&mut app, "SELECT sum(messages_behind)::bigint FROM meshhook.consumer_lag"), 0);
        assert_eq!(counted(&mut app, "SELECT count(behind_for) FROM meshhook.consumer_lag"), 0);
    });
}

#[test]
fn another_project_s_consumers_are_not_there() {
    both("tenants", |db| {
        let (mut admin, mut app, mut tenant) = (db.admin(), db.app(), db.app());
        admin.exec("SELECT meshhook.create_project('acme'); SELECT meshhook.add_member('acme', 'shop')");
        tenant.exec("SET meshhook.project = 'acme'");
        let mine = work(&mut app, 3);
        let theirs = work(&mut tenant, 2);
        assert_eq!(read(&mut app, "'worker', 'work'").0, mine);
        assert_eq!(counted(&mut tenant, "SELECT count(*) FROM meshhook.consumer_lag"), 0);
        assert_eq!(tenant.error("SELECT meshhook.drop_consumer('worker')", &[]).code().code(), "P0002");
        assert_eq!(read(&mut tenant, "'worker', 'work'").0, theirs, "the same name is another consumer");
        commit(&mut tenant, theirs[1], None);
        tenant.exec("SELECT meshhook.resize_consumer('worker', 5)");
        assert_eq!(read(&mut app, "'worker', 'work'").0, mine);
        // Nor does an open commit of one hold up the other.
        tenant.exec("BEGIN; SELECT meshhook.resize_consumer('worker', 2)");
        app.exec("SET lock_timeout = '5s'");
        commit(&mut app, mine[2], None);
        assert_eq!(counted(&mut app, "SELECT count(*) FROM meshhook.consumer_position"), 1);
    });
}

#[test]
fn many_may_make_the_same_consumer_at_once() {
    both("made", |db: &Database| {
        let all = work(&mut db.app(), 5);
        std::thread::scope(|scope| {
            let readers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| read(&mut db.app(), "'worker', 'work', 10, 0, 2").0)).collect();
            let results: Vec<Vec<i64>> = readers.into_iter().map(|r| r.join().expect("no error")).collect();
            assert!(results.iter().all(|seen| *seen == results[0]));
            assert!(results[0].len() <= all.len());
        });
        assert_eq!(counted(&mut db.admin(), "SELECT count(*) FROM meshhook.consumer"), 1);
    });
}
