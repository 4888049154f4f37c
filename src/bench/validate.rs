//! Whether a record can be true: what one column says must follow from the others.

use super::record::{Limits, Record, Row};
use super::stats::percentile;
use crate::error::{Error, Result};

/// What a rate may differ by when it is computed again from the columns of its row.
const ROUNDING: f64 = 1e-6;

impl Record {
    /// Computes the derived columns again, and holds them against what the record says. It does not judge how fast
    /// anything was.
    ///
    /// # Errors
    /// [`Error::Record`] with the first line that contradicts itself; the header is line 1, the first row line 2.
    pub fn validate(&self) -> Result<()> {
        let limits = [Some(self.header.limits_before), self.header.limits_after];
        let header = limits.iter().flatten().try_for_each(limits_are_positive);
        header.map_err(|reason| Error::Record { line: 1, reason })?;
        for (index, row) in self.rows.iter().enumerate() {
            check(row, &self.header.limits_before).map_err(|reason| Error::Record { line: index + 2, reason })?;
        }
        Ok(())
    }
}

fn limits_are_positive(limits: &Limits) -> Result<(), String> {
    let Limits { fma_f32_tflops, fma_f16_tflops, matrix_tflops, read_gb_s, copy_gb_s, dispatch_us } = *limits;
    let named = [
        ("fma_f32_tflops", fma_f32_tflops),
        ("fma_f16_tflops", fma_f16_tflops),
        ("matrix_tflops", matrix_tflops),
        ("read_gb_s", read_gb_s),
        ("copy_gb_s", copy_gb_s),
        ("dispatch_us", dispatch_us),
    ];
    match named.iter().find(|(_, limit)| limit.is_some_and(|limit| limit <= 0.0)) {
        Some((name, limit)) => {
            Err(format!("the limit {name} is {}, but what was not measured is null", limit.unwrap_or(0.0)))
        }
        None => Ok(()),
    }
}

fn check(row: &Row, limits: &Limits) -> Result<(), String> {
    let sizes = [row.batch, row.q_len, row.kv_len, row.heads, row.kv_heads, row.head_dim, row.value_dim];
    if sizes.contains(&0) {
        return Err("a size is 0".into());
    }
    if !row.passed {
        return match row.samples_ns.is_empty() {
            true => Ok(()),
            false => Err("the result was out of its bound, and yet was timed".into()),
        };
    }
    if row.max_err > row.err_bound {
        return Err(format!("passed is true, but max_err {} is over err_bound {}", row.max_err, row.err_bound));
    }
    if row.samples_ns.is_empty() {
        return Err("there are no samples".into());
    }
    if let Some(sample) = row.samples_ns.iter().find(|sample| **sample <= 0.0) {
        return Err(format!("a sample took {sample} ns"));
    }
    for (name, says, share) in
        [("p10_ns", row.p10_ns, 0.1), ("median_ns", row.median_ns, 0.5), ("p90_ns", row.p90_ns, 0.9)]
    {
        equal(name, says, percentile(&row.samples_ns, share))?;
    }
    equal("tflops", row.tflops, row.flop / row.median_ns / 1e3)?;
    equal("gb_s", row.gb_s, row.bytes_min / row.median_ns)?;
    // FLOP and bytes in a nanosecond.
    let rate = match row.bound_by.as_str() {
        "matrix" => limits.matrix_tflops.map(|limit| row.tflops / limit),
        "fma-f32" => limits.fma_f32_tflops.map(|limit| row.tflops / limit),
        "read" => limits.read_gb_s.map(|limit| row.gb_s / limit),
        _ => return Ok(()),
    };
    let Some(rate) = rate else {
        return Err(format!("bound_by is {}, a limit that was not measured", row.bound_by));
    };
    equal("pct_of_limit", row.pct_of_limit, 100.0 * rate)
}

fn equal(name: &str, says: f64, follows: f64) -> Result<(), String> {
    match (says - follows).abs() <= ROUNDING * follows.abs() {
        true => Ok(()),
        false => Err(format!("{name} is {says}, but {follows} follows from the other columns")),
    }
}
