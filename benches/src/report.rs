//! The figures: a table for people, JSON for programs.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use std::fmt;
use std::path::Path;

/// Everything measured, in the order it is shown.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    curves: Vec<Curve>,
}

struct Row {
    name: String,
    value: Value,
    unit: &'static str,
    verdict: Option<Verdict>,
}

/// What a figure ought to be.
#[derive(Clone, Copy)]
pub enum Target {
    /// This much or more.
    AtLeast(f64),
    /// Less than this.
    Below(f64),
}

struct Verdict {
    target: String,
    met: bool,
}

/// A table of its own: how figures move with something.
pub struct Curve {
    name: &'static str,
    columns: &'static [&'static str],
    points: Vec<Vec<f64>>,
}

impl Curve {
    /// A table without lines. The first column is what the others move with.
    pub fn new(name: &'static str, columns: &'static [&'static str]) -> Curve {
        eprintln!("{name}: {}", columns.join(", "));
        Curve { name, columns, points: Vec::new() }
    }

    /// Adds a line; a figure that could not be taken is NaN.
    pub fn add(&mut self, point: Vec<f64>) {
        // Shown at once, since the whole takes minutes.
        eprintln!(
            "{}: {}",
            self.name,
            point.iter().map(|&value| shown(value)).collect::<Vec<_>>().join(", ")
        );
        self.points.push(point);
    }
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

    /// Adds a figure that is to meet a target.
    pub fn check(&mut self, name: impl Into<String>, value: f64, unit: &'static str, target: Target) {
        let (target, met) = match target {
            Target::AtLeast(bound) => (format!(">= {bound}"), value >= bound),
            Target::Below(bound) => (format!("< {bound}"), value < bound),
        };
        self.add(Row {
            name: name.into(),
            value: json!(round(value)),
            unit,
            verdict: Some(Verdict { target, met }),
        });
    }

    /// Adds a table.
    pub fn curve(&mut self, curve: Curve) {
        self.curves.push(curve);
    }

    fn push(&mut self, name: String, value: Value, unit: &'static str) {
        self.add(Row { name, value, unit, verdict: None });
    }

    fn add(&mut self, row: Row) {
        // Shown at once, since the whole takes minutes.
        eprintln!("{}", format!("{} {} {}", row.name, row.shown(), row.remark()).trim_end());
        self.rows.push(row);
    }

    /// Prints everything, writes the file and says where.
    pub fn finish(&self, path: &Path) -> Result<()> {
        print!("{self}");
        self.write(path)?;
        println!("\nwritten to {}", path.display());
        Ok(())
    }

    /// Writes an array of `{name, value, unit}`, with `target` and `met` where there is a target; a curve is
    /// `{name, columns, points}`.
    fn write(&self, path: &Path) -> Result<()> {
        let rows = self.rows.iter().map(Row::json);
        let curves = self.curves.iter().map(Curve::json);
        let text = serde_json::to_string_pretty(&rows.chain(curves).collect::<Vec<Value>>())? + "\n";
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
            (_, Some(number)) => shown(number),
            (other, None) => other.to_string(),
        }
    }

    /// What stands behind the figure.
    fn remark(&self) -> String {
        match &self.verdict {
            Some(verdict) => {
                let word = if verdict.met { "PASS" } else { "FAIL" };
                format!("{:7} {word} ({})", self.unit, verdict.target)
            }
            None => self.unit.into(),
        }
    }

    fn json(&self) -> Value {
        let mut row = json!({"name": self.name, "value": self.value, "unit": self.unit});
        if let Some(verdict) = &self.verdict {
            row["target"] = json!(verdict.target);
            row["met"] = json!(verdict.met);
        }
        row
    }
}

impl Curve {
    fn json(&self) -> Value {
        let points: Vec<Vec<Value>> = self
            .points
            .iter()
            // What could not be taken is null.
            .map(|point| {
                point.iter().map(|&v| if v.is_nan() { Value::Null } else { json!(round(v)) }).collect()
            })
            .collect();
        json!({"name": self.name, "columns": self.columns, "points": points})
    }
}

impl fmt::Display for Curve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}", self.name)?;
        let head = self.columns.iter().map(|column| (*column).to_owned()).collect();
        let body = self.points.iter().map(|point| point.iter().map(|&value| shown(value)).collect());
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
        for line in &lines {
            for (column, cell) in line.iter().enumerate() {
                let width = lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count());
                write!(f, "  {cell:>0$}", width.max().unwrap_or(0))?;
            }
            writeln!(f)?;
        }
        Ok(())
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
                format!("{:name$}  {:>value$}  {}", row.name, row.shown(), row.remark())
            } else {
                format!("{:name$}  {}", row.name, row.shown())
            };
            writeln!(f, "{}", line.trim_end())?;
        }
        self.curves.iter().try_for_each(|curve| curve.fmt(f))?;
        let verdicts: Vec<&Verdict> = self.rows.iter().filter_map(|row| row.verdict.as_ref()).collect();
        if !verdicts.is_empty() {
            let met = verdicts.iter().filter(|verdict| verdict.met).count();
            writeln!(f, "\n{met} of {} targets met", verdicts.len())?;
        }
        Ok(())
    }
}

/// A figure as people read it.
fn shown(value: f64) -> String {
    if value.is_nan() {
        return "-".into();
    }
    let value = round(value);
    if value.fract() == 0.0 { format!("{value:.0}") } else { value.to_string() }
}

fn round(value: f64) -> f64 {
    if !value.is_finite() || value == 0.0 {
        return 0.0;
    }
    let digits = (3.0 - value.abs().log10().floor()).clamp(0.0, 6.0);
    let scale = 10_f64.powf(digits);
    (value * scale).round() / scale
}

/// The middle of some samples: the higher one of two.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
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
    #[test]
    fn targets_are_judged_unrounded() {
        let mut report = Report::default();
        report.check("ratio", 1.31, "x", Target::AtLeast(1.3));
        report.check("p50", 1.999_99, "ms", Target::Below(2.0));
        report.check("p99", f64::NAN, "ms", Target::Below(15.0));
        let expected = "ratio  1.31  x       PASS (>= 1.3)\np50       2  ms      PASS (< 2)\n\
                        p99       0  ms      FAIL (< 15)\n\n2 of 3 targets met\n";
        assert_eq!(report.to_string(), expected);
        assert_eq!(report.rows[0].json()["met"], true);
    }

    #[test]
    fn curves_line_up() {
        let mut curve = Curve::new("streams", &["streams", "ms"]);
        curve.add(vec![1000.0, 0.5]);
        curve.add(vec![10.0, f64::NAN]);
        assert_eq!(curve.to_string(), "\nstreams\n  streams   ms\n     1000  0.5\n       10    -\n");
        assert_eq!(curve.json()["points"][1], serde_json::json!([10.0, null]));
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
    }
}
