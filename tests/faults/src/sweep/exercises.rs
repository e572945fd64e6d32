//! What the examples do not do: functions and children, people's hands, full lanes, schedules, late reports,
//! maintenance, an update of the extension.

use super::play::{Kind, Play, Trouble, until};
use super::stage::Scenario;
use meshhook_e2e::quick;
use meshhook_testkit::{request, sign};
use serde_json::{Value, json};
use uuid::Uuid;

pub fn all() -> Vec<Scenario> {
    let none = Vec::new;
    vec![
        Scenario { name: "ledger", definitions: ledger, answers: none, drive: enter },
        Scenario { name: "hands", definitions: held, answers: none, drive: intervene },
        Scenario { name: "lanes", definitions: lanes, answers: none, drive: crowd },
        Scenario { name: "schedule", definitions: planned, answers: none, drive: every_second },
        Scenario { name: "late-report", definitions: slow, answers: none, drive: report_late },
        Scenario {
            name: "resume-url",
            definitions: asked,
            answers: || vec![("/mail", 202, json!({}))],
            drive: answer,
        },
        Scenario {
            name: "freight",
            definitions: freight,
            answers: || vec![("/depot", 200, json!("x".repeat(70_000))), ("/yard", 200, json!({}))],
            drive: carry,
        },
        Scenario { name: "paid", definitions: awaited, answers: none, drive: order_and_pay },
        Scenario { name: "care", definitions: patient, answers: none, drive: look_after },
        Scenario { name: "update", definitions: none_of_its_own, answers: none, drive: update },
    ]
}

fn none_of_its_own(_outside: &str) -> Vec<Value> {
    Vec::new()
}

/// A node that enters something into the ledger, which has no key that would keep it from being entered twice.
fn entry(id: &str, what: &str) -> Value {
    json!({"id": id, "type": "sql", "with": {"function": "ledger.enter", "input": {"play": "{{ .input.play }}", "what": what}}})
}

/// A workflow that waits for the signal `go`.
fn waiter(name: &str) -> Value {
    json!({"name": name, "nodes": [{"id": "go", "type": "wait", "with": {"signal": "go"}}], "edges": []})
}

fn ledger(_outside: &str) -> Vec<Value> {
    vec![
        json!({"name": "ledger-child", "nodes": [entry("enter", "child")], "edges": []}),
        json!({"name": "ledger", "nodes": [
            entry("enter", "first"),
            {"id": "tell", "type": "emit", "with": {"stream": "lead-{{ .input.number }}", "message_type": "Entered", "data": {"n": 1}}},
            {"id": "child", "type": "workflow", "with": {"workflow": "ledger-child", "input": {"play": "{{ .input.play }}"}}},
            {"id": "pause", "type": "delay", "with": {"duration": "100ms"}},
            entry("again", "last"),
        ], "edges": [
            {"from": "enter", "to": "tell"}, {"from": "tell", "to": "child"}, {"from": "child", "to": "pause"},
            {"from": "pause", "to": "again"},
        ]}),
    ]
}

fn enter(play: &mut Play) -> Result<(), Trouble> {
    let input = json!({"play": play.name, "number": play.number});
    let run = play.start("ledger", &input);
    play.wait_ended(run)
}

/// Ends while a timer is open.
fn held(_outside: &str) -> Vec<Value> {
    vec![
        waiter("held-child"),
        json!({"name": "held", "nodes": [
            {"id": "begin", "type": "transform", "with": {"output": 1}},
            {"id": "go", "type": "wait", "with": {"signal": "go"}},
            {"id": "child", "type": "workflow", "with": {"workflow": "held-child"}},
            {"id": "late", "type": "delay", "with": {"duration": "1h"}},
            {"id": "end", "type": "terminate", "with": {"output": {"by": "{{ .nodes.go.output.by }}"}}},
        ], "edges": [
            {"from": "begin", "to": "go"}, {"from": "begin", "to": "child"}, {"from": "begin", "to": "late"},
            {"from": "go", "to": "end"},
        ]}),
    ]
}

fn intervene(play: &mut Play) -> Result<(), Trouble> {
    let run = play.start("held", &json!({}));
    play.wait_waiting(run, "go")?;
    play.act("SELECT meshhook.create_snapshot($1)", &[&run]);
    play.act("SELECT meshhook.skip_node($1, 'child')", &[&run]);
    let fork = fork(play, run);
    play.adopt(fork);
    play.signal(run, "go");
    let id = format!("{}/fork", play.name);
    play.act("SELECT meshhook.submit_event($1, 'go', '{\"by\": \"hand\"}', $2)", &[&fork, &id]);
    play.wait_ended(run)?;
    play.wait_ended(fork)
}

/// Forks a run; where the answer may have been lost, the audit log tells whether it has been done.
fn fork(play: &mut Play, run: Uuid) -> Uuid {
    loop {
        let done = "SELECT target::uuid FROM meshhook.audit_log WHERE action = 'run.forked' AND details ->> 'reason' = $1";
        if let Some(row) = play.admin.rows(done, &[&play.name]).first() {
            return row.get(0);
        }
        let sql = "SELECT meshhook.fork_run($1, reason => $2)";
        let answered = play.app.session().query(sql, &[&run, &play.name]);
        if let Err(refusal) = answered
            && let Some(refusal) = refusal.as_db_error().filter(|r| !r.code().code().starts_with("57P"))
        {
            panic!("{refusal}\n{sql}");
        }
    }
}

fn awaited(_outside: &str) -> Vec<Value> {
    vec![waiter("paid")]
}

/// One endpoint takes both events: the first starts the run, the second is its signal.
fn order_and_pay(play: &mut Play) -> Result<(), Trouble> {
    let (path, secret) = play.stage.orders.clone();
    let mut deliver = |event: &str| {
        let body = json!({"order": play.name, "event": event}).to_string().into_bytes();
        play.deliver(&path, &sign::github_event(&secret, event, "order", &body), &body)
    };
    let (ordered, paid) = (deliver("ordered")?, deliver("paid")?);
    if ordered != paid {
        return Err(Trouble::new(Kind::Doubled, "an order has two runs"));
    }
    play.wait_ended(ordered)
}

fn lanes(_outside: &str) -> Vec<Value> {
    let lane = |name: &str, on_limit: &str| {
        let mut definition = waiter(name);
        definition["concurrency"] = json!({"limit": 1, "on_limit": on_limit});
        definition
    };
    vec![lane("queue", "queue"), lane("skip", "skip"), lane("oldest", "cancel_oldest")]
}

fn crowd(play: &mut Play) -> Result<(), Trouble> {
    let first = play.start("queue", &json!({}));
    play.wait_waiting(first, "go")?;
    // The second finds its signal when it begins; the third ends before it does.
    let second = play.start("queue", &json!({}));
    let third = play.start("queue", &json!({}));
    play.signal(second, "go");
    play.act("SELECT meshhook.cancel_run($1)", &[&third]);
    play.wait_ended(third)?;
    play.signal(first, "go");
    for lane in ["skip", "oldest"] {
        let one = play.start(lane, &json!({}));
        play.wait_waiting(one, "go")?;
        let other = play.start(lane, &json!({}));
        let (gone, left) = if lane == "skip" { (other, one) } else { (one, other) };
        play.wait_ended(gone)?;
        play.wait_waiting(left, "go")?;
        play.signal(left, "go");
        play.wait_ended(left)?;
    }
    play.wait_ended(first)?;
    play.wait_ended(second)
}

fn planned(_outside: &str) -> Vec<Value> {
    let mut node = entry("enter", "");
    node["with"]["input"]["what"] = json!("{{ .run.trigger.nominal_time }}");
    vec![json!({"name": "planned", "nodes": [node], "edges": []})]
}

/// A run each second, and for each of them one entry.
fn every_second(play: &mut Play) -> Result<(), Trouble> {
    let name = format!("{}-seconds", play.name);
    // Its ledger is looked at here: how many seconds pass is nothing to compare.
    let input = json!({"play": name});
    let sql = "SELECT meshhook.create_schedule($1, 'planned', every => '1 second', input => $2, overlap => 'allow', replace => true)";
    play.app.rows(sql, &[&name, &input]);
    let entered = "SELECT count(*) > 2 FROM ledger.entry WHERE play = $1";
    play.wait("three seconds", entered, &[&name])?;
    if let Err(refusal) = play.app.ask("SELECT meshhook.drop_schedule($1)", &[&name]) {
        assert_eq!(refusal.code().code(), "P0002", "{refusal}");
    }
    play.wait_settled()?;
    let sql =
        "SELECT (SELECT count(*) FROM meshhook.run r JOIN meshhook.run_event e USING (project_id, run_id)
                       WHERE e.position = 1 AND e.data #>> '{trigger,schedule}' = $1),
                      (SELECT count(*) FROM ledger.entry WHERE play = $1),
                      (SELECT count(DISTINCT what) FROM ledger.entry WHERE play = $1)";
    let row = &play.admin.rows(sql, &[&name])[0];
    let [runs, entries, times] = [0, 1, 2].map(|column| row.get::<_, i64>(column));
    play.leave_out(runs);
    match (entries - times, runs - times) {
        (0, 0) => Ok(()),
        (doubled, _) if doubled > 0 => {
            Err(Trouble::new(Kind::Doubled, format!("{entries} entries for {times} times")))
        }
        _ => Err(Trouble::new(Kind::Lost, format!("{runs} runs, {entries} entries, {times} times"))),
    }
}

fn slow(_outside: &str) -> Vec<Value> {
    vec![json!({"name": "slow", "nodes": [
        {"id": "work", "type": "task", "with": {"queue": "slow"}, "retry": quick(50)}], "edges": []})]
}

/// A worker is too slow; another one takes the job over, says so, is asked to wait, gives it back, and fails once.
fn report_late(play: &mut Play) -> Result<(), Trouble> {
    let run = play.start("slow", &json!({}));
    let lost = play.claim("slow", "200 ms")?;
    let job = play.claim("slow", "1 s")?;
    if play.report("complete_job", &lost, &json!("late")) != "stale" {
        return Err(Trouble::new(Kind::Doubled, "a report was taken after its lease had run out"));
    }
    play.say(&job, "taken over");
    play.hold("SELECT * FROM meshhook.heartbeat_jobs($1, $2, '1 s')", &job);
    play.hold("SELECT * FROM meshhook.release_jobs($1, $2)", &job);
    let job = play.claim("slow", "1 s")?;
    play.report("fail_job", &job, &json!({"class": "tired", "message": "once"}));
    loop {
        let job = play.claim("slow", "1 s")?;
        if play.report("complete_job", &job, &json!("done")) == "accepted" || play.has_ended(run) {
            return play.wait_ended(run);
        }
    }
}

fn asked(outside: &str) -> Vec<Value> {
    vec![json!({"name": "asked", "nodes": [
        {"id": "begin", "type": "transform", "with": {"output": 1}},
        {"id": "mail", "type": "http", "with": {"method": "POST", "url": format!("{outside}/mail"),
            "body": {"play": "{{ .input.play }}", "link": "{{ $resume.ok }}"}}, "retry": quick(50)},
        {"id": "ok", "type": "wait", "with": {"approval": {}}},
        {"id": "done", "type": "transform", "with": {"output": "{{ .nodes.ok.output.approved }}"}},
    ], "edges": [
        {"from": "begin", "to": "mail"}, {"from": "begin", "to": "ok"}, {"from": "mail", "to": "done"},
        {"from": "ok", "port": "approved", "to": "done"},
    ]})]
}

fn answer(play: &mut Play) -> Result<(), Trouble> {
    let input = json!({"play": play.name});
    let run = play.start("asked", &input);
    let link = until("the mail", || {
        let mails = play.stage.stub.received_at("/resume-url/mail");
        mails.iter().map(|mail| mail.json()).find(|mail| mail["play"] == play.name)?["link"]
            .as_str()
            .map(str::to_owned)
    })?;
    let path = link.strip_prefix("http://hooks.test").unwrap_or_default();
    let json = [("content-type".to_owned(), "application/json".to_owned())];
    until("the answer to be taken", || {
        let body = json!({"approved": true}).to_string();
        let answer = request(play.stage.sidecar().address(), "POST", path, &json, body.as_bytes());
        answer.is_ok_and(|answer| answer.status == 200).then_some(())
    })?;
    play.wait_ended(run)
}

/// What is sent and what comes back is too large for a log; that is sent on.
fn freight(outside: &str) -> Vec<Value> {
    let post = |id: &str, field: &str, value: &str| {
        json!({"id": id, "type": "http", "retry": quick(50),
            "with": {"method": "POST", "url": format!("{outside}/{id}"), field: value}})
    };
    vec![json!({"name": "freight", "nodes": [
        post("depot", "body", "{{ [range(20000)] }}"),
        post("yard", "body_blob", "{{ .nodes.depot.output.body_blob }}"),
        {"id": "done", "type": "transform", "with": {"output": "{{ .nodes.yard.output.status }}"}},
    ], "edges": [{"from": "depot", "to": "yard"}, {"from": "yard", "to": "done"}]})]
}

fn carry(play: &mut Play) -> Result<(), Trouble> {
    let run = play.start("freight", &json!({}));
    play.wait_ended(run)?;
    let bytes = "SELECT coalesce(sum(octet_length(meshhook.read_blob(sha256))), 0) FROM
                 (SELECT DISTINCT encode(sha256, 'hex') AS sha256 FROM meshhook.blob_use WHERE run_id = $1) u";
    match play.admin.value::<i64>(bytes, &[&run]) {
        // A list of numbers, and a string in its quotes.
        178_893 => Ok(()),
        other => Err(Trouble::new(Kind::Lost, format!("{other} bytes lie beside the log"))),
    }
}

fn patient(_outside: &str) -> Vec<Value> {
    vec![waiter("patient")]
}

/// Maintenance, and a signal to many.
fn look_after(play: &mut Play) -> Result<(), Trouble> {
    let run = play.start("patient", &json!({}));
    play.wait_waiting(run, "go")?;
    play.admin.rows("SELECT * FROM meshhook.maintain()", &[]);
    let sql =
        "SELECT operation_id FROM meshhook.create_bulk_operation('signal', $1, 'care', $2, dry_run => false)";
    let (filter, signal) =
        (json!({"workflow": "patient", "run_ids": [run]}), json!({"name": "go", "signal_id": play.name}));
    play.app.rows(sql, &[&filter, &signal]);
    play.wait_ended(run)?;
    let worked_off = "SELECT NOT EXISTS (SELECT FROM meshhook.bulk_operations WHERE status = 'running')";
    play.wait("the operation to be worked off", worked_off, &[])
}

/// To the version that `scripts/faults.sh` has put beside the real one, and back, while a run waits.
fn update(play: &mut Play) -> Result<(), Trouble> {
    let run = play.start("patient", &json!({}));
    play.wait_waiting(run, "go")?;
    let installed = "SELECT extversion FROM pg_catalog.pg_extension WHERE extname = 'meshhook'";
    let home: String = play.admin.value(installed, &[]);
    for version in ["swept", &home] {
        play.admin.rows(&format!("ALTER EXTENSION meshhook UPDATE TO '{version}'"), &[]);
    }
    play.signal(run, "go");
    play.wait_ended(run)
}
