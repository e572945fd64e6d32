//! When runs are due: cron patterns across both changes of the clocks in three zones, periods, jitter, and
//! what is made of time that was slept through.

use std::collections::BTreeSet;

use jiff::ToSpan;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use meshhook_engine::schedule::{Calendar, Cron, Due, Rule, Zone};
use meshhook_engine::time::Timestamp;
use proptest::prelude::*;

const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).expect("an RFC 3339 time")
}

fn plus(time: Timestamp, micros: i64) -> Timestamp {
    Timestamp::from_micros(time.as_micros() + micros)
}

fn cron(pattern: &str, zone: &str) -> Rule {
    let zone = Zone::named(zone).expect("a zone");
    Rule::Cron(Box::new(Cron::parse(pattern, zone).expect("a pattern")))
}

fn plain(rule: Rule) -> Calendar {
    Calendar { rule, jitter: 0, seed: 0 }
}

/// What the clocks of the zone read at the first times after a moment, without the zone's name.
fn readings(pattern: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
    let (rule, zone) = (cron(pattern, zone), Zone::named(zone).expect("a zone"));
    std::iter::successors(rule.next_after(at(after)), |time| rule.next_after(*time))
        .take(count)
        .map(|time| zone.reading(time).split('[').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn a_reading_that_is_jumped_over_is_due_at_the_jump() {
    assert_eq!(
        readings("30 2 * * *", "Europe/Berlin", "2026-03-27T12:00:00Z", 3),
        ["2026-03-28T02:30:00+01:00", "2026-03-29T03:00:00+02:00", "2026-03-30T02:30:00+02:00"]
    );
    assert_eq!(
        readings("30 2 * * *", "America/New_York", "2026-03-07T12:00:00Z", 2),
        ["2026-03-08T03:00:00-04:00", "2026-03-09T02:30:00-04:00"]
    );
    // Half an hour is jumped over, from 02:00 to 02:30.
    assert_eq!(
        readings("15 2 * * *", "Australia/Lord_Howe", "2026-10-02T20:00:00Z", 2),
        ["2026-10-04T02:30:00+11:00", "2026-10-05T02:15:00+11:00"]
    );
}

#[test]
fn a_jump_over_many_readings_is_due_once() {
    assert_eq!(
        readings("*/20 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", 4),
        [
            "2026-03-29T03:00:00+02:00",
            "2026-03-29T03:20:00+02:00",
            "2026-03-29T03:40:00+02:00",
            "2026-03-30T02:00:00+02:00"
        ]
    );
}

#[test]
fn a_reading_that_is_repeated_is_due_the_first_time() {
    assert_eq!(
        readings("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
        ["2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"]
    );
    assert_eq!(
        readings("30 1 * * *", "America/New_York", "2026-10-31T12:00:00Z", 2),
        ["2026-11-01T01:30:00-04:00", "2026-11-02T01:30:00-05:00"]
    );
    assert_eq!(
        readings("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T04:00:00Z", 2),
        ["2026-04-05T01:45:00+11:00", "2026-04-06T01:45:00+10:30"]
    );
    // Asked during the second pass.
    assert_eq!(
        readings("30 2 * * *", "Europe/Berlin", "2026-10-25T01:10:00Z", 1),
        ["2026-10-26T02:30:00+01:00"]
    );
}

#[test]
fn every_quarter_of_an_hour_stays_that_when_clocks_change() {
    for (zone, change) in [
        ("Europe/Berlin", "2026-03-29T00:00:00Z"),
        ("Europe/Berlin", "2026-10-25T00:00:00Z"),
        ("America/New_York", "2026-03-08T06:00:00Z"),
        ("America/New_York", "2026-11-01T05:00:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T14:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T14:00:00Z"),
    ] {
        let rule = cron("*/15 * * * *", zone);
        let mut time = at(change);
        for _ in 0..24 {
            let next = rule.next_after(time).expect("there is always a next quarter");
            assert_eq!(next, plus(time, 15 * MINUTE), "{zone} after {time}");
            time = next;
        }
    }
}

#[test]
fn patterns_are_those_people_know() {
    let utc = |pattern, count| readings(pattern, "UTC", "2026-01-01T00:00:00Z", count);
    assert_eq!(utc("0 9 * * MON-FRI", 2), ["2026-01-01T09:00:00+00:00", "2026-01-02T09:00:00+00:00"]);
    assert_eq!(utc("*/20 * * * * *", 2), ["2026-01-01T00:00:20+00:00", "2026-01-01T00:00:40+00:00"]);
    assert_eq!(utc("@daily", 1), ["2026-01-02T00:00:00+00:00"]);
    assert_eq!(utc("0 0 L * *", 2), ["2026-01-31T00:00:00+00:00", "2026-02-28T00:00:00+00:00"]);
    assert_eq!(utc("0 0 29 2 *", 1), ["2028-02-29T00:00:00+00:00"]);
    // Either the day of the month or the day of the week, as cron has always had it.
    assert_eq!(utc("0 0 13 * FRI", 2), ["2026-01-02T00:00:00+00:00", "2026-01-09T00:00:00+00:00"]);
    assert_eq!(utc("0 0 * * 7", 1), utc("0 0 * * 0", 1));
}

#[test]
fn what_is_no_pattern_is_refused_and_what_never_comes_is_told() {
    let zone = Zone::named("UTC").expect("a zone");
    for pattern in
        ["", "* * * *", "60 * * * *", "* * * * MOO", "* * * * * * 2027", "@reboot", &"1,".repeat(200)]
    {
        assert!(Cron::parse(pattern, zone.clone()).is_err(), "{pattern}");
    }
    assert_eq!(cron("0 0 30 2 *", "UTC").next_after(at("2026-01-01T00:00:00Z")), None);
    assert!(Zone::named("Mars/Olympus").is_none());
    assert_eq!(Zone::named("europe/berlin").expect("a zone").name(), "Europe/Berlin");
}

#[test]
fn a_period_is_counted_from_its_anchor() {
    let rule = Rule::Every { period: 90 * SECOND, anchor: at("2026-01-01T00:00:10Z") };
    assert_eq!(rule.next_after(at("2026-01-01T00:00:10Z")), Some(at("2026-01-01T00:01:40Z")));
    assert_eq!(rule.next_after(at("2026-01-01T00:01:39.999999Z")), Some(at("2026-01-01T00:01:40Z")));
    assert_eq!(rule.next_after(at("2025-12-31T23:59:00Z")), Some(at("2026-01-01T00:00:10Z")));
    assert_eq!(rule.next_after(Timestamp::from_micros(i64::MAX)), None);
}

#[test]
fn after_a_day_down_the_last_hour_is_made_up_for_and_the_rest_is_counted() {
    let calendar = plain(cron("0 * * * *", "Europe/Berlin"));
    let (from, now) = (at("2026-03-28T12:00:00Z"), at("2026-03-29T12:30:00Z"));
    let due = calendar.due(from, now, HOUR);
    assert_eq!(due.times, [at("2026-03-29T12:00:00Z")]);
    assert_eq!(due.missed, 24);
    assert_eq!(due.missed_between, Some((from, at("2026-03-29T11:00:00Z"))));
    assert_eq!(due.next, Some(at("2026-03-29T13:00:00Z")));
    assert_eq!(calendar.due(from, now, 2 * DAY).times.len(), 25);
}

#[test]
fn much_that_is_due_comes_in_portions() {
    let calendar = plain(Rule::Every { period: SECOND, anchor: at("2026-01-01T00:00:00Z") });
    let (mut from, now) = (at("2026-01-01T00:00:01Z"), at("2026-01-02T00:00:00Z"));
    let (mut missed, mut times) = (0, 0);
    for _ in 0..100 {
        let Due { times: brought, missed: passed, next, .. } = calendar.due(from, now, HOUR);
        missed += passed;
        times += brought.len();
        from = next.expect("a period never ends");
    }
    assert_eq!((missed, times), (82_799, 3_601));
    assert!(from > now);
}

/// A pattern as sets, and as text.
#[derive(Clone, Debug)]
struct Sets {
    minutes: BTreeSet<i8>,
    hours: Option<BTreeSet<i8>>,
    weekdays: Option<BTreeSet<i8>>,
}

impl Sets {
    fn text(&self) -> String {
        let list = |set: &BTreeSet<i8>| set.iter().map(i8::to_string).collect::<Vec<_>>().join(",");
        let optional = |set: &Option<BTreeSet<i8>>| set.as_ref().map_or("*".to_owned(), list);
        format!("{} {} * * {}", list(&self.minutes), optional(&self.hours), optional(&self.weekdays))
    }

    fn matches(&self, local: DateTime) -> bool {
        let among = |set: &Option<BTreeSet<i8>>, value| set.as_ref().is_none_or(|set| set.contains(&value));
        self.minutes.contains(&local.minute())
            && among(&self.hours, local.hour())
            && among(&self.weekdays, local.weekday().to_sunday_zero_offset())
    }

    /// The times of three days, found by looking at the clock every minute.
    fn by_looking(&self, zone: &str, from: Timestamp) -> Vec<Timestamp> {
        let zone = TimeZone::get(zone).expect("a zone");
        let local = |time: Timestamp| {
            let moment = jiff::Timestamp::from_microsecond(time.as_micros()).expect("in range");
            zone.to_datetime(moment)
        };
        // Whoever names hours must know what the clocks have shown before.
        let before = (1..=180).map(|minutes| local(plus(from, -minutes * MINUTE))).max();
        let mut latest = before.expect("three hours").max(local(from));
        let mut found = Vec::new();
        for minute in 1..3 * 24 * 60 {
            let time = plus(from, minute * MINUTE);
            let reading = local(time);
            let due = if self.hours.is_none() {
                self.matches(reading)
            } else {
                let mut passed = latest;
                let mut matched = false;
                while passed < reading {
                    passed = passed.checked_add(1.minute()).expect("in range");
                    matched |= self.matches(passed);
                }
                latest = latest.max(reading);
                matched
            };
            if due {
                found.push(time);
            }
        }
        found
    }
}

fn sets() -> impl Strategy<Value = Sets> {
    let some = |range: std::ops::Range<i8>, most| prop::collection::btree_set(range, 1..=most);
    (some(0..60, 4), prop::option::of(some(0..4, 3)), prop::option::of(some(0..7, 5)))
        .prop_map(|(minutes, hours, weekdays)| Sets { minutes, hours, weekdays })
}

fn changes() -> impl Strategy<Value = (&'static str, Timestamp)> {
    prop::sample::select(vec![
        ("Europe/Berlin", "2026-03-29T01:00:00Z"),
        ("Europe/Berlin", "2026-10-25T01:00:00Z"),
        ("America/New_York", "2026-03-08T07:00:00Z"),
        ("America/New_York", "2026-11-01T06:00:00Z"),
        ("Australia/Lord_Howe", "2026-04-04T15:00:00Z"),
        ("Australia/Lord_Howe", "2026-10-03T15:30:00Z"),
    ])
    .prop_map(|(zone, change)| (zone, at(change)))
}

proptest! {
    #[test]
    fn agrees_with_looking_at_the_clock_every_minute(
        sets in sets(), (zone, change) in changes(), minutes in 0i64..36 * 60,
    ) {
        let from = plus(change, -minutes * MINUTE);
        let calendar = plain(cron(&sets.text(), zone));
        let found = calendar.between(plus(from, 1), plus(from, 3 * DAY), 10_000);
        prop_assert_eq!(found, sets.by_looking(zone, from), "{} in {}", sets.text(), zone);
    }

    #[test]
    fn comes_after_what_it_was_asked_for_and_leaves_nothing_out(
        sets in sets(), (zone, change) in changes(), off in -3 * DAY..3 * DAY,
    ) {
        let rule = cron(&sets.text(), zone);
        let after = plus(change, off);
        let next = rule.next_after(after).expect("such patterns always come again");
        prop_assert!(next > after);
        // Whoever asks between the two is told the same.
        let between = Timestamp::from_micros(i64::midpoint(after.as_micros(), next.as_micros()));
        prop_assert_eq!(rule.next_after(between.min(plus(next, -1))), Some(next));
    }

    #[test]
    fn whatever_is_written_is_a_pattern_or_is_refused(pattern in "[0-9*/,?LW#+@A-Z -]{0,24}|[0-9*/,-]{1,4}( [0-9*/,LW#?-]{1,4}){4,5}") {
        let zone = Zone::named("America/New_York").expect("a zone");
        if let Ok(cron) = Cron::parse(&pattern, zone) {
            let after = at("2026-01-01T00:00:00Z");
            prop_assert!(cron.next_after(after).is_none_or(|next| next > after));
        }
    }

    #[test]
    fn jitter_is_a_function_of_seed_and_time_and_keeps_the_order(
        seed: u64, jitter in 0..2 * HOUR, start in 0..10 * 365 * DAY,
    ) {
        let rule = cron("*/7 * * * *", "Europe/Berlin");
        let calendar = Calendar { rule, jitter, seed };
        let time = calendar.rule.next_after(Timestamp::from_micros(start)).expect("a next one");
        let next = calendar.rule.next_after(time).expect("a next one");
        let due = calendar.due_at(time);
        prop_assert_eq!(due, calendar.clone().due_at(time));
        prop_assert!(due >= time && due <= plus(time, jitter) && due < next && due < calendar.due_at(next));
    }
}
