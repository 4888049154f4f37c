//! Colours of the plots: drawn in those of the light scheme, from which the page's style makes those of the dark one.

use std::fmt::Write as _;

use plotters::style::RGBColor;

/// A colour in the light scheme and in the dark one.
pub struct Colour {
    light: u32,
    dark: u32,
}

pub const TEXT: Colour = Colour { light: 0x1f2328, dark: 0xe6edf3 };
pub const MUTED: Colour = Colour { light: 0x59636e, dark: 0x9198a1 };
pub const GRID: Colour = Colour { light: 0xdfe3e8, dark: 0x2d333b };

/// One for each record, and again from the first when there are more.
const SERIES: [Colour; 8] = [
    Colour { light: 0x1f77d0, dark: 0x58a6ff },
    Colour { light: 0xd9580a, dark: 0xff8c3a },
    Colour { light: 0x1a7f37, dark: 0x3fb950 },
    Colour { light: 0x8250df, dark: 0xa371f7 },
    Colour { light: 0xbf3989, dark: 0xf778ba },
    Colour { light: 0x0e7490, dark: 0x2dd4bf },
    Colour { light: 0x9a6700, dark: 0xd29922 },
    Colour { light: 0x6e4a33, dark: 0xc69c7c },
];

/// The colour of a record.
pub fn series(index: usize) -> &'static Colour {
    &SERIES[index % SERIES.len()]
}

impl Colour {
    /// For the plotter.
    pub fn rgb(&self) -> RGBColor {
        let [_, red, green, blue] = self.light.to_be_bytes();
        RGBColor(red, green, blue)
    }
}

/// Rules that give every colour a name for the page (`--text`, `--series-0` …), and every plot the current scheme's.
pub fn css() -> String {
    let fixed = [("text", &TEXT), ("muted", &MUTED), ("grid", &GRID)].map(|(name, colour)| (name.to_string(), colour));
    let numbered = SERIES.iter().enumerate().map(|(index, colour)| (format!("series-{index}"), colour));
    let (mut light, mut dark, mut plots) = (String::new(), String::new(), String::new());
    for (name, colour) in fixed.into_iter().chain(numbered) {
        let _ = write!(light, "--{name}:#{:06x};", colour.light);
        let _ = write!(dark, "--{name}:#{:06x};", colour.dark);
        for property in ["fill", "stroke"] {
            // As the plotter writes it.
            let _ = writeln!(plots, "svg [{property}=\"#{:06X}\"]{{{property}:var(--{name})}}", colour.light);
        }
    }
    format!(":root{{{light}}}\n@media(prefers-color-scheme:dark){{:root{{{dark}}}}}\n{plots}")
}

/// Name of a record's colour in the page.
pub fn variable(index: usize) -> String {
    format!("--series-{}", index % SERIES.len())
}
