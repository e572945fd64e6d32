//! The workflows of `examples/`, from the files as they are, and how they turn out: compensation and its order,
//! approvals, deliveries of GitHub, what is tolerated and what is not, a month that passes.
//!
//! `scripts` runs each example as its README says, `worker` the task worker.

mod scripts;
mod worker;

use meshhook_e2e::examples::{OUTSIDE, definition, folder, invoice, lead, order, payment, read};
use meshhook_e2e::{Database, Run, SOON, counted, ended, publish, run_id, start};
use meshhook_testkit::{Gate, Received, Reply, Session, Sidecar, Stub, history, sign, wait_for};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use uuid::Uuid;

/// An example that is published, and a scripted world around it.
struct World {
    db: Database<'static>,
    app: Session,
    stub: Stub,
    sidecar: Sidecar,
    workflow: String,
}

impl World {
    /// Each path answers with that status and body, the last one again and again.
    fn around<const N: usize>(example: &str, name: &str, answers: [(&str, u16, Value); N]) -> World {
        let db = Database::preloaded(name);
        let stub = Stub::start();
        for (path, status, body) in answers {
            stub.script(path, [Reply::json(status, &body)]);
        }
        let definition = definition(example, &stub.url(""));
        let mut app = db.app();
        publish(&mut app, &definition);
        let workflow = definition["name"].as_str().expect("it has a name").to_owned();
        World { app, sidecar: db.sidecar().start(), stub, db, workflow }
    }

    fn start(&mut self, input: &Value) -> Uuid {
        start(&mut self.app, &self.workflow, input)
    }

    /// Starts a run and waits for its end.
    #[track_caller]
    fn run(&mut self, input: &Value) -> Run {
        let id = self.start(input);
        ended(&mut self.app, id)
    }

    /// The paths that were called so far, in their order.
    fn called(&self) -> Vec<String> {
        self.stub.received().into_iter().map(|call| call.path).collect()
    }

    /// The only call of a path.
    #[track_caller]
    fn only(&self, path: &str) -> Received {
        let mut calls = self.stub.received_at(path);
        assert_eq!(calls.len(), 1, "calls of {path}");
        calls.remove(0)
    }

    /// Waits until a node waits for something.
    #[track_caller]
    fn wait_waiting(&mut self, id: Uuid, node: &str) {
        let sql =
            "SELECT count(*) FROM meshhook.run_steps WHERE run_id = $1 AND node = $2 AND status = 'waiting'";
        wait_for(node, SOON, || self.app.value::<i64>(sql, &[&id, &node]) == 1);
    }

    /// Publishes the example once more with another time limit, for what nobody can wait for.
    fn hurry(&mut self, example: &str, limit: &str, instead: &str) {
        let limits = [limit, instead].map(|limit| format!("\"timeout\":\"{limit}\""));
        let text = definition(example, &self.stub.url("")).to_string();
        assert_eq!(text.matches(&limits[0]).count(), 1, "{text}");
        let hurried = serde_json::from_str(&text.replace(&limits[0], &limits[1])).expect("it is JSON still");
        publish(&mut self.app, &hurried);
    }
}

/// Where `make golden` wants the logs; else nothing is kept.
const GOLDEN: &str = "MESHHOOK_GOLDEN";

/// Every run of the session's project: its definition, its log and the state it leads to.
const HISTORIES: &str = r#"
    SELECT jsonb_build_object('run', r.run_id, 'definition', v.definition,
        'events', (SELECT jsonb_agg(jsonb_build_object('position', h.position, 'type', h.type, 'data', h.data,
                       'at', to_char(h.time AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) ORDER BY h.position)
                   FROM meshhook.run_history(r.run_id, 0, 100000) h),
        'state', meshhook.replay_run(r.run_id) -> 'state')::text
    FROM meshhook.run r
    JOIN meshhook.workflow_version v ON v.project_id = r.project_id AND v.version_id = r.version_id
    WHERE r.position > 0 ORDER BY r.run_id"#;

impl Drop for World {
    fn drop(&mut self) {
        let (Some(folder), false) = (std::env::var_os(GOLDEN), std::thread::panicking()) else { return };
        let runs: Vec<String> = self.app.rows(HISTORIES, &[]).iter().map(|row| row.get(0)).collect();
        let name = std::thread::current().name().map_or_else(String::new, |name| name.replace("::", "."));
        let file = Path::new(&folder).join(format!("{name}.json"));
        fs::write(&file, format!("[\n{}\n]\n", runs.join(",\n"))).expect("the folder can be written");
    }
}

/// Why a canceled run says that it was.
#[track_caller]
fn reason(session: &mut Session, id: Uuid) -> Value {
    let last = history::history(session, id).pop().expect("it has events");
    assert_eq!(last.kind, "run.canceled");
    last.data["reason"].clone()
}

/// The shop of an order, with another answer to one kind of call.
fn shop(name: &str, path: &str, status: u16) -> World {
    let world = World::around(
        "order-fulfilment",
        name,
        [
            ("/reservations", 201, json!({"id": "res_1"})),
            ("/charges", 201, json!({"id": "ch_1", "amount": 90})),
            ("/shipments", 201, json!({"tracking": "trk_1"})),
            ("/emails", 202, json!({})),
            ("/refunds", 201, json!({})),
            ("/releases", 201, json!({})),
        ],
    );
    world.stub.script(path, [Reply::json(status, &json!({"error": "no"}))]);
    world
}

#[test]
fn an_order_that_cannot_be_shipped_is_undone_the_latest_first() {
    let mut world = shop("order_unshipped", "/shipments", 409);
    let run = world.run(&order());
    let error = run.error.expect("it failed");
    assert_eq!((&error["node"], &error["status"]), (&json!("ship"), &json!(409)));
    assert_eq!(world.called(), ["/reservations", "/charges", "/shipments", "/refunds", "/releases"]);
    assert_eq!(world.only("/refunds").json(), json!({"charge": "ch_1", "reason": error["message"]}));
    assert_eq!(world.only("/releases").json(), json!({"reservation": "res_1"}));
    assert_eq!(world.only("/shipments").json()["approval"]["service"], "standard", "90 is no large order");
}

#[test]
fn of_an_order_that_cannot_be_paid_only_the_reservation_is_undone() {
    let mut world = shop("order_unpaid", "/charges", 402);
    assert_eq!(world.run(&order()).status, "failed");
    assert_eq!(world.called(), ["/reservations", "/charges", "/releases"]);
}

#[test]
fn an_order_that_was_shipped_stays_shipped_though_nobody_is_told() {
    let mut world = shop("order_untold", "/emails", 400);
    let output = world.run(&order()).output.expect("it succeeded");
    assert_eq!((&output["tracking"], &output["told"]), (&json!("trk_1"), &json!(false)));
    assert_eq!(world.called(), ["/reservations", "/charges", "/shipments", "/emails"]);
}

const LABELS: &str = "/repos/ada/engine/issues/17/labels";
const COMMENTS: &str = "/repos/ada/engine/issues/17/comments";

fn repository(name: &str) -> World {
    World::around(
        "issue-triage",
        name,
        [(LABELS, 200, json!([])), (COMMENTS, 201, json!({"id": 1})), ("/alerts", 202, json!({}))],
    )
}

#[test]
fn an_issue_that_github_delivers_is_labelled_and_answered() {
    let mut world = repository("triage_delivered");
    let (path, secret) = world.db.endpoint("issue-triage", "github");
    let body = read(&folder().join("issue-triage/issue.json")).into_bytes();
    let forged = sign::github_event("another's", "d-1", "issues", &body);
    assert_eq!(world.sidecar.post(&path, &forged, &body).status, 401);
    let signed = sign::github_event(&secret, "d-1", "issues", &body);
    let answer = world.sidecar.post(&path, &signed, &body);
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(ended(&mut world.app, run_id(&answer)).output, Some(json!({"issue": 17, "kind": "bug"})));
    assert_eq!(world.called(), [LABELS, COMMENTS]);
    assert_eq!(world.only(LABELS).json(), json!({"labels": ["bug"]}));
    assert!(world.only(COMMENTS).json()["body"].as_str().is_some_and(|text| text.contains("Which version")));
    let again = world.sidecar.post(&path, &signed, &body);
    assert_eq!((again.status, run_id(&again)), (200, run_id(&answer)), "GitHub delivers again what it likes");

    let ping = br#"{"zen": "Keep it logically awesome."}"#;
    let answer = world.sidecar.post(&path, &sign::github_event(&secret, "d-2", "ping", ping), ping);
    assert_eq!(ended(&mut world.app, run_id(&answer)).output, Some(json!({"ignored": "ping"})));
    assert_eq!(world.called().len(), 2);
}

#[test]
fn issues_are_sorted_by_their_words() {
    let mut world = repository("triage_words");
    let mut issue: Value =
        serde_json::from_str(&read(&folder().join("issue-triage/issue.json"))).expect("it is JSON");
    for (title, text, kind) in [
        ("It crashes, perhaps exploitable", json!("See CVE-2026-1."), "security"),
        ("Would be nice: a dark mode", Value::Null, "feature"),
        ("How do I install it?", json!(""), "question"),
    ] {
        (issue["issue"]["title"], issue["issue"]["body"]) = (json!(title), text);
        assert_eq!(world.run(&issue).output, Some(json!({"issue": 17, "kind": kind})));
    }
    let labels: Vec<Value> = world.stub.received_at(LABELS).iter().map(Received::json).collect();
    assert_eq!(labels[0], json!({"labels": ["security", "urgent"]}));
    assert_eq!(labels.len(), 3);
    assert_eq!(
        world.only("/alerts").json()["summary"],
        "ada/engine: It crashes, perhaps exploitable",
        "nobody is woken for the others"
    );
    issue["issue"]["labels"] = json!([{"name": "bug"}]);
    assert_eq!(world.run(&issue).output, Some(json!({"ignored": "opened"})), "somebody has sorted it");
    assert_eq!(world.stub.received_at(LABELS).len(), 3);
}

/// The services of a payment, with another answer to one kind of call.
fn payments(name: &str, path: &str, status: u16) -> World {
    let world = World::around(
        "payment-approval",
        name,
        [
            ("/charges", 201, json!({"id": "ch_1"})),
            ("/accounts", 201, json!({"id": "acc_1"})),
            ("/emails", 202, json!({})),
            ("/refunds", 201, json!({})),
        ],
    );
    world.stub.script(path, [Reply::json(status, &json!({"id": "ch_1"}))]);
    world
}

/// The subjects of the mails so far.
fn subjects(world: &World) -> Vec<String> {
    let subject = |mail: &Received| mail.json()["subject"].as_str().unwrap_or_default().to_owned();
    world.stub.received_at("/emails").iter().map(subject).collect()
}

#[test]
fn a_payment_of_a_thousand_asks_nobody_and_one_above_it_does() {
    let mut world = payments("payment_approved", "/charges", 201);
    let done = json!({"account": "acc_1", "charge": "ch_1", "approved_by": null});
    assert_eq!(world.run(&payment(1000)).output, Some(done));
    assert_eq!(subjects(&world), ["Your account acc_1 is ready"]);

    let id = world.start(&payment(1001));
    world.wait_waiting(id, "approval");
    let asked = &world.stub.received_at("/emails")[1].json();
    assert_eq!(asked["to"], "finance@example.com");
    assert_eq!(world.stub.received_at("/charges").len(), 1, "nothing is paid before it is approved");
    // What the mail says is to be done.
    world.app.exec(asked["text"].as_str().expect("a statement"));
    let output = ended(&mut world.app, id).output.expect("it succeeded");
    assert_eq!(output["approved_by"], meshhook_e2e::APP);
    assert_eq!(world.stub.received_at("/charges")[1].json()["amount"], 1001);
}

#[test]
fn a_payment_that_is_rejected_or_that_nobody_approves_is_not_taken() {
    let mut world = payments("payment_refused", "/charges", 201);
    let rejected = world.start(&payment(5000));
    world.wait_waiting(rejected, "approval");
    let sql = "SELECT meshhook.decide_approval($1, 'approval', false, decided_by => 'grace')";
    world.app.rows(sql, &[&rejected]);
    assert_eq!(ended(&mut world.app, rejected).status, "canceled");
    assert_eq!(reason(&mut world.app, rejected), "rejected by grace");

    world.hurry("payment-approval", "2d", "1s");
    let forgotten = world.start(&payment(5000));
    assert_eq!(ended(&mut world.app, forgotten).status, "canceled");
    assert_eq!(reason(&mut world.app, forgotten), "nobody approved in time");

    assert_eq!(
        subjects(&world).iter().filter(|subject| *subject == "We could not take your order").count(),
        2
    );
    assert!(world.stub.received_at("/charges").is_empty());
}

#[test]
fn a_payment_without_an_account_is_given_back() {
    let mut world = payments("payment_back", "/accounts", 422);
    assert_eq!(world.run(&payment(10)).status, "failed");
    assert_eq!(world.called(), ["/charges", "/accounts", "/refunds"]);
    assert_eq!(world.only("/refunds").json()["charge"], "ch_1");
}

/// A shop with two pages of four customers; as many of their eight contacts as are given are refused.
fn night(name: &str, refused: &[i32]) -> World {
    let world = World::around(
        "nightly-sync",
        name,
        [("/customers/count", 200, json!({"pages": 2})), ("/emails", 202, json!({}))],
    );
    let page = |first: i32| {
        let customer =
            |id| json!({"id": id, "name": format!("C{id}"), "email": format!("c{id}@example.com")});
        Reply::json(200, &json!({"customers": (first..first + 4).map(customer).collect::<Vec<_>>()}))
    };
    world.stub.script("/customers", [Reply::status(429).header("retry-after", "0"), page(1), page(5)]);
    for id in 1..=8 {
        let status = if refused.contains(&id) { 422 } else { 200 };
        world.stub.script(&format!("/contacts/{id}"), [Reply::status(status)]);
    }
    world
}

#[test]
fn a_night_is_copied_page_by_page_and_what_is_refused_is_reported() {
    let mut world = night("night", &[3]);
    world.app.exec("SELECT meshhook.create_schedule('nightly', 'nightly-sync', '30 2 * * *', time_zone => 'Europe/Berlin')");
    let id: Uuid = world.app.value("SELECT meshhook.trigger_schedule('nightly')", &[]);
    let output = ended(&mut world.app, id).output.expect("it succeeded");
    assert_eq!((&output["written"], &output["refused"]), (&json!(7), &json!([3])));
    assert_eq!(subjects(&world), ["Not copied last night: customers 3"]);
    let pages = world.stub.received_at("/customers");
    assert_eq!(pages.len(), 3, "the one that came too soon is asked for again");
    let written = world.called().iter().filter(|path| path.starts_with("/contacts/")).count();
    assert_eq!(written, 8, "what is refused is not tried again");

    // The day is the one before the time the run is for, whenever it is done.
    let day: bool = world.app.value(
        "SELECT (output #>> '{day,until}')::timestamptz = date_trunc('second', (data #>> '{trigger,nominal_time}')::timestamptz)
            AND (output #>> '{day,until}')::timestamptz - (output #>> '{day,since}')::timestamptz = interval '24 hours'
         FROM meshhook.runs, meshhook.run_history(run_id) h WHERE run_id = $1 AND h.type = 'run.started'",
        &[&id],
    );
    assert!(day, "{output}");
    assert!(pages.iter().all(|page| page.query.contains("since=") && page.query.contains("page=")));
}

#[test]
fn a_night_on_which_too_much_is_refused_fails() {
    let mut world = night("bad_night", &[1, 2, 3, 4, 5, 6, 7, 8]);
    let run = world.run(&json!({}));
    assert_eq!(run.status, "failed");
    assert_eq!(run.error.expect("it failed")["class"], "map.failed");
    assert!(subjects(&world).is_empty());
}

#[test]
fn nights_are_copied_one_at_a_time_and_only_two_begin_in_an_hour() {
    let mut world = night("nights", &[]);
    let gate = Gate::new();
    world.stub.script("/customers/count", [Reply::json(200, &json!({"pages": 0})).behind(&gate)]);
    let runs: Vec<Uuid> = (0..3).map(|_| world.start(&json!({}))).collect();
    world.stub.wait_received("/customers/count", 1, SOON);
    let waits = |app: &mut Session, reason: &str| {
        let sql = format!("SELECT count(*) FROM meshhook.queued_runs WHERE reason LIKE '{reason}'");
        counted(app, &sql)
    };
    wait_for("two to wait for the first", SOON, || waits(&mut world.app, "all 1 slots are taken") == 2);
    assert_eq!(world.stub.received_at("/customers/count").len(), 1);
    gate.open();
    for id in &runs[..2] {
        assert_eq!(ended(&mut world.app, *id).output.expect("it succeeded")["written"], 0);
    }
    wait_for("the third to wait", SOON, || waits(&mut world.app, "2 starts in % are used up") == 1);
    assert_eq!(meshhook_e2e::run(&mut world.app, runs[2]).status, "queued");
}

fn lookups(name: &str, credit: u16) -> World {
    World::around(
        "enrichment",
        name,
        [
            ("/companies", 200, json!({"name": "Engines", "employees": 12})),
            ("/places", 200, json!({"country": "NZ"})),
            ("/credit", credit, json!({"score": 730})),
        ],
    )
}

#[test]
fn what_is_asked_for_is_asked_for_at_once_and_gathered() {
    let mut world = lookups("lookups", 200);
    let gate = Gate::new();
    let answer = json!({"name": "Engines", "employees": 12});
    world.stub.script("/companies", [Reply::json(200, &answer).behind(&gate)]);
    let id = world.start(&lead());
    for path in ["/companies", "/places", "/credit"] {
        world.stub.wait_received(path, 1, SOON);
    }
    gate.open();
    let profile = json!({"email": "Ada@Engines.Example", "company": "Engines", "employees": 12, "country": "NZ",
                         "credit": 730, "missing": []});
    assert_eq!(ended(&mut world.app, id).output, Some(profile.clone()));
    assert_eq!(world.only("/companies").query, "domain=engines.example");
    let data: Value = world.app.value("SELECT data FROM meshhook.read_stream('lead-42')", &[]);
    assert_eq!(data, profile, "one message, with the same in it");
}

#[test]
fn one_service_may_fail_and_the_others_may_not() {
    let mut world = lookups("lookups_fail", 503);
    let output = world.run(&lead()).output.expect("it succeeded");
    assert_eq!((&output["credit"], &output["missing"]), (&Value::Null, &json!(["credit"])));
    assert_eq!(output["company"], "Engines");
    assert_eq!(world.stub.received_at("/credit").len(), 2);
    world.stub.script("/companies", [Reply::status(404)]);
    let error = world.run(&lead()).error.expect("it failed");
    assert_eq!(error["node"], "company");
    assert_eq!(counted(&mut world.app, "SELECT count(*) FROM meshhook.read_stream('lead-42')"), 1);
}

#[test]
fn a_month_passes_in_a_moment_and_then_two_weeks() {
    let db = Database::preloaded("reminder_simulated");
    let mut app = db.app();
    let definition = definition("reminder", OUTSIDE);
    let mut happens = |mocks: Value| -> Vec<(String, String, i64)> {
        let rows = app.rows(
            "SELECT type, coalesce(node, ''), extract(day FROM \"time\" - timestamptz '2026-01-01 09:00Z')::bigint
             FROM meshhook.simulate_run($1, $2, $3, '2026-01-01 09:00Z') ORDER BY position",
            &[&definition, &invoice(), &mocks],
        );
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    };
    let at = |events: &[(String, String, i64)], kind: &str, node: &str| {
        let found = events.iter().find(|(k, n, _)| k == kind && n == node);
        found.map(|(_, _, day)| *day)
    };
    let sent = json!({"output": {"status": 202, "body": {"id": "case_1"}}});
    let unpaid = happens(json!({"remind": sent, "collect": sent}));
    assert_eq!(at(&unpaid, "node.scheduled", "remind"), Some(30), "{unpaid:?}");
    assert_eq!(at(&unpaid, "node.scheduled", "collect"), Some(44), "{unpaid:?}");
    assert_eq!(at(&unpaid, "run.succeeded", ""), Some(44), "{unpaid:?}");
    let late = happens(json!({"remind": sent, "paid_late": {"output": {"by": "transfer"}, "after": "3d"}}));
    assert_eq!(at(&late, "node.skipped", "collect"), Some(33), "{late:?}");
    let paid = happens(json!({"paid": {"output": {"by": "card"}, "after": "29d"}}));
    assert_eq!(at(&paid, "node.skipped", "remind"), Some(29), "{paid:?}");
    assert_eq!(at(&paid, "run.succeeded", ""), Some(29), "{paid:?}");
}

#[test]
fn a_reminder_is_sent_when_its_time_comes_and_not_once_it_is_paid() {
    let mut world = World::around("reminder", "reminder_real", [("/emails", 202, json!({}))]);
    let pay = |world: &mut World, id: Uuid| {
        world.app.exec(&format!("SELECT meshhook.signal_run('{id}', 'paid', '{{\"by\": \"card\"}}')"));
        assert_eq!(ended(&mut world.app, id).output, Some(json!({"paid": true, "by": "card"})));
    };
    let month =
        "SELECT count(*) FROM meshhook.timer WHERE due_at - now() BETWEEN '29 days 23 hours' AND '30 days'";
    let early = world.start(&invoice());
    world.wait_waiting(early, "paid");
    assert_eq!(counted(&mut world.db.admin(), month), 1, "a month is a row");
    pay(&mut world, early);
    assert_eq!(counted(&mut world.db.admin(), month), 0);
    assert!(world.called().is_empty());

    world.hurry("reminder", "30d", "1s");
    let late = world.start(&invoice());
    world.wait_waiting(late, "paid_late");
    assert_eq!(world.only("/emails").json()["to"], "ada@example.com");
    pay(&mut world, late);
    assert_eq!(world.called(), ["/emails"]);
}
