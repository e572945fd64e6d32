//! The workflows of `examples/`, each driven as its README says.

use super::play::{Play, Trouble};
use super::stage::Scenario;
use meshhook_e2e::examples::{definition, folder, invoice, lead, order, payment, read};
use meshhook_testkit::sign;
use serde_json::{Value, json};

pub fn all() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "order-fulfilment",
            definitions: |outside| vec![definition("order-fulfilment", outside)],
            answers: || {
                vec![
                    ("/reservations", 201, json!({"id": "res_1"})),
                    ("/charges", 201, json!({"id": "ch_1", "amount": 90})),
                    ("/shipments", 201, json!({"tracking": "trk_1"})),
                    ("/emails", 202, json!({})),
                ]
            },
            drive: |play| {
                let run = play.start("order-fulfilment", &order());
                play.wait_ended(run)
            },
        },
        Scenario {
            name: "issue-triage",
            definitions: |outside| vec![definition("issue-triage", outside)],
            answers: || {
                vec![
                    ("/repos/ada/engine/issues/17/labels", 200, json!([])),
                    ("/repos/ada/engine/issues/17/comments", 201, json!({"id": 1})),
                ]
            },
            drive: issue_triage,
        },
        Scenario {
            name: "payment-approval",
            definitions: |outside| vec![definition("payment-approval", outside)],
            answers: || {
                vec![
                    ("/charges", 201, json!({"id": "ch_1"})),
                    ("/accounts", 201, json!({"id": "acc_1"})),
                    ("/emails", 202, json!({})),
                ]
            },
            drive: |play| {
                let run = play.start("payment-approval", &payment(5000));
                play.wait_waiting(run, "approval")?;
                let sql = "SELECT meshhook.decide_approval($1, 'approval', true, decided_by => 'grace')";
                play.act(sql, &[&run]);
                play.wait_ended(run)
            },
        },
        Scenario { name: "nightly-sync", definitions: nightly_sync, answers: shop, drive: night },
        Scenario {
            name: "enrichment",
            definitions: |outside| vec![definition("enrichment", outside)],
            answers: || {
                vec![
                    ("/companies", 200, json!({"name": "Engines", "employees": 12})),
                    ("/places", 200, json!({"country": "NZ"})),
                    ("/credit", 200, json!({"score": 730})),
                ]
            },
            drive: |play| {
                let mut lead = lead();
                lead["lead"] = json!(play.number);
                let run = play.start("enrichment", &lead);
                play.wait_ended(run)
            },
        },
        Scenario {
            name: "reminder",
            definitions: |outside| vec![hurried("reminder", outside, "30d")],
            answers: || vec![("/emails", 202, json!({}))],
            drive: |play| {
                let run = play.start("reminder", &invoice());
                play.wait_waiting(run, "paid_late")?;
                play.signal(run, "paid");
                play.wait_ended(run)
            },
        },
        Scenario {
            name: "task-worker",
            definitions: |outside| vec![definition("task-worker", outside)],
            answers: Vec::new,
            drive: task_worker,
        },
    ]
}

/// An example with a time limit that can be waited for.
fn hurried(example: &str, outside: &str, limit: &str) -> Value {
    let text = definition(example, outside).to_string();
    let [from, to] = [limit, "300ms"].map(|limit| format!("\"timeout\":\"{limit}\""));
    assert_eq!(text.matches(&from).count(), 1, "{text}");
    serde_json::from_str(&text.replace(&from, &to)).unwrap_or_else(|e| panic!("{example}: {e}"))
}

fn issue_triage(play: &mut Play) -> Result<(), Trouble> {
    let mut issue: Value = serde_json::from_str(&read(&folder().join("issue-triage/issue.json")))
        .unwrap_or_else(|e| panic!("issue.json: {e}"));
    // A delivery of GitHub's is known by its signed body.
    issue["play"] = json!(play.name);
    let body = issue.to_string().into_bytes();
    let (path, secret) = play.stage.issues.clone();
    let run = play.deliver(&path, &sign::github_event(&secret, &play.name, "issues", &body), &body)?;
    play.wait_ended(run)
}

/// Its pages are answered by number, however often each is asked for; and an hour has room for many nights.
fn nightly_sync(outside: &str) -> Vec<Value> {
    let text = definition("nightly-sync", outside).to_string();
    let pages = "{{ .vars.shop }}/customers\"";
    assert_eq!(text.matches(pages).count(), 1, "{text}");
    let text = text.replace(pages, "{{ .vars.shop }}/customers/{{ .item }}\"");
    let mut night: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("nightly-sync: {e}"));
    night["rate"]["limit"] = json!(100_000);
    vec![night]
}

fn shop() -> Vec<(&'static str, u16, Value)> {
    let page = |first: i32| {
        let customer =
            |id| json!({"id": id, "name": format!("C{id}"), "email": format!("c{id}@example.com")});
        json!({"customers": [customer(first), customer(first + 1)]})
    };
    vec![
        ("/customers/count", 200, json!({"pages": 2})),
        ("/customers/1", 200, page(1)),
        ("/customers/2", 200, page(3)),
        ("/contacts/1", 200, json!({})),
        ("/contacts/2", 200, json!({})),
        ("/contacts/3", 200, json!({})),
        ("/contacts/4", 200, json!({})),
    ]
}

/// Two nights: the second waits for the first.
fn night(play: &mut Play) -> Result<(), Trouble> {
    let runs = [play.start("nightly-sync", &json!({})), play.start("nightly-sync", &json!({}))];
    runs.into_iter().try_for_each(|run| play.wait_ended(run))
}

fn task_worker(play: &mut Play) -> Result<(), Trouble> {
    let run = play.start("text-statistics", &json!({"text": "a bc"}));
    loop {
        let job = play.claim("words", "1 s")?;
        let answer = play.report("complete_job", &job, &json!({"words": 2, "longest": "bc"}));
        // Stale: by a lost answer, or by a lease that the crash has outlived.
        if answer == "accepted" || play.has_ended(run) {
            return play.wait_ended(run);
        }
    }
}
