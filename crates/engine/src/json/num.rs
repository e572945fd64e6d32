//! JSON numbers that never lose a digit on the way through.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// Digits before the point that jsonb's numeric can hold.
const MAX_INTEGER_DIGITS: i64 = 131_072;
/// Digits after the point that jsonb's numeric can hold.
const MAX_FRACTION_DIGITS: i64 = 16_383;
/// 2^63: the first float above every i64.
const TWO_63: f64 = 9_223_372_036_854_775_808.0;

/// A JSON number: an `i64`, a finite `f64`, or the digits themselves when neither can hold them.
///
/// Every number has exactly one representation, so that `==` on values equals equality of the
/// numbers: integers within the range of `i64` are always integers (`1.0` and `1e0` are `1`),
/// other numbers are floats if their shortest decimal spelling is the number, and digits
/// otherwise. The spelling is plain decimal without an exponent, without trailing zeros in the
/// fraction and without a negative zero. That is what jsonb prints again unchanged: a value
/// decided in memory equals the value read back from a table.
#[derive(Clone, PartialEq)]
pub struct Num(Repr);

#[derive(Clone, PartialEq)]
enum Repr {
    Int(i64),
    /// Finite; not an integer within the range of `i64`; never a negative zero.
    Float(f64),
    /// Canonical plain decimal digits.
    Digits(Arc<str>),
}

impl Num {
    /// The number zero.
    pub const ZERO: Num = Num(Repr::Int(0));

    /// A float as a number; `None` for NaN and the infinities, which JSON does not have.
    #[must_use]
    pub fn from_f64(value: f64) -> Option<Num> {
        if !value.is_finite() {
            return None;
        }
        if value.fract() == 0.0 && (-TWO_63..TWO_63).contains(&value) {
            // In range and integral, so the conversion is exact; -0.0 becomes 0.
            #[allow(clippy::cast_possible_truncation)]
            return Some(Num(Repr::Int(value as i64)));
        }
        Some(Num(Repr::Float(value)))
    }

    /// A number from its JSON spelling (`-12`, `1.50`, `1e400`).
    ///
    /// `None` when the text is not a JSON number or when it is outside what jsonb can hold
    /// (131,072 digits before the point, 16,383 after it).
    #[must_use]
    pub fn parse(text: &str) -> Option<Num> {
        if text.len() <= 18
            && !text.starts_with("-0")
            && let Ok(int) = text.parse::<i64>()
            && (text.len() == 1 || !text.starts_with(['0', '+']))
        {
            return Some(Num(Repr::Int(int)));
        }
        let (negative, unsigned) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, parse_exponent(exponent)?),
            None => (unsigned, 0),
        };
        let (int, fraction) = match mantissa.split_once('.') {
            Some((_, "")) => return None,
            Some(parts) => parts,
            None => (mantissa, ""),
        };
        let is_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let well_formed = !int.is_empty() && (int.len() == 1 || !int.starts_with('0'));
        if !well_formed || !is_digits(int) || !is_digits(fraction) {
            return None;
        }
        canonical(negative, int, fraction, exponent)
    }

    /// The number as `i64`, when it is an integer of that range.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        match self.0 {
            Repr::Int(int) => Some(int),
            _ => None,
        }
    }

    /// The nearest `f64`; `None` when the number is too large for one.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match &self.0 {
            #[allow(clippy::cast_precision_loss)]
            Repr::Int(int) => Some(*int as f64),
            Repr::Float(float) => Some(*float),
            Repr::Digits(digits) => digits.parse().ok().filter(|f: &f64| f.is_finite()),
        }
    }

    /// The canonical digits, when the number fits neither `i64` nor `f64`.
    #[must_use]
    pub fn as_digits(&self) -> Option<&str> {
        match &self.0 {
            Repr::Digits(digits) => Some(digits),
            _ => None,
        }
    }

    /// Whether the number is below zero.
    #[must_use]
    pub fn is_negative(&self) -> bool {
        match &self.0 {
            Repr::Int(int) => *int < 0,
            Repr::Float(float) => *float < 0.0,
            Repr::Digits(digits) => digits.starts_with('-'),
        }
    }

    /// Roughly the length of the printed number in bytes, never far below it.
    #[must_use]
    pub fn byte_size(&self) -> usize {
        match &self.0 {
            Repr::Int(int) => int.checked_ilog10().map_or(2, |digits| digits as usize + 1),
            Repr::Float(float) if (1e-6..1e18).contains(&float.abs()) => 20,
            Repr::Float(_) => 320,
            Repr::Digits(digits) => digits.len(),
        }
    }

    /// Numeric order; total, because there is no NaN.
    #[must_use]
    pub fn compare(&self, other: &Num) -> Ordering {
        match (&self.0, &other.0) {
            (Repr::Int(a), Repr::Int(b)) => a.cmp(b),
            // Both finite.
            (Repr::Float(a), Repr::Float(b)) => a.partial_cmp(b).unwrap_or(Ordering::Equal),
            (Repr::Int(a), Repr::Float(b)) => compare_int_float(*a, *b),
            (Repr::Float(a), Repr::Int(b)) => compare_int_float(*b, *a).reverse(),
            _ => compare_decimals(&self.to_string(), &other.to_string()),
        }
    }
}

impl From<i64> for Num {
    fn from(value: i64) -> Self {
        Num(Repr::Int(value))
    }
}

impl fmt::Display for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Repr::Int(int) => fmt::Display::fmt(int, f),
            // Rust prints floats as the shortest plain decimal that reads back the same.
            Repr::Float(float) => fmt::Display::fmt(float, f),
            Repr::Digits(digits) => f.write_str(digits),
        }
    }
}

impl fmt::Debug for Num {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Reads `[+-]?[0-9]+`, saturating far outside every limit.
fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let digits = digits.trim_start_matches('0');
    let value = match digits.len() {
        0 => 0,
        1..=9 => digits.parse().ok()?,
        _ => 1_000_000_000,
    };
    Some(if negative { -value } else { value })
}

/// Builds the one representation of `±int.fraction × 10^exponent`.
fn canonical(negative: bool, int: &str, fraction: &str, exponent: i64) -> Option<Num> {
    let all = [int, fraction].concat();
    let without_leading = all.trim_start_matches('0');
    let leading = all.len() - without_leading.len();
    let digits = without_leading.trim_end_matches('0');
    if digits.is_empty() {
        return Some(Num::ZERO);
    }
    let count = i64::try_from(digits.len()).ok()?;
    // Number of digits before the decimal point; negative when zeros follow the point.
    let point = i64::try_from(int.len()).ok()? + exponent - i64::try_from(leading).ok()?;
    if point > MAX_INTEGER_DIGITS || count - point > MAX_FRACTION_DIGITS {
        return None;
    }
    let zeros = |n: i64| "0".repeat(usize::try_from(n).unwrap_or(0));
    let mut text = String::from(if negative { "-" } else { "" });
    if point <= 0 {
        text.push_str("0.");
        text.push_str(&zeros(-point));
        text.push_str(digits);
    } else if point >= count {
        text.push_str(digits);
        text.push_str(&zeros(point - count));
        if let Ok(int) = text.parse::<i64>() {
            return Some(Num(Repr::Int(int)));
        }
    } else {
        let (before, after) = digits.split_at(usize::try_from(point).ok()?);
        text.push_str(before);
        text.push('.');
        text.push_str(after);
    }
    // The shortest spelling of a float has at most 17 significant digits.
    if count <= 17
        && let Ok(float) = text.parse::<f64>()
        && float.is_finite()
        && float.to_string() == text
    {
        return Some(Num(Repr::Float(float)));
    }
    Some(Num(Repr::Digits(text.into())))
}

/// A `Repr::Float` is either fractional (then below 2^52, where both sides are exact) or outside
/// the range of `i64`.
fn compare_int_float(int: i64, float: f64) -> Ordering {
    if float >= TWO_63 {
        Ordering::Less
    } else if float < -TWO_63 {
        Ordering::Greater
    } else {
        #[allow(clippy::cast_precision_loss)]
        let int = int as f64;
        int.partial_cmp(&float).unwrap_or(Ordering::Equal)
    }
}

/// Compares two canonical plain decimals.
fn compare_decimals(a: &str, b: &str) -> Ordering {
    match (a.strip_prefix('-'), b.strip_prefix('-')) {
        (Some(a), Some(b)) => compare_magnitudes(b, a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => compare_magnitudes(a, b),
    }
}

fn compare_magnitudes(a: &str, b: &str) -> Ordering {
    let split = |s| str::split_once(s, '.').unwrap_or((s, ""));
    let ((a_int, a_fraction), (b_int, b_fraction)) = (split(a), split(b));
    let by_length = a_int.len().cmp(&b_int.len());
    // Without trailing zeros, text order of fractions is numeric order.
    by_length.then_with(|| a_int.cmp(b_int)).then_with(|| a_fraction.cmp(b_fraction))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canon(text: &str) -> String {
        Num::parse(text).map_or_else(|| "refused".to_owned(), |n| n.to_string())
    }

    #[test]
    fn spelling_is_canonical_and_stable() {
        let cases = [
            ("0", "0"),
            ("-0", "0"),
            ("-0.0", "0"),
            ("0e999999999999", "0"),
            ("1.0", "1"),
            ("1.10", "1.1"),
            ("1e2", "100"),
            ("15e-1", "1.5"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("9223372036854775807", "9223372036854775807"),
            ("9223372036854775808", "9223372036854775808"),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("0.1000000000000000000001", "0.1000000000000000000001"),
            ("0.1", "0.1"),
            ("5e-324", &format!("0.{}5", "0".repeat(323))),
            ("1e-400", &format!("0.{}1", "0".repeat(399))),
            ("1e400", &format!("1{}", "0".repeat(400))),
            ("1e131072", "refused"),
            ("1e-16384", "refused"),
            ("1e99999999999999999999", "refused"),
            ("01", "refused"),
            ("+1", "refused"),
            ("-01", "refused"),
            ("1.", "refused"),
            (".5", "refused"),
            ("1e", "refused"),
            ("", "refused"),
            ("-", "refused"),
            ("1_0", "refused"),
        ];
        for (text, expected) in cases {
            assert_eq!(canon(text), expected, "{text}");
            if expected != "refused" {
                assert_eq!(canon(expected), expected, "{text} again");
                assert_eq!(Num::parse(expected), Num::parse(text), "{text} equal");
            }
        }
    }

    #[test]
    fn order_is_numeric_over_all_representations() {
        let ascending = [
            "-1e400",
            "-123456789012345678901234567890.5",
            "-9223372036854775809",
            "-9223372036854775808",
            "-1.5",
            "0",
            "1e-400",
            "0.1",
            "0.1000000000000000000001",
            "1",
            "9007199254740993",
            "9223372036854775807",
            "9223372036854775808",
            "9223372036854776000",
            "123456789012345678901234567890",
            "123456789012345678901234567891",
            "1e300",
            "1e400",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                let (a, b) = (Num::parse(a).unwrap(), Num::parse(b).unwrap());
                assert_eq!(a.compare(&b), i.cmp(&j), "{a} {b}");
            }
        }
    }

    #[test]
    fn floats_that_are_integers_are_integers() {
        assert_eq!(Num::from_f64(-0.0).unwrap().to_string(), "0");
        assert_eq!(Num::from_f64(3.0).unwrap().as_i64(), Some(3));
        assert_eq!(Num::from_f64(1e300), Num::parse("1e300"));
        assert_eq!(Num::from_f64(f64::NAN), None);
        assert_eq!(Num::from_f64(f64::NEG_INFINITY), None);
    }
}
