//! The report as one HTML page: style and plots inside, no script, no network. maud escapes all text from the records.

use anyhow::Result;
use diffattn::bench::{Header, Limits, Row, Timer};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::view::{Best, Device, View, rate};
use super::{bars, lengths, palette, roofline};
use crate::records::{self, Case, digits};

const STYLE: &str = include_str!("page.css");

pub fn html(view: &View) -> Result<String> {
    let roofline = roofline::plot(view)?;
    let ops = view.ops().into_iter().map(|op| operation(view, op)).collect::<Result<Vec<_>>>()?;
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { "diffattn: benchmark report" }
                style { (PreEscaped(palette::css())) (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { "Differential attention, measured" }
                    p.summary { (view.summary()) }
                    section.devices {
                        @for (index, device) in view.devices.iter().enumerate() { (card(view, index, device)) }
                    }
                    @if let Some(svg) = roofline {
                        section {
                            h2 { "Roofline" }
                            div.beside {
                                (figure("Roofline of every row", &svg, html! {
                                    "Lines are what each device can do at best, measured in the same run: rising with \
                                     its memory, level with its arithmetic (two levels where it has matrix units). \
                                     Filled dots are the fused kernels; rings are the un-fused computation and ordinary \
                                     attention. Both axes are logarithmic."
                                }))
                            }
                        }
                    }
                    @for op in ops { (op) }
                    (missing(view))
                    section {
                        h2 { "Every row" }
                        @for (index, device) in view.devices.iter().enumerate() { (rows(index, device)) }
                    }
                    footer { p { (notes(view)) } }
                }
            }
        }
    };
    Ok(page.into_string())
}

/// A plot, named for those who do not see it.
fn figure(name: &str, svg: &str, caption: Markup) -> Markup {
    html! {
        figure {
            div role="img" aria-label=(name) { (PreEscaped(svg)) }
            figcaption { (caption) }
        }
    }
}

fn dot(index: usize) -> Markup {
    html! { span.dot style={ "background:var(" (palette::variable(index)) ")" } {} }
}

fn marks(device: &Device) -> Markup {
    html! { @for mark in device.marks() { " " span.mark { (mark) } } }
}

/// On what a record was made.
fn card(view: &View, index: usize, device: &Device) -> Markup {
    let Header { backend, driver, os, cpu, version, commit, stack, timestamp, command, browser, .. } = device.header;
    let limits = limits(&device.header.limits_before, device.header.limits_after.as_ref());
    html! {
        article {
            h3 { (dot(index)) (device.name) (marks(device)) }
            p.muted {
                (backend) @if !driver.is_empty() { " · " (driver) } br;
                (os) @if let Some(cpu) = cpu { " · " (cpu) } @if let Some(browser) = browser { " · " (browser) } br;
                (stack) " " (version) @if let Some(commit) = commit { " @ " (commit) } " · " span.whole { (timestamp) }
            }
            p.rates { @for sentence in device.sentences(&view.cases) { (sentence) ". " } }
            @if !limits.is_empty() {
                dl { @for (name, value) in limits { div { dt { (name) } dd { (value) } } } }
            }
            code.command { (command) }
        }
    }
}

/// What was measured of the device itself, and what became of it until the end.
fn limits(before: &Limits, after: Option<&Limits>) -> Vec<(&'static str, String)> {
    type Limit = (&'static str, fn(&Limits) -> Option<f64>, fn(f64) -> String);
    let rows: [Limit; 6] = [
        ("multiply-add, f32", |limits| limits.fma_f32_tflops, records::flops),
        ("multiply-add, packed f16", |limits| limits.fma_f16_tflops, records::flops),
        ("matrix units", |limits| limits.matrix_tflops, records::flops),
        ("read", |limits| limits.read_gb_s, records::bandwidth),
        ("copy", |limits| limits.copy_gb_s, records::bandwidth),
        ("dispatch", |limits| limits.dispatch_us, |us| records::time(1e3 * us)),
    ];
    let shown = rows.into_iter().filter_map(|(name, pick, text)| {
        let first = pick(before)?;
        let change = after.and_then(pick).map(|last| 100.0 * (last / first - 1.0)).filter(|change| change.abs() >= 0.5);
        let change = change.map_or(String::new(), |change| format!(", then {change:+.0} %"));
        Some((name, text(first) + &change))
    });
    shown.collect()
}

/// One operation: bars, lines, table.
fn operation(view: &View, op: &str) -> Result<Markup> {
    let bars = bars::plot(view, op)?;
    let plots = lengths::plots(view, op)?;
    Ok(html! {
        section {
            h2 { (op) }
            (table(view, op))
            p.muted { "Below each rate: how many times as long others take for the same." }
            @if bars.is_some() || !plots.is_empty() {
                div.small {
                    @if let Some(svg) = bars {
                        (figure(&format!("{op}: percent of the device's own limit"), &svg, html! {
                            "The time that the device's own limit alone would take, in percent of the time it took. The limit \
                             that binds is named: matrix units, f32 multiply-adds, reading memory, or dispatches."
                        }))
                    }
                    @for plot in plots {
                        (figure(&format!("{op}: throughput against length, {}", plot.title), &plot.svg, html! {
                            (plot.title) ". Solid: fused; long dashes: un-fused; short dashes: ordinary attention."
                        }))
                    }
                }
            }
        }
    })
}

/// Devices side by side, a line for each case.
fn table(view: &View, op: &str) -> Markup {
    html! {
        div.scroll {
            table.cases {
                thead { tr {
                    th { "case" }
                    @for (index, device) in view.devices.iter().enumerate() {
                        th { (dot(index)) (device.name) (marks(device)) }
                    }
                } }
                tbody { @for case in view.cases_of(op) {
                    @let fastest = view.fastest(case);
                    tr {
                        th { (case) }
                        @for (index, device) in view.devices.iter().enumerate() {
                            td.best[fastest == Some(index)] {
                                @match device.best(case) { Some(best) => (cell(&best)), None => { "–" } }
                            }
                        }
                    }
                } }
            }
        }
    }
}

fn cell(Best { v2, others }: &Best) -> Markup {
    html! {
        strong { (records::time(v2.median_ns)) } " " span.muted { (v2.form) " " (v2.path) } br;
        span.muted {
            (rate(v2)) @if v2.pct_of_limit > 0.0 { " · " (digits(v2.pct_of_limit)) " % of limit" }
            @for (name, times) in others { br; (name) " " (digits(*times)) "×" }
        }
    }
}

/// What was not measured, and why.
fn missing(view: &View) -> Markup {
    let lists: Vec<_> = view.devices.iter().map(|device| (device, device.missing(&view.cases))).collect();
    if lists.iter().all(|(_, missing)| missing.is_empty()) {
        return html! {};
    }
    html! {
        section {
            h2 { "Not measured" }
            @for (index, (device, missing)) in lists.iter().enumerate() {
                @if !missing.is_empty() {
                    details {
                        summary { (dot(index)) (device.name) ": " (missing.len()) " cases" }
                        ul { @for (case, reason) in missing { li { (case) ": " span.muted { (reason) } } } }
                    }
                }
            }
        }
    }
}

/// All of a record, with the command that measures each row again.
fn rows(index: usize, device: &Device) -> Markup {
    html! {
        details {
            summary { (dot(index)) (device.name) ": " (device.rows.len()) " rows" }
            div.scroll {
                table {
                    thead { tr {
                        @for name in ["op", "case", "form", "path", "median", "p10 – p90", "TFLOP/s", "GB/s", "% of limit",
                            "error", "bound", "scratch", "timer", "kernel", "command"] { th { (name) } }
                    } }
                    tbody { @for row in device.rows { (line(row)) } }
                }
            }
        }
    }
}

fn line(row: &Row) -> Markup {
    let timer = match row.timer {
        Timer::GpuNs => "device",
        Timer::Gpu100us => "device, 100 µs",
        Timer::Wall => "host",
    };
    html! {
        tr {
            td { (row.op) } td { (Case::of(row)) } td { (row.form) } td { (row.path) }
            @if row.passed {
                td { strong { (records::time(row.median_ns)) } }
                td { (records::time(row.p10_ns)) " – " (records::time(row.p90_ns)) }
                td { (digits(row.tflops)) } td { (digits(row.gb_s)) }
                td { @if row.pct_of_limit > 0.0 { (digits(row.pct_of_limit)) " of " (row.bound_by) } @else { "–" } }
            } @else {
                td colspan="5" { span.mark { "wrong result, not timed" } }
            }
            td { (format!("{:.1e}", row.max_err)) } td { (format!("{:.1e}", row.err_bound)) }
            td { (records::bytes(row.scratch_bytes)) } td { (timer) }
            td { code { (row.label) } } td { code.command { (row.repro) } }
        }
    }
}

/// How to read the numbers.
fn notes(view: &View) -> String {
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "Times are medians of runs after warm-up. A causal mask counts the operations that are seen; a multiply-add is \
         two; GB are 10⁹ bytes. Times of the host include submitting and waiting. Rankings leave out software adapters \
         and devices that became slower while they ran. Rows compare within one version of the suite ({}). Made by \
         diffattn {version}.",
        view.suite()
    )
}
