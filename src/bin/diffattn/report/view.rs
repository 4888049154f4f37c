//! What the records say, put in order: devices, cases, the best row of each, and one paragraph about it all. Pure.

use diffattn::bench::{Header, Record, Row, Skipped};

use crate::records::{self, Case, digits, is_software};

/// Records side by side.
pub struct View<'a> {
    pub devices: Vec<Device<'a>>,
    /// Each case that any record has, grouped by operation, in the order of the records.
    pub cases: Vec<Case>,
}

/// One record.
pub struct Device<'a> {
    pub header: &'a Header,
    pub rows: &'a [Row],
    /// Short name, different from that of every other record.
    pub name: String,
}

/// One case on one device.
pub struct Best<'a> {
    /// DIFF V2 the best way that was measured: fused where there is a fused row.
    pub v2: &'a Row,
    /// How many times as long others take for the same case on this machine.
    pub others: Vec<(&'static str, f64)>,
}

impl Best<'_> {
    fn other(&self, name: &str) -> Option<f64> {
        self.others.iter().find(|(other, _)| *other == name).map(|(_, times)| *times)
    }
}

impl<'a> View<'a> {
    pub fn of(records: &'a [Record]) -> Self {
        let mut devices: Vec<_> =
            records.iter().map(|Record { header, rows }| Device { header, rows, name: name(header) }).collect();
        for index in 0..devices.len() {
            let same = |device: &&Device| device.name == devices[index].name;
            if devices.iter().filter(same).count() > 1 {
                // All of one name, before any of them is changed.
                let wanted = devices[index].name.clone();
                let alike = devices.iter_mut().filter(|device| device.name == wanted);
                alike.enumerate().for_each(|(number, device)| device.name = format!("{} #{}", device.name, number + 1));
            }
        }
        let mut cases: Vec<Case> = Vec::new();
        for row in records.iter().flat_map(|record| &record.rows) {
            let case = Case::of(row);
            if !cases.contains(&case) {
                cases.push(case);
            }
        }
        let ops: Vec<_> = cases.iter().map(|case| case.op.clone()).collect();
        let first = |op: &String| ops.iter().position(|other| other == op);
        cases.sort_by_key(|case| first(&case.op));
        View { devices, cases }
    }

    /// Operations, each once.
    pub fn ops(&self) -> Vec<&str> {
        let mut ops: Vec<_> = self.cases.iter().map(|case| case.op.as_str()).collect();
        ops.dedup();
        ops
    }

    pub fn cases_of<'b>(&'b self, op: &'b str) -> impl Iterator<Item = &'b Case> {
        self.cases.iter().filter(move |case| case.op == op)
    }

    /// Among the devices that are ranked, the one with the shortest time; `None` unless there are two to compare.
    pub fn fastest(&self, case: &Case) -> Option<usize> {
        let ranked = self.devices.iter().enumerate().filter(|(_, device)| device.ranked());
        let times: Vec<_> =
            ranked.filter_map(|(index, device)| Some((index, device.best(case)?.v2.median_ns))).collect();
        let least = times.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        (times.len() > 1).then_some(least.0)
    }

    /// `suite quick, version 1`.
    pub fn suite(&self) -> String {
        let mut names: Vec<_> = self.devices.iter().map(|device| device.header.suite.as_str()).collect();
        names.dedup();
        let version = self.devices.first().map_or(0, |device| device.header.suite_version);
        format!("suite {}, version {version}", names.join(" and "))
    }

    /// One paragraph: what ran, on what, and how near each device came to its own limit.
    pub fn summary(&self) -> String {
        let rows = || self.devices.iter().flat_map(|device| device.rows);
        let (total, failed) = (rows().count(), rows().filter(|row| !row.passed).count());
        let judged = match failed {
            0 => format!(
                "Each of {total} results was within its error bound of the float64 reference before it was timed"
            ),
            1 => format!("1 of {total} results was outside its error bound and was not timed"),
            _ => format!("{failed} of {total} results were outside their error bounds and were not timed"),
        };
        let records = match self.devices.len() {
            1 => "One record".into(),
            count => format!("{count} records"),
        };
        let devices = self.devices.iter().map(|device| match device.shares(&self.cases) {
            Some((middle, most)) => {
                let (middle, most) = (digits(middle), digits(most));
                format!("{} reached {middle} % of its own limit in the median case and {most} % at best", device.name)
            }
            None if device.timed().next().is_none() => format!("{} was not timed at all", device.name),
            None => format!("the limits of {} were not measured", device.name),
        });
        format!("{records} of {}. {judged}. {}.", self.suite(), devices.collect::<Vec<_>>().join("; "))
    }
}

/// Adapter, and the stack where it is another one.
fn name(header: &Header) -> String {
    let stack = if header.stack == "diffattn" { String::new() } else { format!(" · {}", header.stack) };
    format!("{}{stack}", header.adapter)
}

impl<'a> Device<'a> {
    /// Why its numbers are not to be compared with those of others, or how they came about.
    pub fn marks(&self) -> Vec<&'static str> {
        let header = self.header;
        let marks = [
            (self.on_cpu(), "on a CPU"),
            (header.throttled, "throttled"),
            (header.limits_after.is_none(), "stopped early"),
            (header.dirty == Some(true), "changed source"),
        ];
        marks.into_iter().filter_map(|(is, mark)| is.then_some(mark)).collect()
    }

    fn on_cpu(&self) -> bool {
        is_software(self.header)
    }

    /// Whether it is put in order with others.
    pub fn ranked(&self) -> bool {
        !self.on_cpu() && !self.header.throttled
    }

    /// Rows that were timed. The CPU engine beside a GPU is not this device.
    pub fn timed(&self) -> impl Iterator<Item = &'a Row> {
        let engine = self.header.backend != "cpu";
        self.rows.iter().filter(move |row| row.passed && !(engine && row.path == "cpu"))
    }

    /// The shortest row of one form of a case.
    pub fn fastest(&self, case: &Case, form: &str) -> Option<&'a Row> {
        let rows = self.timed().filter(|row| row.form == form && Case::of(row) == *case);
        rows.min_by(|a, b| a.median_ns.total_cmp(&b.median_ns))
    }

    /// `None` where DIFF V2 was not timed.
    pub fn best(&self, case: &Case) -> Option<Best<'a>> {
        let [fused, unfused, baseline, v1] =
            ["fused", "unfused", "baseline", "v1"].map(|form| self.fastest(case, form));
        let v2 = fused.or(unfused)?;
        let on = |path: &str| {
            let mut rows = self.rows.iter().filter(|row| row.passed && row.form == "fused" && row.path == path);
            rows.find(|row| Case::of(row) == *case).filter(|row| row.path != v2.path)
        };
        let others = [
            ("un-fused", fused.and(unfused)),
            ("plain kernel", on("naive")),
            ("CPU engine", on("cpu")),
            (
                if matches!(v2.op.as_str(), "module" | "train") { "ordinary module" } else { "ordinary attention" },
                baseline,
            ),
            ("DIFF V1", v1),
        ];
        let times = |row: &Row| row.median_ns / v2.median_ns;
        Some(Best { v2, others: others.into_iter().filter_map(|(name, row)| Some((name, times(row?)))).collect() })
    }

    /// What it has no time for, and why: what its run skipped, and what only other records have.
    pub fn missing(&self, cases: &[Case]) -> Vec<(String, String)> {
        let skipped = &self.header.skipped;
        let reasons = skipped.iter().map(|Skipped { case, reason }| (case.clone(), reason.clone()));
        let known = |case: &Case| {
            let words = case.words();
            self.rows.iter().any(|row| Case::of(row) == *case)
                || skipped
                    .iter()
                    .any(|skipped| words.iter().all(|word| skipped.case.split(' ').any(|other| other == word)))
        };
        let elsewhere = cases.iter().filter(|case| !known(case));
        let elsewhere = elsewhere.map(|case| (format!("{} {case}", case.op), "only in another record".into()));
        reasons.chain(elsewhere).collect()
    }

    /// The middle and the most of what it reached of its own limit, in percent.
    fn shares(&self, cases: &[Case]) -> Option<(f64, f64)> {
        let best = cases.iter().filter_map(|case| self.best(case));
        let mut shares: Vec<_> = best.map(|best| best.v2.pct_of_limit).filter(|share| *share > 0.0).collect();
        shares.sort_by(f64::total_cmp);
        Some((*shares.get(shares.len() / 2)?, *shares.last()?))
    }

    /// The highest rate of each operation, what V2 is held against, and why it is not ranked.
    pub fn sentences(&self, cases: &[Case]) -> Vec<String> {
        let best: Vec<_> = cases.iter().filter_map(|case| self.best(case)).collect();
        let mut ops: Vec<_> = best.iter().map(|best| best.v2.op.as_str()).collect();
        ops.dedup();
        let highest = ops.iter().filter_map(|op| {
            let rows = best.iter().map(|best| best.v2).filter(|row| row.op == *op);
            let row =
                rows.max_by(
                    |a, b| if *op == "decode" { a.gb_s.total_cmp(&b.gb_s) } else { a.tflops.total_cmp(&b.tflops) },
                )?;
            Some(format!("{op} up to {}", rate(row)))
        });
        let highest: Vec<_> = highest.collect();
        let mut sentences = Vec::new();
        if !highest.is_empty() {
            sentences.push(highest.join(", "));
        }
        if let Some(mean) = mean(best.iter().filter_map(|best| best.other("un-fused"))) {
            sentences.push(format!("The un-fused computation takes {} times as long", digits(mean)));
        }
        if let Some(mean) = mean(best.iter().filter_map(|best| best.other("ordinary attention"))) {
            sentences.push(format!("DIFF V2 takes {} times as long as an ordinary attention", digits(1.0 / mean)));
        }
        if let Some(mean) = mean(best.iter().filter_map(|best| best.other("ordinary module"))) {
            sentences.push(format!("Its module takes {} times as long as an ordinary one", digits(1.0 / mean)));
        }
        let unranked = match (self.on_cpu(), self.header.throttled) {
            (true, true) => "It runs on a CPU, which says nothing about a GPU, and became slower while it ran",
            (true, false) => "It runs on a CPU, which says nothing about a GPU",
            (false, true) => "It became slower while it ran",
            (false, false) => return sentences,
        };
        sentences.push(format!("{unranked}: left out of rankings"));
        sentences
    }
}

/// Geometric mean.
fn mean(ratios: impl Iterator<Item = f64>) -> Option<f64> {
    let logs: Vec<_> = ratios.map(f64::ln).collect();
    (!logs.is_empty()).then(|| (logs.iter().sum::<f64>() / logs.len() as f64).exp())
}

/// The rate that tells about a row: bytes for decoding, operations otherwise.
pub fn rate(row: &Row) -> String {
    if row.op == "decode" { records::bandwidth(row.gb_s) } else { records::flops(row.tflops) }
}
