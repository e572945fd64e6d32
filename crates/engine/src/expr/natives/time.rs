//! Dates in UTC: Unix seconds, "broken down" arrays, and text. Own arithmetic (the proleptic
//! Gregorian calendar) and a fixed set of directives, so that no library or locale decides.

use super::super::cx::Cx;
use super::super::error::{ExprCode, Fault, fault, type_fault};
use super::strings::string;
use super::{Native, native};
use crate::json::Json;

pub(super) const TABLE: &[Native] = &[
    native("fromdate", 0, |cx, v, _| from_date(cx, v)),
    native("fromdateiso8601", 0, |cx, v, _| from_date(cx, v)),
    native("gmtime", 0, |cx, v, _| {
        let (tm, fraction) = Tm::from_seconds(v)?;
        tm.to_json(cx, fraction)
    }),
    native("mktime", 0, |_, v, _| Ok(Json::from(Tm::from_json(v)?.seconds()))),
    native("strftime", 1, |cx, v, args| format(cx, v, string("strftime", &args[0])?)),
    native("strptime", 1, |cx, v, args| {
        let text = string("strptime", v)?;
        let format = string("strptime", &args[0])?;
        cx.scan(text.len() + 16 * format.len())?;
        parse(text, format)?.to_json(cx, 0.0)
    }),
    native("todate", 0, |cx, v, _| format(cx, v, ISO)),
    native("todateiso8601", 0, |cx, v, _| format(cx, v, ISO)),
];

const ISO: &str = "%Y-%m-%dT%H:%M:%SZ";
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
/// Years that can be written with four digits, as Unix seconds.
const RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200..=253_402_300_799;

/// A moment in UTC, taken apart.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tm {
    year: i64,
    /// From 0
    month: i64,
    day: i64,
    hour: i64,
    minute: i64,
    second: i64,
}

/// Days since 1970-01-01.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last one.
    let year = if month < 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 10) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

impl Tm {
    fn from_days_and_seconds(days: i64, seconds: i64) -> Tm {
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let month = (shifted_month + 2) % 12;
        Tm {
            year: era * 400 + year_of_era + i64::from(month < 2),
            month,
            day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
            hour: seconds / 3600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }

    /// From Unix seconds; also gives the fraction of a second.
    #[allow(clippy::cast_possible_truncation)]
    fn from_seconds(value: &Json) -> Result<(Tm, f64), Fault> {
        let Json::Num(num) = value else {
            return Err(type_fault(format!("a time is a number of seconds, not {}", value.type_name())));
        };
        let (whole, fraction) = match (num.as_i64(), num.as_f64()) {
            (Some(whole), _) => (whole, 0.0),
            (None, Some(float)) => (float.floor() as i64, float - float.floor()),
            (None, None) => (i64::MAX, 0.0),
        };
        if !RANGE.contains(&whole) {
            return Err(fault(ExprCode::Value, "time is outside the years 0 to 9999"));
        }
        let tm = Tm::from_days_and_seconds(whole.div_euclid(86_400), whole.rem_euclid(86_400));
        Ok((tm, fraction))
    }

    fn days(self) -> i64 {
        days(self.year, self.month, self.day)
    }

    fn seconds(self) -> i64 {
        self.days() * 86_400 + self.hour * 3600 + self.minute * 60 + self.second
    }

    /// 0 is Sunday.
    fn weekday(self) -> i64 {
        (self.days() + 4).rem_euclid(7)
    }

    /// From 0.
    fn day_of_year(self) -> i64 {
        self.days() - days(self.year, 0, 1)
    }

    /// ISO 8601 year and week.
    fn iso_week(self) -> (i64, i64) {
        let weekday = (self.weekday() + 6) % 7;
        let thursday = Tm::from_days_and_seconds(self.days() - weekday + 3, 0);
        (thursday.year, thursday.day_of_year() / 7 + 1)
    }

    #[allow(clippy::cast_precision_loss)]
    fn to_json(self, cx: &mut Cx<'_>, fraction: f64) -> Result<Json, Fault> {
        let second = Json::from_f64(self.second as f64 + fraction).unwrap_or_default();
        let numbers = [self.year, self.month, self.day, self.hour, self.minute];
        let mut items: Vec<Json> = numbers.map(Json::from).to_vec();
        items.push(second);
        items.push(self.weekday().into());
        items.push(self.day_of_year().into());
        cx.new_array(items)
    }

    /// From `[year, month (from 0), day, hour, minute, second, …]`; values beyond their range
    /// carry over.
    #[allow(clippy::cast_possible_truncation)]
    fn from_json(value: &Json) -> Result<Tm, Fault> {
        let wrong = || type_fault("a broken down time is an array of at least six numbers");
        let items = value.as_arr().ok_or_else(wrong)?;
        if items.len() < 6 {
            return Err(wrong());
        }
        let mut parts = [0_i64; 6];
        for (part, item) in parts.iter_mut().zip(items) {
            let float = item.as_f64().ok_or_else(wrong)?;
            if float.abs() > 1e10 {
                return Err(fault(ExprCode::Value, "time is outside the years 0 to 9999"));
            }
            *part = float.floor() as i64;
        }
        let [year, month, day, hour, minute, second] = parts;
        let days = days(year + month.div_euclid(12), month.rem_euclid(12), 1) + day - 1;
        let seconds = hour * 3600 + minute * 60 + second;
        let days = days + seconds.div_euclid(86_400);
        let tm = Tm::from_days_and_seconds(days, seconds.rem_euclid(86_400));
        if !RANGE.contains(&tm.seconds()) {
            return Err(fault(ExprCode::Value, "time is outside the years 0 to 9999"));
        }
        Ok(tm)
    }
}

fn unknown_directive() -> Fault {
    fault(ExprCode::Value, "unknown directive in the date format")
}

fn format(cx: &mut Cx<'_>, value: &Json, format: &str) -> Result<Json, Fault> {
    let tm = match value {
        Json::Arr(_) => Tm::from_json(value)?,
        value => Tm::from_seconds(value)?.0,
    };
    cx.scan(16 * format.len())?;
    let mut text = String::new();
    format_into(tm, format, &mut text)?;
    cx.new_string(text)
}

fn format_into(tm: Tm, format: &str, out: &mut String) -> Result<(), Fault> {
    use std::fmt::Write;
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let name = |names: &[&'static str], at: i64| {
            usize::try_from(at).ok().and_then(|at| names.get(at).copied()).unwrap_or("")
        };
        let hour12 = (tm.hour + 11) % 12 + 1;
        let written = match chars.next().ok_or_else(unknown_directive)? {
            'Y' => write!(out, "{:04}", tm.year),
            'C' => write!(out, "{:02}", tm.year / 100),
            'y' => write!(out, "{:02}", tm.year % 100),
            'm' => write!(out, "{:02}", tm.month + 1),
            'd' => write!(out, "{:02}", tm.day),
            'e' => write!(out, "{:2}", tm.day),
            'H' => write!(out, "{:02}", tm.hour),
            'k' => write!(out, "{:2}", tm.hour),
            'I' => write!(out, "{hour12:02}"),
            'l' => write!(out, "{hour12:2}"),
            'M' => write!(out, "{:02}", tm.minute),
            'S' => write!(out, "{:02}", tm.second),
            'p' => write!(out, "{}", if tm.hour < 12 { "AM" } else { "PM" }),
            'P' => write!(out, "{}", if tm.hour < 12 { "am" } else { "pm" }),
            'j' => write!(out, "{:03}", tm.day_of_year() + 1),
            'A' => write!(out, "{}", name(&DAYS, tm.weekday())),
            'a' => write!(out, "{:.3}", name(&DAYS, tm.weekday())),
            'B' => write!(out, "{}", name(&MONTHS, tm.month)),
            'b' | 'h' => write!(out, "{:.3}", name(&MONTHS, tm.month)),
            'u' => write!(out, "{}", (tm.weekday() + 6) % 7 + 1),
            'w' => write!(out, "{}", tm.weekday()),
            'G' => write!(out, "{:04}", tm.iso_week().0),
            'g' => write!(out, "{:02}", tm.iso_week().0 % 100),
            'V' => write!(out, "{:02}", tm.iso_week().1),
            'U' => write!(out, "{:02}", (tm.day_of_year() + 7 - tm.weekday()) / 7),
            'W' => write!(out, "{:02}", (tm.day_of_year() + 7 - (tm.weekday() + 6) % 7) / 7),
            's' => write!(out, "{}", tm.seconds()),
            'Z' => write!(out, "UTC"),
            'z' => write!(out, "+0000"),
            'n' => out.write_char('\n'),
            't' => out.write_char('\t'),
            '%' => out.write_char('%'),
            'F' => composite(tm, "%Y-%m-%d", out)?,
            'T' => composite(tm, "%H:%M:%S", out)?,
            'R' => composite(tm, "%H:%M", out)?,
            'D' => composite(tm, "%m/%d/%y", out)?,
            'r' => composite(tm, "%I:%M:%S %p", out)?,
            'c' => composite(tm, "%a %b %e %H:%M:%S %Y", out)?,
            _ => return Err(unknown_directive()),
        };
        // Writing to a string cannot fail.
        written.unwrap_or_default();
    }
    Ok(())
}

/// A directive that stands for others.
fn composite(tm: Tm, format: &str, out: &mut String) -> Result<std::fmt::Result, Fault> {
    format_into(tm, format, out).map(Ok)
}

/// Reads the ISO 8601 form that `todate` writes; a fraction of the second is cut off.
fn from_date(cx: &mut Cx<'_>, value: &Json) -> Result<Json, Fault> {
    let text = string("fromdate", value)?;
    cx.scan(text.len())?;
    let whole = match text.split_once('.') {
        Some((whole, rest)) => {
            let digits = rest.strip_suffix('Z').unwrap_or("");
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                return Err(does_not_fit());
            }
            format!("{whole}Z")
        }
        None => text.to_owned(),
    };
    Ok(Json::from(parse(&whole, ISO)?.seconds()))
}

fn does_not_fit() -> Fault {
    fault(ExprCode::Value, "text does not fit the date format")
}

/// What `strptime` has read so far.
struct Reader<'t> {
    rest: &'t str,
    tm: Tm,
    day_of_year: Option<i64>,
    /// Seconds east of UTC.
    offset: i64,
    pm: Option<bool>,
    epoch: Option<i64>,
}

fn parse(text: &str, format: &str) -> Result<Tm, Fault> {
    let mut reader = Reader {
        rest: text,
        tm: Tm { year: 1900, month: 0, day: 1, hour: 0, minute: 0, second: 0 },
        day_of_year: None,
        offset: 0,
        pm: None,
        epoch: None,
    };
    reader.read(format)?;
    if !reader.rest.is_empty() {
        return Err(does_not_fit());
    }
    let mut tm = reader.tm;
    if let Some(pm) = reader.pm {
        tm.hour = tm.hour % 12 + if pm { 12 } else { 0 };
    }
    if let Some(day) = reader.day_of_year {
        let date = Tm::from_days_and_seconds(days(tm.year, 0, 1) + day - 1, 0);
        if date.year != tm.year {
            return Err(does_not_fit());
        }
        (tm.month, tm.day) = (date.month, date.day);
    }
    // A day that the month does not have would silently become another date.
    if Tm::from_days_and_seconds(tm.days(), 0).day != tm.day {
        return Err(does_not_fit());
    }
    let seconds = reader.epoch.unwrap_or_else(|| tm.seconds() - reader.offset);
    if !RANGE.contains(&seconds) {
        return Err(fault(ExprCode::Value, "time is outside the years 0 to 9999"));
    }
    Ok(Tm::from_days_and_seconds(seconds.div_euclid(86_400), seconds.rem_euclid(86_400)))
}

impl Reader<'_> {
    fn read(&mut self, format: &str) -> Result<(), Fault> {
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' => self.directive(chars.next().ok_or_else(unknown_directive)?)?,
                c if c.is_ascii_whitespace() => self.space(),
                c => self.rest = self.rest.strip_prefix(c).ok_or_else(does_not_fit)?,
            }
        }
        Ok(())
    }

    fn space(&mut self) {
        self.rest = self.rest.trim_start_matches(|c: char| c.is_ascii_whitespace());
    }

    fn directive(&mut self, directive: char) -> Result<(), Fault> {
        match directive {
            'Y' => self.tm.year = self.number(4, 0..=9999)?,
            'y' => {
                let year = self.number(2, 0..=99)?;
                self.tm.year = if year < 69 { 2000 + year } else { 1900 + year };
            }
            'm' => self.tm.month = self.number(2, 1..=12)? - 1,
            'd' | 'e' => self.tm.day = self.number(2, 1..=31)?,
            'H' | 'k' => self.tm.hour = self.number(2, 0..=23)?,
            'I' | 'l' => self.tm.hour = self.number(2, 1..=12)?,
            'M' => self.tm.minute = self.number(2, 0..=59)?,
            'S' => self.tm.second = self.number(2, 0..=60)?,
            'j' => self.day_of_year = Some(self.number(3, 1..=366)?),
            's' => self.epoch = Some(self.number(12, RANGE)?),
            // The name of the day is read but says nothing.
            'A' | 'a' => {
                self.name(&DAYS)?;
            }
            'B' | 'b' | 'h' => self.tm.month = self.name(&MONTHS)?,
            'p' | 'P' => self.pm = Some(self.name(&["AM", "PM"])? == 1),
            'Z' => {
                let zone = self.rest.strip_prefix("UTC").or_else(|| self.rest.strip_prefix("GMT"));
                self.rest = zone.or_else(|| self.rest.strip_prefix('Z')).ok_or_else(does_not_fit)?;
            }
            'z' => self.zone()?,
            'n' | 't' => self.space(),
            '%' => self.rest = self.rest.strip_prefix('%').ok_or_else(does_not_fit)?,
            'F' => self.read("%Y-%m-%d")?,
            'T' => self.read("%H:%M:%S")?,
            'R' => self.read("%H:%M")?,
            'D' => self.read("%m/%d/%y")?,
            'r' => self.read("%I:%M:%S %p")?,
            'c' => self.read("%a %b %e %H:%M:%S %Y")?,
            _ => return Err(unknown_directive()),
        }
        Ok(())
    }

    /// Up to `width` digits, with leading space as `strptime` allows.
    fn number(&mut self, width: usize, range: std::ops::RangeInclusive<i64>) -> Result<i64, Fault> {
        self.space();
        let negative = *range.start() < 0 && self.rest.starts_with('-');
        let digits = &self.rest[usize::from(negative)..];
        let len = digits.bytes().take(width).take_while(u8::is_ascii_digit).count();
        let value: i64 = digits[..len].parse().map_err(|_| does_not_fit())?;
        self.rest = &digits[len..];
        let value = if negative { -value } else { value };
        if range.contains(&value) { Ok(value) } else { Err(does_not_fit()) }
    }

    /// The position of a name, in full or by its first three letters, in any case.
    fn name(&mut self, names: &[&str]) -> Result<i64, Fault> {
        for (at, name) in (0..).zip(names) {
            for form in [*name, &name[..name.len().min(3)]] {
                let start = self.rest.get(..form.len());
                if start.is_some_and(|start| start.eq_ignore_ascii_case(form)) {
                    self.rest = &self.rest[form.len()..];
                    return Ok(at);
                }
            }
        }
        Err(does_not_fit())
    }

    /// `Z`, `+hh`, `+hhmm` or `+hh:mm`.
    fn zone(&mut self) -> Result<(), Fault> {
        self.space();
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(());
        }
        let sign = match self.rest.as_bytes().first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Err(does_not_fit()),
        };
        self.rest = &self.rest[1..];
        let hours = self.number(2, 0..=23)?;
        self.rest = self.rest.strip_prefix(':').unwrap_or(self.rest);
        let minutes = match self.rest.as_bytes().first() {
            Some(b'0'..=b'9') => self.number(2, 0..=59)?,
            _ => 0,
        };
        self.offset = sign * (hours * 3600 + minutes * 60);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calendar_round_trips() {
        for day in (-719_528..=2_932_896).step_by(37).chain(-800..800) {
            let tm = Tm::from_days_and_seconds(day, 0);
            assert_eq!(tm.days(), day);
            assert!((1..=31).contains(&tm.day) && (0..12).contains(&tm.month));
        }
        let tm = Tm::from_days_and_seconds(0, 0);
        assert_eq!((tm.year, tm.month, tm.day, tm.weekday()), (1970, 0, 1, 4));
    }

    #[test]
    fn iso_weeks() {
        for (year, month, day, expected) in [
            (2021, 0, 3, (2020, 53)),
            (2021, 0, 4, (2021, 1)),
            (2024, 11, 30, (2025, 1)),
            (2026, 11, 31, (2026, 53)),
        ] {
            let tm = Tm { year, month, day, hour: 0, minute: 0, second: 0 };
            assert_eq!(tm.iso_week(), expected);
        }
    }
}
