//! `diffattn compare A B`: what became slower from one record to the next, with the noise taken into account.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Result, bail, ensure};
use clap::Args;
use diffattn::bench::{Header, Record, Row};
use statrs::stats_tests::Alternative;
use statrs::stats_tests::mannwhitneyu::{MannWhitneyUMethod, mannwhitneyu};

use crate::markdown::{cell, table};
use crate::note;
use crate::records::{self, Case, is_software};

/// Compare two benchmark records, row by row, and exit with 1 when something became slower
///
/// Rows are the same measurement when operation, form, path, sizes, storage type and mask are the
/// same. A row is slower or faster when both hold: its median changed by more than the threshold,
/// and a two-sided Mann-Whitney test of its samples says that they differ, at a level of 1 %: five
/// samples against five just reach it when none overlap. The test knows the noise within a run,
/// not what differs from run to run, such as clocks and temperature: the threshold is for that.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CompareArgs {
    /// The record to compare with
    pub before: PathBuf,

    /// The record to judge
    pub after: PathBuf,

    /// A change of the median up to this is no change
    #[arg(long, value_name = "PERCENT", default_value = "3%", value_parser = percent)]
    pub threshold: f64,
}

/// Chance that samples of one distribution look as different as they do. It is that of each row: of a hundred rows without
/// change about one passes the test, and then has to pass the threshold as well.
const LEVEL: f64 = 0.01;

pub fn run(args: &CompareArgs, out: &mut impl Write) -> Result<()> {
    let records = records::read_all(&[args.before.clone(), args.after.clone()])?;
    let [before, after] = &records[..] else { unreachable!("as many records as paths") };
    for difference in differences(&before.header, &after.header) {
        note(format_args!("warning: {difference}"));
    }
    let comparison = Comparison::of(before, after, args.threshold)?;
    comparison.write(out)?;
    let worse = comparison.count(Verdict::Slower) + comparison.count(Verdict::Wrong);
    out.flush()?;
    match worse {
        0 => Ok(()),
        1 => bail!("1 row of {} became worse", comparison.rows.len()),
        _ => bail!("{worse} rows of {} became worse", comparison.rows.len()),
    }
}

/// Why a change may not come from the code.
fn differences(before: &Header, after: &Header) -> Vec<String> {
    let mut found = Vec::new();
    let texts = [
        ("adapter", &before.adapter, &after.adapter),
        ("driver", &before.driver, &after.driver),
        ("backend", &before.backend, &after.backend),
        ("operating system", &before.os, &after.os),
        ("stack", &before.stack, &after.stack),
    ];
    for (what, before, after) in texts.into_iter().filter(|(_, before, after)| before != after) {
        found.push(format!("another {what}: {before:?} before, {after:?} after"));
    }
    for (when, header) in [("first", before), ("second", after)] {
        if header.throttled {
            found.push(format!("the {when} record is throttled: the device became slower while it ran"));
        }
        if header.limits_after.is_none() {
            found.push(format!("the {when} record was stopped before its end"));
        }
    }
    if is_software(before) || is_software(after) {
        found.push("a software adapter shares the CPU with everything else that runs".into());
    }
    found
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Same,
    Faster,
    Slower,
    /// Within its bound before, no longer after.
    Wrong,
    /// Not within its bound before; nothing to compare with.
    Untimed,
}

impl Verdict {
    fn word(self) -> &'static str {
        match self {
            Verdict::Same => "no change",
            Verdict::Faster => "faster",
            Verdict::Slower => "**slower**",
            Verdict::Wrong => "**wrong result**",
            Verdict::Untimed => "not timed",
        }
    }
}

struct Compared<'a> {
    before: &'a Row,
    after: &'a Row,
    verdict: Verdict,
    /// Of the Mann–Whitney test; 1 where there was nothing to test.
    p: f64,
}

impl Compared<'_> {
    /// Change of the median; 0.1 is a tenth slower.
    fn change(&self) -> f64 {
        self.after.median_ns / self.before.median_ns - 1.0
    }
}

struct Comparison<'a> {
    rows: Vec<Compared<'a>>,
    only_before: Vec<&'a Row>,
    only_after: Vec<&'a Row>,
    threshold: f64,
}

impl<'a> Comparison<'a> {
    fn of(before: &'a Record, after: &'a Record, threshold: f64) -> Result<Self> {
        let key = |row: &Row| (Case::of(row), row.form.clone(), row.path.clone());
        let find = |rows: &'a [Row], wanted: &Row| rows.iter().find(|row| key(row) == key(wanted));
        let pairs: Vec<_> = before.rows.iter().filter_map(|row| Some((row, find(&after.rows, row)?))).collect();
        ensure!(!pairs.is_empty(), "the records have no row in common");
        let rows = pairs.into_iter().map(|(before, after)| judge(before, after, threshold));
        Ok(Comparison {
            rows: rows.collect::<Result<_>>()?,
            only_before: before.rows.iter().filter(|row| find(&after.rows, row).is_none()).collect(),
            only_after: after.rows.iter().filter(|row| find(&before.rows, row).is_none()).collect(),
            threshold,
        })
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.rows.iter().filter(|row| row.verdict == verdict).count()
    }

    /// Geometric mean of after ÷ before; `None` where no row has both times.
    fn mean(&self) -> Option<f64> {
        let timed = self.rows.iter().filter(|row| row.before.passed && row.after.passed);
        let logs: Vec<_> = timed.map(|row| (1.0 + row.change()).ln()).collect();
        (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
    }

    fn write(&self, out: &mut impl Write) -> Result<()> {
        let columns = ["op", "case", "form", "path", "before", "after", "change", "p", "verdict"];
        let rows = self.rows.iter().map(|row| {
            let timed = row.before.passed && row.after.passed;
            let time = |row: &Row| if row.passed { records::time(row.median_ns) } else { "–".into() };
            [
                cell(&row.after.op),
                cell(&Case::of(row.after).to_string()),
                cell(&row.after.form),
                cell(&row.after.path),
                time(row.before),
                time(row.after),
                if timed { signed(row.change()) } else { "–".into() },
                if timed { format!("{:.1e}", row.p) } else { "–".into() },
                row.verdict.word().into(),
            ]
        });
        write!(out, "{}", table(&columns, &["before", "after", "change", "p"], rows))?;
        for (rows, which) in [(&self.only_before, "first"), (&self.only_after, "second")] {
            if !rows.is_empty() {
                writeln!(out, "\nOnly in the {which} record:\n")?;
            }
            for row in rows {
                writeln!(out, "- {} {} {} {}", row.op, Case::of(row), row.form, row.path)?;
            }
        }
        let counts =
            [Verdict::Faster, Verdict::Slower, Verdict::Wrong, Verdict::Same].map(|verdict| self.count(verdict));
        let [faster, slower, wrong, same] = counts;
        let mean =
            self.mean().map_or(String::new(), |mean| format!("; medians by {} (geometric mean)", signed(mean - 1.0)));
        writeln!(
            out,
            "\n{} rows compared: {slower} slower, {faster} faster, {wrong} wrong, {same} without change beyond {} % and \
             the noise{mean}.",
            self.rows.len(),
            records::digits(100.0 * self.threshold),
        )?;
        Ok(())
    }
}

fn judge<'a>(before: &'a Row, after: &'a Row, threshold: f64) -> Result<Compared<'a>> {
    let untested = |verdict| Ok(Compared { before, after, verdict, p: 1.0 });
    match (before.passed, after.passed) {
        (true, false) => return untested(Verdict::Wrong),
        (false, _) => return untested(Verdict::Untimed),
        (true, true) => {}
    }
    let method = MannWhitneyUMethod::Automatic;
    let (_, p) = mannwhitneyu(&before.samples_ns, &after.samples_ns, method, Alternative::TwoSided)?;
    let mut compared = Compared { before, after, verdict: Verdict::Same, p };
    let change = compared.change();
    if p < LEVEL && change.abs() > threshold {
        compared.verdict = if change > 0.0 { Verdict::Slower } else { Verdict::Faster };
    }
    Ok(compared)
}

/// `+3.1 %`.
fn signed(change: f64) -> String {
    format!("{:+.1} %", 100.0 * change)
}

/// `3%` or `3`, as a share of 1.
fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim().trim_end_matches('%').trim_end().parse().ok();
    let number = number.filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.map(|number| number / 100.0).ok_or_else(|| "a percentage of 0 or more is needed, as in 3%".into())
}
