//! Tests of the glue between Rust and the server: one transaction each, rolled back. What needs
//! several sessions, workers or crashes is in tests/e2e.

#[pgrx::pg_schema]
mod tests {
    use meshhook_engine::json::Json;
    use pgrx::prelude::*;

    use crate::error::may_be_a_runs_fault;
    use crate::owner::{OWNER, Role, as_owner};
    use crate::spi::{self, RawJsonb, arg};
    use crate::subtransaction::attempt;
    use crate::{project, random, secret, workflow};

    fn current_user() -> String {
        spi::read_one("SELECT current_user::text", &[], |row| row.must::<String>(1)).unwrap()
    }

    #[pg_test]
    fn work_as_the_owner_ends_with_the_callers_rights() {
        let before = current_user();
        let (inside, caller) = as_owner(|caller| (current_user(), caller.name()));
        assert_eq!(inside, OWNER);
        assert_eq!(caller, before);
        assert_eq!(current_user(), before);
    }

    #[pg_test]
    fn an_error_as_the_owner_gives_the_callers_rights_back() {
        let before = current_user();
        let caught = attempt(|| as_owner(|_| spi::exec("SELECT 1 / (random() * 0)::integer", &[])));
        assert_eq!(caught.unwrap_err().sqlstate, PgSqlErrorCode::ERRCODE_DIVISION_BY_ZERO);
        assert_eq!(current_user(), before);
    }

    #[pg_test]
    fn a_failed_attempt_leaves_nothing_and_a_good_one_stays() {
        spi::exec("CREATE TEMP TABLE attempts (n integer)", &[]);
        let caught: Result<(), _> = attempt(|| {
            spi::exec("INSERT INTO attempts VALUES (1)", &[]);
            panic!("a bug");
        });
        assert_eq!(caught.unwrap_err().message, "a bug");
        attempt(|| spi::exec("INSERT INTO attempts VALUES (2)", &[])).unwrap();
        let rows = spi::run("SELECT n FROM attempts", &[], |row| row.must::<i32>(1));
        assert_eq!(rows, [2]);
    }

    #[pg_test]
    fn reading_takes_no_transaction_id() {
        spi::read("SELECT count(*) FROM meshhook.run WHERE project_id = $1", &[arg(0)], |row| {
            row.must::<i64>(1)
        });
        let id =
            spi::read_one("SELECT pg_current_xact_id_if_assigned()::text", &[], |row| row.get::<String>(1));
        assert_eq!(id, Some(None));
    }

    #[pg_test]
    fn documents_pass_through_unchanged() {
        let text = r#"{"b": 1.10, "aa": [null, "ä", 123456789012345678901234567890]}"#;
        let passed =
            spi::read_one("SELECT $1::jsonb", &[arg(RawJsonb::of_text(text))], |row| row.raw_jsonb(1));
        assert_eq!(passed.flatten().unwrap().text(), text);
    }

    #[pg_test]
    fn a_document_is_the_jsonb_that_its_text_is() {
        let integers =
            "[0, 1, -1, 9999, 10000, 10001, -10000, 99999999, 100000000, 100010000, 1000000000000000000,
            9223372036854775807, 9223372036854770000, -9223372036854775808]";
        let mut documents: Vec<Json> = [
            "null",
            "false",
            "[]",
            "{}",
            r#""""#,
            r#""a""#,
            "-9223372036854775808",
            "1.5",
            integers,
            "[true, 1.10, -0.5, 1e3, 123456789012345678901234567890, 1e-7, 0.00012]",
            r#"{"b": 1, "aa": 2, "": {"ä": "ö", "z": [[], {}, "\"\\"]}, "a": null, "abc": false}"#,
        ]
        .map(|text| Json::parse(text).unwrap())
        .into();
        // Every 32nd entry is another one, and what is aligned follows strings of all lengths.
        documents.extend((0..140).map(|many| Json::array((0..many).map(|item| mixed(item, many)))));
        documents.extend(
            (0..140).map(|many| {
                Json::object((0..many).map(|key| (format!("{:x}", key * key), mixed(key, many))))
            }),
        );
        documents.push(Json::array([Json::array(documents.clone()), Json::from("z")]));
        for document in documents {
            let (built, read) = (RawJsonb::of(&document), RawJsonb::of_text(&document.to_string()));
            assert_eq!(built.text(), read.text());
            assert_eq!(bytes(built), bytes(read), "{document}");
        }
    }

    /// Some value or other of every kind.
    fn mixed(item: i64, salt: i64) -> Json {
        let text = "x".repeat((item % 7) as usize);
        match (item * 31 + salt) % 11 {
            0 => Json::Null,
            1 => Json::Bool(item % 2 == 0),
            2 | 3 => Json::from(item.pow(7) * if salt % 2 == 0 { 1 } else { -1 }),
            4 => Json::from_f64(item as f64 / 8.0).unwrap(),
            5 => Json::array([Json::from(item), Json::from(text)]),
            6 => Json::object([("k", Json::from(text)), ("key", Json::from(salt))]),
            7 => Json::array(Vec::<Json>::new()),
            _ => Json::from(text),
        }
    }

    fn bytes(jsonb: RawJsonb) -> Vec<u8> {
        // SAFETY: the datum is a jsonb that was made a moment ago.
        unsafe { pgrx::varlena_to_byte_slice(jsonb.0.cast_mut_ptr()) }.to_vec()
    }

    #[pg_test(error = "\\u0000 cannot be stored in jsonb")]
    fn a_document_with_a_nul_is_refused() {
        RawJsonb::of(&Json::from("a\0b"));
    }

    #[pg_test]
    fn run_ids_are_time_ordered_version_7() {
        let (id, at) = random::uuid_v7();
        assert_eq!(id.as_bytes()[6] >> 4, 7);
        assert_eq!(id.as_bytes()[8] >> 6, 2);
        let millis = id.as_bytes()[..6].iter().fold(0i64, |n, byte| (n << 8) | i64::from(*byte));
        assert_eq!(millis, random::unix_micros(at) / 1000);
        let back = spi::read_one("SELECT meshhook.uuid_time($1)", &[arg(id)], |row| row.must(1)).unwrap();
        assert_eq!(random::unix_micros(back), millis * 1000);
    }

    #[pg_test]
    fn nothing_is_sealed_without_a_key_file() {
        assert!(secret::seal(b"clear", "place").is_err());
    }

    #[pg_test]
    fn faults_of_the_data_are_told_from_the_rest() {
        for code in [
            PgSqlErrorCode::ERRCODE_DIVISION_BY_ZERO,
            PgSqlErrorCode::ERRCODE_CHECK_VIOLATION,
            PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
            PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
            PgSqlErrorCode::ERRCODE_QUERY_CANCELED,
        ] {
            assert!(may_be_a_runs_fault(code), "{code:?}");
        }
        for code in [
            PgSqlErrorCode::ERRCODE_DISK_FULL,
            PgSqlErrorCode::ERRCODE_LOCK_NOT_AVAILABLE,
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            PgSqlErrorCode::ERRCODE_ADMIN_SHUTDOWN,
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
        ] {
            assert!(!may_be_a_runs_fault(code), "{code:?}");
        }
    }

    #[pg_test]
    fn roles_are_looked_up_without_raising() {
        assert!(Role::named("no such role").is_none());
        assert!(Role::named("nul\0byte").is_none());
        assert!(Role::named(OWNER).is_some_and(|owner| !owner.is_executor()));
    }

    #[pg_test]
    fn an_older_release_never_publishes_over_a_newer() {
        let definition = |revision: &str, output: i32| {
            format!(
                r#"{{"name": "meshhook:probe", "vars": {{{revision}}}, "nodes": [
                    {{"id": "n", "type": "transform", "with": {{"output": {output}}}}}]}}"#
            )
        };
        let newest = |definition: String| {
            as_owner(|caller| {
                let owner = Role::named(OWNER).unwrap();
                workflow::ensure_own(project::current(caller), owner, "meshhook:probe", definition.leak());
            });
            spi::run_one(
                "SELECT v.version, (v.definition #>> '{nodes,0,with,output}')::integer
                 FROM meshhook.workflow w
                 JOIN meshhook.workflow_version v ON v.project_id = w.project_id AND v.workflow_id = w.workflow_id
                 WHERE w.name = 'meshhook:probe' ORDER BY v.version DESC LIMIT 1",
                &[],
                |row| (row.must::<i32>(1), row.must::<i32>(2)),
            )
            .unwrap()
        };
        // A release that knew of no revisions, this one, and one that comes after it.
        let (first, own, later) =
            (definition("", 0), definition(r#""revision": 2"#, 2), definition(r#""revision": 3"#, 3));
        assert_eq!(newest(first), (1, 0));
        assert_eq!(newest(own.clone()), (2, 2));
        assert_eq!(newest(own.clone()), (2, 2));
        assert_eq!(newest(later.clone()), (3, 3));
        for _ in 0..2 {
            assert_eq!(newest(own.clone()), (3, 3));
            assert_eq!(newest(later.clone()), (3, 3));
        }
        assert_eq!(
            newest(definition(r#""revision": 3"#, 4)),
            (3, 3),
            "of two with one revision the first stays"
        );
    }

    #[pg_test(error = "run \"00000000-0000-0000-0000-000000000000\" does not exist")]
    fn an_unknown_run_is_an_error_with_its_code() {
        Spi::run("SELECT meshhook.run_state('00000000-0000-0000-0000-000000000000')").unwrap();
    }
}
