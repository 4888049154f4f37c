//! `diffattn report RECORD…`: any number of records side by side, as one page or as Markdown.

mod bars;
mod chart;
mod document;
mod lengths;
mod page;
mod palette;
mod roofline;
mod view;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, ValueEnum};

use crate::output::Output;
use crate::records;
use view::View;

/// Show benchmark records side by side: one self-contained HTML page, or Markdown
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Files that `diffattn bench` or benches/compare_torch.py wrote
    #[arg(required = true, value_name = "RECORD")]
    pub records: Vec<PathBuf>,

    /// File for the report; appears whole or not at all [default: report.html, or standard output for md]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// What it is written in
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// One page with its plots inside; it needs no network
    #[default]
    Html,
    /// Tables, to paste into an issue
    Md,
}

pub fn run(args: &ReportArgs, out: &mut impl Write) -> Result<()> {
    let path = match (&args.output, args.format) {
        (Some(path), _) => Some(path.clone()),
        (None, Format::Html) => Some(PathBuf::from("report.html")),
        (None, Format::Md) => None,
    };
    let output = path.as_ref().map(|path| Output::create(path, &args.records)).transpose()?;
    let records = records::read_all(&args.records)?;
    let view = View::of(&records);
    let text = match args.format {
        Format::Html => page::html(&view)?,
        Format::Md => document::markdown(&view),
    };
    match (output, path) {
        (Some(output), Some(path)) => {
            output.write(text.as_bytes())?;
            writeln!(out, "wrote {}", path.display())?;
        }
        _ => out.write_all(text.as_bytes())?,
    }
    Ok(())
}
