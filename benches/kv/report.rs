//! What is printed and what is written: one table a part, one JSON for all.

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

/// A number of a report.
pub fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(f64::NAN)
}

/// A row: what was measured, then times in microseconds to the hundredth, then what else there is to say.
pub fn row(what: &Value, times: &Histogram<u64>, more: &Value) -> Value {
    let us = |quantile| hundredths(times.value_at_quantile(quantile) as f64 / 1e3);
    let figures = json!({ "operations": times.len(), "p50_us": us(0.5), "p99_us": us(0.99), "p999_us": us(0.999) });
    let parts = [what, &figures, more].into_iter().filter_map(Value::as_object).flatten();
    Value::Object(parts.map(|(name, value)| (name.clone(), value.clone())).collect())
}

/// Rounds to the hundredth.
pub fn hundredths(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Says in a row what is required of one of its fields, and whether that is met, along with what was required before.
pub fn require(row: &mut Value, field: &str, most: f64) {
    let (text, met) = (format!("{field} <= {most}"), number(&row[field]) <= most);
    row["required"] = match row["required"].as_str() {
        Some(before) => format!("{before}, {text}").into(),
        None => text.into(),
    };
    row["met"] = (met && row["met"] != false).into();
}

/// One row for several runs of the same thing: medians of what was measured, sums of errors, the rest as it is.
pub fn median_of(runs: &[Value]) -> Value {
    let mut out = Map::new();
    for (name, first) in runs[0].as_object().into_iter().flatten() {
        let mut numbers: Vec<f64> = runs.iter().filter_map(|run| run[name].as_f64()).collect();
        let value = match (name.as_str(), first) {
            ("errors", _) => json!(numbers.iter().sum::<f64>()),
            ("first_error", _) => runs.iter().map(|run| run[name].clone()).find(|e| !e.is_null()).unwrap_or_default(),
            (_, Value::Number(number)) if number.is_f64() && numbers.len() == runs.len() => {
                numbers.sort_by(f64::total_cmp);
                json!(numbers[numbers.len() / 2])
            }
            _ => first.clone(),
        };
        out.insert(name.clone(), value);
    }
    out.insert("runs".to_owned(), runs.len().into());
    Value::Object(out)
}

/// Rows as a table with these columns: a field's name and what heads it.
pub fn table(title: &str, rows: &[Value], columns: &[(&str, &str)]) -> String {
    let cell = |row: &Value, field: &str| match &row[field] {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(met) => if *met { "met" } else { "MISSED" }.to_owned(),
        Value::Number(number) if number.as_f64().is_some_and(|n| n.fract() == 0.0) => {
            format!("{:.0}", number.as_f64().unwrap_or(0.0))
        }
        other => other.to_string(),
    };
    let widths: Vec<usize> = columns
        .iter()
        .map(|(field, head)| rows.iter().map(|row| cell(row, field).len()).chain([head.len()]).max().unwrap_or(0))
        .collect();
    let line = |cells: Vec<String>| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        format!("  {}\n", padded.collect::<Vec<_>>().join("  "))
    };
    let mut out = format!("\n{title}\n");
    out.push_str(&line(columns.iter().map(|(_, head)| (*head).to_owned()).collect()));
    for row in rows {
        out.push_str(&line(columns.iter().map(|(field, _)| cell(row, field)).collect()));
    }
    out
}

/// Ours beside a peer's, for each pair of rows that agree in these fields: ratios of throughput and of processor time.
pub fn ratios(rows: &[Value], peer: &str, same: &[&str]) -> Vec<Value> {
    let ours = rows.iter().filter(|row| row["system"] == "cinnabar");
    let pair = |row: &Value| {
        let other = rows.iter().find(|other| other["system"] == peer && same.iter().all(|f| other[*f] == row[*f]))?;
        let ratio = |field: &str| json!((number(&row[field]) / number(&other[field]) * 1000.0).round() / 1000.0);
        let mut out: Map<String, Value> = same.iter().map(|field| ((*field).to_owned(), row[*field].clone())).collect();
        out.insert("peer".to_owned(), peer.into());
        for field in ["per_second", "p50_us", "p99_us", "cpu_us_per_op"] {
            out.insert(field.to_owned(), ratio(field));
        }
        Some(Value::Object(out))
    };
    ours.filter_map(pair).collect()
}
