//! Percent of the device's own limit, a bar for each case and device.

use anyhow::Result;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::{self, FONT, failed};
use super::palette::{Colour, GRID, MUTED, TEXT, series};
use super::view::View;
use crate::records::digits;

/// A case, and the percentage of each device that has one.
type Group = (String, Vec<(usize, f64, String)>);

/// Height of a bar, and of the line above its group.
const BAR: i32 = FONT as i32 + 7;
const LINE: i32 = FONT as i32 + 16;
/// Room for the numbers behind the longest bar.
const NUMBERS: i32 = 250;

/// The bars of one operation; `None` where no limit was measured.
pub fn plot(view: &View, op: &str) -> Result<Option<String>> {
    let groups: Vec<Group> = view
        .cases_of(op)
        .filter_map(|case| {
            let best =
                view.devices.iter().enumerate().filter_map(|(index, device)| Some((index, device.best(case)?.v2)));
            let shares = best.filter(|(_, row)| row.pct_of_limit > 0.0);
            let bars: Vec<_> = shares.map(|(index, row)| (index, row.pct_of_limit, row.bound_by.clone())).collect();
            (!bars.is_empty()).then(|| (case.to_string(), bars))
        })
        .collect();
    if groups.is_empty() {
        return Ok(None);
    }
    let bars: usize = groups.iter().map(|(_, bars)| bars.len()).sum();
    let height = LINE * (groups.len() as i32 + 1) + BAR * bars as i32;
    let width = chart::WIDTH as i32 - NUMBERS;
    // More than 100 % is possible where a cache helps: the scale grows.
    let most = groups.iter().flat_map(|(_, bars)| bars).map(|bar| bar.1).fold(100.0, f64::max);
    let place = |share: f64| (share / most * f64::from(width)) as i32;
    let svg = chart::svg(chart::WIDTH, height as u32, |area| {
        let text = |text: &str, colour: &Colour, anchor: HPos, at: (i32, i32)| {
            let style = ("sans-serif", FONT).into_font().color(&colour.rgb()).pos(Pos::new(anchor, VPos::Center));
            area.draw_text(text, &style, at).map_err(failed)
        };
        for percent in [0.0, 50.0, 100.0] {
            let line = [(place(percent), 0), (place(percent), height - LINE)];
            area.draw(&PathElement::new(line, GRID.rgb().stroke_width(2))).map_err(failed)?;
            let anchor = if percent == 0.0 { HPos::Left } else { HPos::Center };
            text(&format!("{percent} %"), &MUTED, anchor, (place(percent), height - LINE / 2))?;
        }
        let mut y = 0;
        for (case, bars) in &groups {
            text(case, &TEXT, HPos::Left, (8, y + LINE / 2 + 4))?;
            y += LINE;
            for (device, share, bound_by) in bars {
                let bar = [(0, y), (place(*share).max(2), y + BAR - 6)];
                area.draw(&Rectangle::new(bar, series(*device).rgb().filled())).map_err(failed)?;
                let label = format!("{} % of {bound_by}", digits(*share));
                text(&label, &MUTED, HPos::Left, (place(*share) + 10, y + BAR / 2 - 3))?;
                y += BAR;
            }
        }
        Ok(())
    })?;
    Ok(Some(svg))
}
