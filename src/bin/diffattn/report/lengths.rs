//! Throughput against length: a small plot for each kind of problem that was measured at two lengths or more.

use anyhow::Result;
use diffattn::Shape;
use plotters::coord::ranged1d::Ranged;
use plotters::prelude::*;

use super::chart::{self, Axis, Chart, failed};
use super::palette::series;
use super::view::View;
use crate::records::Case;

/// A plot and what it shows.
pub struct Plot {
    pub title: String,
    pub svg: String,
}

/// The forms, and the dashes that their lines are drawn with; fused is solid.
const FORMS: [(&str, Option<[u32; 2]>); 3] = [("fused", None), ("unfused", Some([16, 8])), ("baseline", Some([4, 8]))];

struct Line {
    device: usize,
    dashes: Option<[u32; 2]>,
    /// Length and rate.
    points: Vec<(f64, f64)>,
}

/// The plots of one operation.
pub fn plots(view: &View, op: &str) -> Result<Vec<Plot>> {
    let mut kinds: Vec<Case> = Vec::new();
    for case in view.cases_of(op) {
        let kind = kind(case);
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    let drawn = kinds.iter().map(|kind| {
        let lines = lines(view, kind);
        if lines.is_empty() { Ok(None) } else { Ok(Some(Plot { title: title(kind), svg: plot(&lines, op)? })) }
    });
    drawn.filter_map(Result::transpose).collect()
}

/// The case without its length. Where batch × length is constant, as is usual for prefill, both vary.
fn kind(case: &Case) -> Case {
    let square = case.shape.q_len == case.shape.kv_len;
    let q_len = if square { 0 } else { case.shape.q_len };
    let batch = if square { 0 } else { case.shape.batch };
    Case { shape: Shape { batch, q_len, kv_len: 0, ..case.shape }, ..case.clone() }
}

fn title(kind: &Case) -> String {
    let Shape { batch, q_len, heads, kv_heads, head_dim, value_dim, .. } = kind.shape;
    let square = if q_len == 0 { String::new() } else { format!("b{batch} q{q_len} ") };
    let dims = if value_dim == head_dim { format!("d{head_dim}") } else { format!("d{head_dim}/{value_dim}") };
    format!("{square}h{heads}/{kv_heads} {dims} {} {}", kind.dtype, kind.mask())
}

fn lines(view: &View, wanted: &Case) -> Vec<Line> {
    let mut lines = Vec::new();
    for (index, device) in view.devices.iter().enumerate() {
        for (form, dashes) in FORMS {
            let cases = view.cases.iter().filter(|case| kind(case) == *wanted);
            let rows = cases.filter_map(|case| device.fastest(case, form));
            let rate = |op: &str, tflops: f64, gb_s: f64| if op == "decode" { gb_s } else { 1e3 * tflops };
            let mut points: Vec<_> =
                rows.map(|row| (f64::from(row.kv_len), rate(&row.op, row.tflops, row.gb_s))).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            if points.len() > 1 {
                lines.push(Line { device: index, dashes, points });
            }
        }
    }
    lines
}

fn plot(lines: &[Line], op: &str) -> Result<String> {
    let points = || lines.iter().flat_map(|line| &line.points);
    let fold = |pick: fn(f64, f64) -> f64, values: &mut dyn Iterator<Item = f64>| values.reduce(pick).unwrap_or(1.0);
    let longest = fold(f64::max, &mut points().map(|point| point.0));
    let shortest = fold(f64::min, &mut points().map(|point| point.0));
    let most = fold(f64::max, &mut points().map(|point| point.1));
    let least = fold(f64::min, &mut points().map(|point| point.1));
    let (divisor, unit) = match (op == "decode", most >= 1e3) {
        (true, true) => (1e3, "TB/s"),
        (true, false) => (1.0, "GB/s"),
        (false, true) => (1e3, "TFLOP/s"),
        (false, false) => (1.0, "GFLOP/s"),
    };
    let (least, most) = (least / divisor, most / divisor);
    chart::svg(chart::WIDTH, chart::HEIGHT, |area| {
        let range = (shortest / 1.15..longest * 1.15).log_scale().base(2.0);
        let keys = Axis { range, title: "keys", text: length };
        // Devices of very different speed need a logarithmic axis to be seen side by side.
        if most > 10.0 * least {
            let rate = Axis { range: (least / 2.0..most * 2.0).log_scale(), title: unit, text: chart::number };
            draw(&mut chart::axes(area, keys, rate)?, lines, divisor)
        } else {
            let rate = Axis { range: 0.0..most * 1.1, title: unit, text: chart::number };
            draw(&mut chart::axes(area, keys, rate)?, lines, divisor)
        }
    })
}

fn draw<X, Y>(chart: &mut Chart<'_, '_, X, Y>, lines: &[Line], divisor: f64) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    for line in lines {
        let colour = series(line.device).rgb();
        let points = line.points.iter().map(|&(length, rate)| (length, rate / divisor));
        match line.dashes {
            None => chart.draw_series(LineSeries::new(points.clone(), colour.stroke_width(3))).map_err(failed)?,
            Some([on, off]) => {
                let dashed = DashedLineSeries::new(points.clone(), on, off, colour.stroke_width(3));
                chart.draw_series(dashed).map_err(failed)?
            }
        };
        chart.draw_series(points.map(|point| Circle::new(point, 6, colour.filled()))).map_err(failed)?;
    }
    Ok(())
}

/// `512`, `4k`.
fn length(keys: &f64) -> String {
    if *keys >= 1024.0 { format!("{}k", chart::number(&(*keys / 1024.0))) } else { chart::number(keys) }
}
