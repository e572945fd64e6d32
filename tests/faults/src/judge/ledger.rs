//! What became of the effects of runs: the words a request for one is made of, what is answered to it, and the books.

use meshhook_testkit::Session;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::program::MODULUS;
use super::verdict::{Fault, Kind, root};

/// Whether an effect lies in the database, or outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    Inside,
    Outside,
}

/// A request for an effect, as it stands in a job's input.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// `<tag of the run>:<path of the node>`.
    pub key: String,
    /// The number to work on.
    pub value: i64,
    /// How many deliveries fail before one may succeed.
    pub flaky: u64,
    /// Whether it is refused for good.
    pub refuse: bool,
}

impl Spec {
    /// Reads a request; `None` if it is none.
    pub fn read(request: &Value) -> Option<Spec> {
        Some(Spec {
            key: request["key"].as_str()?.to_owned(),
            value: request["v"].as_i64()?,
            flaky: request["flaky"].as_u64().unwrap_or(0),
            refuse: request["refuse"].as_bool().unwrap_or(false),
        })
    }

    /// The result of the work.
    pub fn result(&self) -> Value {
        json!({"v": (self.value * 7 + 3).rem_euclid(MODULUS)})
    }
}

/// A request as a service or an executor got it.
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// `<run>/<path>` as meshhook said.
    pub idempotency_key: String,
    /// Whether the effect took place.
    pub done: bool,
}

/// What a service shall do with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    Do,
    FailForNow,
    Refuse,
}

/// The books of the services and executors outside of the database. They outlive everything.
#[derive(Debug, Default)]
pub struct Ledger {
    deliveries: Mutex<BTreeMap<String, Vec<Delivery>>>,
    faults: Mutex<Vec<Fault>>,
}

impl Ledger {
    /// Enters a delivery, and says what becomes of it: that is a matter of its content and its number.
    pub fn enter(&self, spec: &Spec, idempotency_key: &str) -> Order {
        let mut deliveries = lock(&self.deliveries);
        let of_key = deliveries.entry(spec.key.clone()).or_default();
        let order = match of_key.len() as u64 {
            _ if spec.refuse => Order::Refuse,
            before if before < spec.flaky => Order::FailForNow,
            _ => Order::Do,
        };
        of_key.push(Delivery { idempotency_key: idempotency_key.to_owned(), done: order == Order::Do });
        order
    }

    /// How often a key was delivered so far.
    pub fn count(&self, key: &str) -> usize {
        lock(&self.deliveries).get(key).map_or(0, Vec::len)
    }

    /// Enters something that must never happen to what the key or tag belongs to.
    pub fn blame(&self, kind: Kind, key: &str, text: String) {
        lock(&self.faults).push(Fault { kind, tag: root(key).to_owned(), text });
    }

    /// What must never happen and did.
    pub fn faults(&self) -> Vec<Fault> {
        lock(&self.faults).clone()
    }

    /// All deliveries by key.
    pub fn deliveries(&self) -> BTreeMap<String, Vec<Delivery>> {
        lock(&self.deliveries).clone()
    }
}

/// The ledger in the database. It has no unique constraint: a second row must be seen, not refused.
pub const SCHEMA: &str = "
    CREATE SCHEMA judge;
    CREATE TABLE judge.effect (key text NOT NULL, at timestamptz NOT NULL DEFAULT clock_timestamp());
    CREATE SEQUENCE judge.luck;
    CREATE FUNCTION judge.act(a jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
    BEGIN
        IF (a ->> 'refuse')::boolean THEN
            RAISE EXCEPTION 'refused' USING ERRCODE = '22000';
        END IF;
        INSERT INTO judge.effect (key) VALUES (a ->> 'key');
        -- A sequence remembers what is rolled back.
        IF (a ->> 'flaky')::integer > 0 AND nextval('judge.luck') % 2 = 1 THEN
            RAISE EXCEPTION 'not now' USING ERRCODE = '58030';
        END IF;
        RETURN jsonb_build_object('v', ((a ->> 'v')::bigint * 7 + 3) % 1009);
    END $$;
    -- STABLE: it sees what the calling statement began with, so a claim made by that statement came later.
    CREATE FUNCTION judge.had_ended(run uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
        AS 'SELECT r.finished_at IS NOT NULL FROM meshhook.run r WHERE r.run_id = run';
    GRANT USAGE ON SCHEMA judge TO PUBLIC;
    GRANT INSERT ON judge.effect TO PUBLIC;
    GRANT USAGE ON SEQUENCE judge.luck TO PUBLIC;
";

/// How often each effect lies in the database: rows of the function, and messages.
pub fn inside(admin: &mut Session) -> BTreeMap<String, u64> {
    let rows = admin.rows(
        "SELECT key, count(*) FROM (SELECT key FROM judge.effect \
         UNION ALL SELECT data ->> 'key' FROM meshhook.message WHERE type = 'Effect') e GROUP BY key",
        &[],
    );
    rows.iter().map(|row| (row.get(0), u64::try_from(row.get::<_, i64>(1)).unwrap_or(0))).collect()
}

/// The books are kept whoever fails.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_of_a_delivery_is_a_matter_of_its_content_and_its_number() {
        let ledger = Ledger::default();
        let spec = |request| Spec::read(&request).expect("a request");
        let flaky = spec(json!({"key": "r:a", "v": 2, "flaky": 2, "refuse": false}));
        let orders = [(); 4].map(|()| ledger.enter(&flaky, "run/a"));
        assert_eq!(orders, [Order::FailForNow, Order::FailForNow, Order::Do, Order::Do]);
        let refused = spec(json!({"key": "r:b", "v": 2, "refuse": true}));
        assert_eq!(ledger.enter(&refused, "run/b"), Order::Refuse);
        let done: Vec<bool> = ledger.deliveries()["r:a"].iter().map(|delivery| delivery.done).collect();
        assert_eq!(done, [false, false, true, true]);
        assert_eq!((flaky.result(), ledger.count("r:b")), (json!({"v": 17}), 1));
        assert_eq!(Spec::read(&json!({"v": 1})), None);
    }
}
