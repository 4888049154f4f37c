//! The roofline: what each device can do at best for so many operations on a byte, and what each row did.

use anyhow::Result;
use diffattn::bench::{Limits, Row};
use plotters::prelude::*;

use super::chart::{self, Axis, failed};
use super::palette::series;
use super::view::{Device, View};

/// Operations on a byte, and TFLOP/s.
type Point = (f64, f64);

/// `None` where no row was timed.
pub fn plot(view: &View) -> Result<Option<String>> {
    let points: Vec<Vec<(Point, bool)>> = view.devices.iter().map(points).collect();
    let all = || points.iter().flatten().map(|(point, _)| *point);
    let peaks = || view.devices.iter().flat_map(|device| peaks(&device.header.limits_before));
    let Some((x, y)) = range(all().map(|point| point.0)).zip(range(all().map(|point| point.1).chain(peaks()))) else {
        return Ok(None);
    };
    let svg = chart::svg(chart::WIDTH, chart::HEIGHT, |area| {
        let text = chart::number;
        let horizontal = Axis { range: (x.0..x.1).log_scale(), title: "FLOP for each byte that must be moved", text };
        let vertical = Axis { range: (y.0..y.1).log_scale(), title: "TFLOP/s", text };
        let mut chart = chart::axes(area, horizontal, vertical)?;
        for (index, device) in view.devices.iter().enumerate() {
            let colour = series(index).rgb();
            for roof in roofs(&device.header.limits_before, x, y.0) {
                chart.draw_series(LineSeries::new(roof, colour.stroke_width(3))).map_err(failed)?;
            }
            for &(point, fused) in &points[index] {
                let style = if fused { colour.filled() } else { colour.stroke_width(2) };
                chart.draw_series([Circle::new(point, 7, style)]).map_err(failed)?;
            }
        }
        Ok(())
    })?;
    Ok(Some(svg))
}

/// Where each timed row is, and whether it is a fused one. The CPU engine beside a GPU has other roofs.
fn points(device: &Device) -> Vec<(Point, bool)> {
    let rows = device.timed().filter(|row| row.bytes_min > 0.0 && row.tflops > 0.0);
    rows.map(|row: &Row| ((row.flop / row.bytes_min, row.tflops), row.form == "fused")).collect()
}

/// What the device computes at best: on the ordinary units, and on the matrix units where it has some.
fn peaks(limits: &Limits) -> impl Iterator<Item = f64> {
    [limits.fma_f32_tflops, limits.matrix_tflops].into_iter().flatten()
}

/// Up with the memory's rate, and level from where the arithmetic binds.
fn roofs(limits: &Limits, (left, right): Point, bottom: f64) -> Vec<Vec<Point>> {
    let roof = |peak: f64| {
        let Some(rate) = limits.read_gb_s.map(|rate| rate / 1e3) else { return vec![(left, peak), (right, peak)] };
        let (ridge, start) = (peak / rate, left.max(bottom / rate));
        match ridge {
            ridge if ridge <= start => vec![(left, peak), (right, peak)],
            ridge if ridge >= right => vec![(start, rate * start), (right, rate * right)],
            ridge => vec![(start, rate * start), (ridge, peak), (right, peak)],
        }
    };
    peaks(limits).map(roof).collect()
}

/// From somewhat below the least to somewhat above the most.
fn range(values: impl Iterator<Item = f64>) -> Option<Point> {
    let values: Vec<_> = values.filter(|value| value.is_finite() && *value > 0.0).collect();
    let least = values.iter().copied().min_by(f64::total_cmp)?;
    let most = values.iter().copied().max_by(f64::total_cmp)?;
    Some((least / 2.0, most * 2.0))
}
