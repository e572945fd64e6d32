//! The settings.

use std::ffi::CString;

use meshhook_engine::snapshot::Cadence;
use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

/// `meshhook.databases`: which databases the launcher serves; empty means every one with the extension.
pub static DATABASES: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// `meshhook.project`: slug of the project a session works in; empty means the default project.
pub static PROJECT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// `meshhook.kek_file`: the file with the key-encryption keys.
pub static KEK_FILE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// `meshhook.public_url`: where the sidecar is reached from outside.
static PUBLIC_URL: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);
/// `meshhook.resume_url_lifetime`: how long a resume URL can be used, in seconds.
static RESUME_URL_LIFETIME: GucSetting<i32> = GucSetting::<i32>::new(30 * 86_400);
/// `meshhook.leaf_days`: how many days of runs one leaf holds.
pub static LEAF_DAYS: GucSetting<i32> = GucSetting::<i32>::new(7);
/// `meshhook.max_run_events`: at how many events a run fails; 0 is no limit.
static MAX_RUN_EVENTS: GucSetting<i32> = GucSetting::<i32>::new(50_000);

/// `meshhook.snapshot_events`: how many events after the last snapshot call for the next one; 0: none do.
static SNAPSHOT_EVENTS: GucSetting<i32> = GucSetting::<i32>::new(5_000);
/// `meshhook.snapshot_bytes`: how many bytes of events after the last snapshot call for the next one; 0: none do.
static SNAPSHOT_BYTES: GucSetting<i32> = GucSetting::<i32>::new(1 << 20);
/// `meshhook.snapshots_kept`: how many snapshots of a run are kept.
static SNAPSHOTS_KEPT: GucSetting<i32> = GucSetting::<i32>::new(2);

/// `meshhook.retention_days`: how many days runs are kept after their end.
pub static RETENTION_DAYS: GucSetting<i32> = GucSetting::<i32>::new(30);

/// `meshhook.delivery_days`: how many days the records of webhook deliveries are kept.
pub static DELIVERY_DAYS: GucSetting<i32> = GucSetting::<i32>::new(30);

/// `message_store.sql_condition`: whether reads through schema `message_store` may have conditions in SQL; `off` refuses.
pub static SQL_CONDITION: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"off"));
/// `message_store.debug_get`: `on` shows the arguments of reads.
pub static DEBUG_GET: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"off"));
/// `message_store.debug_write`: `on` shows the arguments of writes.
pub static DEBUG_WRITE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"off"));
/// `message_store.debug`: `on` shows both.
pub static DEBUG: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"off"));

/// Largest input, output or webhook body, in bytes.
pub const MAX_PAYLOAD_BYTES: usize = 1 << 20;

/// Defines the settings. Called once, from `_PG_init`.
pub fn init() {
    GucRegistry::define_string_guc(
        c"meshhook.databases",
        c"Databases that are served, separated by commas; empty: all that have the extension.",
        c"Read by the launcher, which needs shared_preload_libraries.",
        &DATABASES,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"meshhook.project",
        c"Slug of the project this session works in; empty: the default project.",
        c"A role sees a project only if it, or a role it belongs to, is a member of it.",
        &PROJECT,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_string_guc(
        c"meshhook.kek_file",
        c"File with the key-encryption keys that seal secrets.",
        c"One key a line, \"id:base64 of 32 bytes\"; the first seals, all open. Mode 0600, owned by the server's user.",
        &KEK_FILE,
        GucContext::Sighup,
        GucFlags::SUPERUSER_ONLY,
    );
    GucRegistry::define_string_guc(
        c"meshhook.public_url",
        c"Address that the sidecar is reached at from outside, as in https://hooks.example.com.",
        c"Resume URLs begin with it; without it they are sent without a host.",
        &PUBLIC_URL,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"meshhook.resume_url_lifetime",
        c"How long a resume URL can be used, from when the node that sends it is scheduled.",
        c"Counted when the URL is made: a change holds for URLs sent afterwards.",
        &RESUME_URL_LIFETIME,
        60,
        10 * 366 * 86_400,
        GucContext::Sighup,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"meshhook.leaf_days",
        c"Days of runs that one leaf of the partitioned tables holds.",
        c"maintain() closes the open leaf once it is that old.",
        &LEAF_DAYS,
        1,
        366,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"meshhook.max_run_events",
        c"Events in a run's log at which it fails, with an error of class limit.events; 0: no limit.",
        c"status() names open runs that have come to 80 % of it.",
        &MAX_RUN_EVENTS,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"meshhook.retention_days",
        c"Days that runs are kept after their end where set_retention() says nothing else; -1 keeps them for ever.",
        c"maintain() forgets older ones, a closed leaf at a time.",
        &RETENTION_DAYS,
        -1,
        36_500,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"meshhook.delivery_days",
        c"Days that the records of webhook deliveries are kept; -1 keeps them for ever.",
        c"maintain() forgets older ones, but none within the dedupe window of its endpoint.",
        &DELIVERY_DAYS,
        -1,
        36_500,
        GucContext::Sighup,
        GucFlags::default(),
    );
    snapshots();
    message_store();
}

/// Where the sidecar is reached from outside, without a slash at the end; `None` where that is not set or no URL.
pub fn public_url() -> Option<String> {
    let url = text(&PUBLIC_URL)?;
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let is_plain = |b: u8| b.is_ascii_graphic() && !b"\"\\<>?#@".contains(&b);
    let is_url = !rest.is_empty() && !rest.starts_with('/') && rest.bytes().all(is_plain);
    is_url.then(|| url.trim_end_matches('/').to_owned())
}

/// How long a resume URL can be used, in seconds.
pub fn resume_url_lifetime() -> i64 {
    i64::from(RESUME_URL_LIFETIME.get())
}

/// Defines when snapshots are written, and how many are kept.
fn snapshots() {
    GucRegistry::define_int_guc(
        c"meshhook.snapshot_events",
        c"Events of a run after its last snapshot at which a turn writes the next one; 0: their number does not matter.",
        c"Nor is one written before the events since have as many bytes as the last one.",
        &SNAPSHOT_EVENTS,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"meshhook.snapshot_bytes",
        c"Bytes of a run's events after its last snapshot at which a turn writes the next one; 0: their size does not matter.",
        c"Both 0: turns write no snapshots.",
        &SNAPSHOT_BYTES,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_BYTE,
    );
    GucRegistry::define_int_guc(
        c"meshhook.snapshots_kept",
        c"Snapshots of a run that are kept, the newest ones.",
        c"Older ones are deleted when one is written.",
        &SNAPSHOTS_KEPT,
        1,
        1_000,
        GucContext::Suset,
        GucFlags::default(),
    );
}

/// When turns write snapshots.
pub fn snapshot_cadence() -> Cadence {
    let positive = |setting: &GucSetting<i32>| u64::try_from(setting.get()).unwrap_or(0);
    Cadence { events: positive(&SNAPSHOT_EVENTS), bytes: positive(&SNAPSHOT_BYTES) }
}

/// How many snapshots of a run are kept.
pub fn snapshots_kept() -> i64 {
    i64::from(SNAPSHOTS_KEPT.get())
}

/// At how many events a run fails; `None` if there is no limit.
pub fn max_run_events() -> Option<u64> {
    u64::try_from(MAX_RUN_EVENTS.get()).ok().filter(|limit| *limit > 0)
}

/// Defines Message DB's settings, which clients of schema `message_store` know.
fn message_store() {
    GucRegistry::define_string_guc(
        c"message_store.sql_condition",
        c"Whether reads through schema message_store may have conditions in SQL; \"off\" refuses them.",
        c"A condition runs with its caller's rights.",
        &SQL_CONDITION,
        GucContext::Suset,
        GucFlags::default(),
    );
    for (name, about, setting) in [
        (
            c"message_store.debug_get",
            c"\"on\": reads through schema message_store show their arguments.",
            &DEBUG_GET,
        ),
        (
            c"message_store.debug_write",
            c"\"on\": writes through schema message_store show their arguments.",
            &DEBUG_WRITE,
        ),
        (c"message_store.debug", c"\"on\": both show their arguments.", &DEBUG),
    ] {
        GucRegistry::define_string_guc(
            name,
            about,
            c"As NOTICE.",
            setting,
            GucContext::Userset,
            GucFlags::default(),
        );
    }
}

/// The text of a string setting; `None` if unset or empty.
pub fn text(setting: &GucSetting<Option<CString>>) -> Option<String> {
    let value = setting.get()?.to_string_lossy().trim().to_owned();
    (!value.is_empty()).then_some(value)
}
