//! What the plots share: size, fonts, axes. They are drawn at twice the size at which a phone shows them.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, Ranged, ValueFormatter};
use plotters::prelude::*;

use super::palette::{GRID, MUTED};
use crate::records::digits;

pub const WIDTH: u32 = 800;
pub const HEIGHT: u32 = 560;
/// Height of letters.
pub const FONT: u32 = 25;

pub type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub type Chart<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

/// An SVG element of this size.
pub fn svg(width: u32, height: u32, draw: impl FnOnce(&Area<'_>) -> Result<()>) -> Result<String> {
    let mut text = String::new();
    let area = SVGBackend::with_string(&mut text, (width, height)).into_drawing_area();
    draw(&area)?;
    area.present().map_err(failed)?;
    drop(area);
    Ok(text)
}

/// Drawing into memory fails only where we made a mistake.
pub fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("a plot cannot be drawn: {error}")
}

/// A number beside an axis: three digits without zeros behind them.
pub fn number(value: &f64) -> String {
    let text = digits(*value);
    if text.contains('.') && !text.contains('e') {
        text.trim_end_matches('0').trim_end_matches('.').into()
    } else {
        text
    }
}

/// One axis of a plot.
pub struct Axis<'a, R> {
    pub range: R,
    pub title: &'a str,
    /// Writes the numbers beside it.
    pub text: fn(&f64) -> String,
}

/// Empty axes.
pub fn axes<'a, 'b, X, Y>(
    area: &'a Area<'b>,
    x: Axis<'_, X>,
    y: Axis<'_, Y>,
) -> Result<Chart<'a, 'b, X::CoordDescType, Y::CoordDescType>>
where
    X: AsRangedCoord<Value = f64>,
    Y: AsRangedCoord<Value = f64>,
    X::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
    Y::CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let mut builder = ChartBuilder::on(area);
    builder.margin(8).margin_right(24).margin_top(FONT * 2).x_label_area_size(2.6 * f64::from(FONT));
    builder.y_label_area_size(3.4 * f64::from(FONT));
    let mut chart = builder.build_cartesian_2d(x.range, y.range).map_err(failed)?;
    let text = |colour: &super::palette::Colour| ("sans-serif", FONT).into_font().color(&colour.rgb());
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID.rgb())
        .axis_style(GRID.rgb())
        .label_style(text(&MUTED))
        .axis_desc_style(text(&MUTED))
        .x_desc(x.title)
        .x_labels(7)
        .y_labels(6)
        .x_label_formatter(&x.text)
        .y_label_formatter(&y.text)
        .draw()
        .map_err(failed)?;
    // Beside the axis, not turned by 90°.
    area.draw_text(y.title, &text(&MUTED), (8, 8)).map_err(failed)?;
    Ok(chart)
}
