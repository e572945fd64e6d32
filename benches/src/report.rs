//! The figures: a table for people, JSON for programs.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

/// Everything measured, in the order it is shown.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
}

struct Row {
    name: String,
    value: Value,
    unit: &'static str,
}

impl Report {
    /// Adds a fact in words.
    pub fn text(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.push(name.into(), Value::String(value.into()), "");
    }

    /// Adds a figure, rounded to what its size makes meaningful: four digits, and never a whole part cut.
    pub fn number(&mut self, name: impl Into<String>, value: f64, unit: &'static str) {
        self.push(name.into(), json!(round(value)), unit);
    }

    fn push(&mut self, name: String, value: Value, unit: &'static str) {
        let row = Row { name, value, unit };
        // Shown at once, since the whole takes minutes.
        eprintln!("{}", format!("{} {} {}", row.name, row.shown(), row.unit).trim_end());
        self.rows.push(row);
    }

    /// Writes an array of `{name, value, unit}`.
    pub fn write(&self, path: &Path) -> Result<()> {
        let array: Vec<Value> = self
            .rows
            .iter()
            .map(|row| json!({"name": row.name, "value": row.value, "unit": row.unit}))
            .collect();
        let text = serde_json::to_string_pretty(&array)? + "\n";
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Row {
    fn shown(&self) -> String {
        match (&self.value, self.value.as_f64()) {
            (Value::String(text), _) => text.clone(),
            (_, Some(number)) if number.fract() == 0.0 => format!("{number:.0}"),
            (other, _) => other.to_string(),
        }
    }
}

/// The table. Figures are flush right so that their digits line up; words are flush left and last.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
        let numbers = || self.rows.iter().filter(|row| row.value.is_number());
        let name = width(&mut self.rows.iter().map(|row| row.name.chars().count()));
        let value = width(&mut numbers().map(|row| row.shown().chars().count()));
        for row in &self.rows {
            let line = if row.value.is_number() {
                format!("{:name$}  {:>value$}  {}", row.name, row.shown(), row.unit)
            } else {
                format!("{:name$}  {}", row.name, row.shown())
            };
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

fn round(value: f64) -> f64 {
    if !value.is_finite() || value == 0.0 {
        return 0.0;
    }
    let digits = (3.0 - value.abs().log10().floor()).clamp(0.0, 6.0);
    let scale = 10_f64.powf(digits);
    (value * scale).round() / scale
}

/// The value below which the share `p` (0 to 1) of the samples lies: the nearest rank, no interpolation.
pub fn percentile(sorted: &[f64], p: f64) -> f64 {
    let rank = (p * sorted.len() as f64).ceil() as usize;
    let index = rank.clamp(1, sorted.len().max(1)) - 1;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples() {
        let samples: Vec<f64> = (1..=300).map(f64::from).collect();
        assert_eq!(percentile(&samples, 0.5), 150.0);
        assert_eq!(percentile(&samples, 0.99), 297.0);
        assert_eq!(percentile(&samples, 0.0), 1.0);
        assert_eq!(percentile(&samples, 1.0), 300.0);
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn figures_keep_four_digits() {
        assert_eq!(round(1234.567), 1235.0);
        assert_eq!(round(123_456.7), 123_457.0);
        assert_eq!(round(12.345_67), 12.35);
        assert_eq!(round(0.001_234_567), 0.001_235);
        assert_eq!(round(0.0), 0.0);
        assert_eq!(round(f64::NAN), 0.0);
    }

    #[test]
    fn the_table_lines_up() {
        let mut report = Report::default();
        report.text("machine", "a box");
        report.number("runs", 1234.0, "runs/s");
        report.number("x", 0.5, "ms");
        report.number("cores", 2.0, "");
        let expected = "machine  a box\nruns     1234  runs/s\nx         0.5  ms\ncores       2\n";
        assert_eq!(report.to_string(), expected);
    }
}
