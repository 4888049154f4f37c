//! Running a suite: limits, then each case judged and timed, then the limits again.

use super::case::{Case, Runner};
use super::limits;
use super::record::{Header, Limits, Record, Row, Skipped};
use super::roofline::Bound;
use super::stats::{median, percentile};
use super::stopwatch::{Lap, Stopwatch};
use super::subject::{Any, Inputs, Kernel, Results, Subject};
use super::suite::Suite;
use super::verify::Check;
use crate::attention::DiffAttention;
use crate::error::{Error, Result};

/// Samples of a case.
const SAMPLES: usize = 20;

/// The fewest, where a run takes so long that more do not fit the suite's time.
const FEWEST_SAMPLES: usize = 5;

/// What the runner cannot know by itself.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Seed of the random inputs.
    pub seed: u64,
    /// The command up to the flags that choose cases, e.g. `diffattn bench --adapter 0`; empty where there is none.
    pub program: String,
    /// The flags that chose the suite, e.g. `--suite quick`.
    pub arguments: String,
    /// Commit that the program was built from.
    pub commit: Option<String>,
    /// Whether the tree differed from it.
    pub dirty: Option<bool>,
    /// Compiler that built the program.
    pub rustc: Option<String>,
    /// The processor's name.
    pub cpu: Option<String>,
    /// The browser's own description of itself.
    pub browser: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            seed: 1,
            program: String::new(),
            arguments: String::new(),
            commit: None,
            dirty: None,
            rustc: None,
            cpu: None,
            browser: None,
        }
    }
}

/// What a run is doing.
#[derive(Debug, Clone, Copy)]
pub enum Stage<'a> {
    /// Measuring the device's limits, before the first case or after the last one.
    Limits,
    /// Judging and timing this case: number `index` of the suite.
    Case {
        /// From 0.
        index: usize,
        /// The case.
        case: &'a Case,
    },
}

/// Who watches a run, and may end it.
pub trait Observer {
    /// A stage begins.
    fn stage(&mut self, stage: Stage<'_>);

    /// The limits were measured, before the first case.
    fn limits(&mut self, _limits: &Limits) {}

    /// A case is done.
    fn row(&mut self, _row: &Row) {}

    /// A case is not measured.
    fn skipped(&mut self, _skipped: &Skipped) {}

    /// Asked often: whether to end the run with what was measured so far.
    fn stop(&mut self) -> bool {
        false
    }
}

/// Runs a suite on one device. Cases that do not fit it, or that a wrong result disqualifies, have no times; whatever goes
/// wrong with one case ends that case, not the run.
///
/// # Errors
/// [`Error::Shader`], [`Error::DeviceLost`] and [`Error::Readback`] while the device's limits are measured.
pub async fn run(
    adapter: &wgpu::Adapter,
    attention: &DiffAttention,
    suite: &Suite,
    settings: &Settings,
    observer: &mut impl Observer,
) -> Result<Record> {
    let mut stopwatch = Stopwatch::new(attention);
    let info = adapter.get_info();
    let mut header = Header::new(&info, attention, suite, settings);
    observer.stage(Stage::Limits);
    header.limits_before = limits::measure(attention, &mut stopwatch).await?;
    observer.limits(&header.limits_before);

    let mut rows = Vec::new();
    let mut end: Option<String> = None;
    for (index, case) in suite.cases.iter().enumerate() {
        if end.is_none() && observer.stop() {
            end = Some(STOPPED.into());
        }
        let outcome = match &end {
            Some(reason) => Err(reason.clone()),
            None => {
                observer.stage(Stage::Case { index, case });
                let timing = Timing { seconds: suite.seconds };
                let bench = Bench { attention, stopwatch: &stopwatch, limits: header.limits_before, timing, settings };
                match bench.case(case, observer).await {
                    Ok(row) => Ok(row),
                    Err(Missed::Slow(reason)) => Err(reason),
                    Err(Missed::Stopped) => Err(end.insert(STOPPED.into()).clone()),
                    Err(Missed::Failed(error)) if error.is_unsupported() => Err(error.to_string()),
                    Err(Missed::Failed(error @ Error::OutOfMemory { .. })) => Err(error.to_string()),
                    Err(Missed::Failed(error @ Error::DeviceLost { .. })) => {
                        Err(end.insert(format!("{FAILED}{error}")).clone())
                    }
                    Err(Missed::Failed(error)) => Err(format!("{FAILED}{error}")),
                }
            }
        };
        match outcome {
            Ok(row) => {
                observer.row(&row);
                rows.push(row);
            }
            Err(reason) => {
                let skipped = Skipped { case: case.to_string(), reason };
                observer.skipped(&skipped);
                header.skipped.push(skipped);
            }
        }
    }
    if end.is_none() {
        observer.stage(Stage::Limits);
        let after = limits::measure(attention, &mut stopwatch).await?;
        header.throttled = header.limits_before.throttled(&after);
        header.limits_after = Some(after);
    }
    Ok(Record { header, rows })
}

/// Reason of the cases that were not measured because the observer ended the run.
const STOPPED: &str = "the run was stopped";

/// How the reasons begin that should not be.
const FAILED: &str = "failed: ";

impl Skipped {
    /// Whether the case should have run: its kernel was refused, or the device was lost. Otherwise the device cannot run
    /// it, or not in time.
    pub fn is_failure(&self) -> bool {
        self.reason.starts_with(FAILED)
    }
}

/// Why a case has no times.
enum Missed {
    Failed(Error),
    /// It would take too long; says how long.
    Slow(String),
    Stopped,
}

impl From<Error> for Missed {
    fn from(error: Error) -> Self {
        Missed::Failed(error)
    }
}

/// What every case of a run shares.
struct Bench<'a> {
    attention: &'a DiffAttention,
    stopwatch: &'a Stopwatch,
    limits: Limits,
    timing: Timing,
    settings: &'a Settings,
}

impl Bench<'_> {
    async fn case(&self, case: &Case, observer: &mut impl Observer) -> Result<Row, Missed> {
        case.validate()?;
        self.timing.fits(self.bound(case, 1).map_or(0.0, |bound| bound.ns))?;
        let seed = self.settings.seed;
        if self.attention.caps().software && case.runner != Runner::Cpu && !case.is_small() {
            self.timing.fits(self.extrapolated(case).await?)?;
        }
        let inputs = Inputs::random(case, seed)?;
        let subject = Any::prepare(self.attention, self.stopwatch, case, &inputs, None).await?;
        let small = case.smaller();
        let small_inputs;
        let control = if case.is_small() || case.op.is_module() {
            None
        } else {
            small_inputs = Inputs::random(&small, seed + 1)?;
            let pinned = Some(subject.kernel().pinned);
            let control = Any::prepare(self.attention, self.stopwatch, &small, &small_inputs, pinned).await?;
            if control.kernel().label != subject.kernel().label {
                let what = format!("a smaller problem on {}", subject.kernel().label);
                return Err(Error::Unsupported { what, hint: format!("it gets {}", control.kernel().label) }.into());
            }
            Some(Control { case: small, inputs: &small_inputs, subject: control })
        };
        let (judged, times) = self.timing.judge_and_time(case, &inputs, &subject, control, observer).await?;
        Ok(self.row(case, subject.kernel(), &judged, times.as_ref()))
    }

    /// What the case takes at least, in nanoseconds, by the time of a smaller one. A software driver is as busy with that; a
    /// GPU runs it on few of its cores, which says nothing. A quarter of it, since a small case fills its tiles less.
    async fn extrapolated(&self, case: &Case) -> Result<f64> {
        let small = case.smaller();
        let inputs = Inputs::random(&small, self.settings.seed)?;
        let subject = Any::prepare(self.attention, self.stopwatch, &small, &inputs, None).await?;
        // Drivers may compile in the first run.
        subject.sample(1).await?;
        Ok(0.25 * subject.sample(1).await?.ns() * case.cost().flop / small.cost().flop)
    }

    /// What the case takes at least; nothing is known of the CPU.
    fn bound(&self, case: &Case, dispatches: usize) -> Option<Bound> {
        let on_device = (case.runner != Runner::Cpu).then_some(self.limits);
        on_device.and_then(|limits| limits.bound(case.cost(), case.dtype, dispatches))
    }

    fn row(&self, case: &Case, kernel: &Kernel, judged: &Judged, times: Option<&Times>) -> Row {
        let cost = case.cost();
        let Check { passed, error, bound } = judged.check;
        let samples = times.map_or(&[][..], |times| &times.samples_ns);
        let or_zero = |value: f64| if value.is_finite() { value } else { 0.0 };
        let median_ns = or_zero(median(samples));
        let limit = self.bound(case, kernel.dispatches);
        let per_ns = |amount: f64| or_zero(amount / median_ns);
        let program = &self.settings.program;
        Row {
            label: kernel.label.clone(),
            form: case.form.name().into(),
            op: case.op.name().into(),
            path: kernel.path.into(),
            tile: kernel.tile(),
            batch: case.shape.batch,
            q_len: case.shape.q_len,
            kv_len: case.shape.kv_len,
            heads: case.shape.heads,
            kv_heads: case.shape.kv_heads,
            head_dim: case.shape.head_dim,
            value_dim: case.shape.value_dim,
            dtype: case.dtype_name().into(),
            causal: case.causal,
            window: [None, None],
            passed,
            max_err: error,
            err_bound: bound,
            verified: judged.verified.into(),
            timer: if case.runner == Runner::Cpu { super::Timer::Wall } else { self.stopwatch.timer() },
            warmup: times.map_or(0, |times| times.warmup),
            inner_repeats: times.map_or(0, |times| times.inner_repeats),
            cold_ns: kernel.cold_ns + judged.first.wall_ns,
            samples_ns: samples.to_vec(),
            median_ns,
            p10_ns: or_zero(percentile(samples, 0.1)),
            p90_ns: or_zero(percentile(samples, 0.9)),
            wall_median_ns: times.map_or(0.0, |times| median(&times.wall_ns)),
            flop: cost.flop,
            bytes_min: cost.bytes,
            tflops: per_ns(cost.flop) / 1e3,
            gb_s: per_ns(cost.bytes),
            bound_by: limit.map_or("", |limit| limit.by).into(),
            pct_of_limit: limit.map_or(0.0, |limit| 100.0 * per_ns(limit.ns)),
            scratch_bytes: kernel.scratch_bytes,
            repro: if program.is_empty() { String::new() } else { format!("{program} {}", case.flags()) },
        }
    }
}

/// How long one case may be timed.
struct Timing {
    seconds: f64,
}

impl Timing {
    /// What is wrong is not timed.
    async fn judge_and_time<S: Subject>(
        &self,
        case: &Case,
        inputs: &Inputs,
        subject: &S,
        control: Option<Control<'_, S>>,
        observer: &mut impl Observer,
    ) -> Result<(Judged, Option<Times>), Missed> {
        let (first, results) = subject.results().await?;
        let judged = judge(case, inputs, first, &results, control).await?;
        let times = match judged.check.passed {
            true => Some(self.time(subject, observer).await?),
            false => None,
        };
        Ok((judged, times))
    }

    /// Whether the fewest samples of runs of so many nanoseconds fit the suite's time.
    fn fits(&self, run_ns: f64) -> Result<(), Missed> {
        let (seconds, most) = (run_ns * FEWEST_SAMPLES as f64 / 1e9, self.seconds);
        if seconds <= most {
            return Ok(());
        }
        Err(Missed::Slow(format!(
            "{FEWEST_SAMPLES} runs take at least {seconds:.1} s here; one case may take {most} s"
        )))
    }

    /// Warms up and takes the samples.
    async fn time(&self, subject: &impl Subject, observer: &mut impl Observer) -> Result<Times, Missed> {
        // The first run, which was judged, says little of the time: drivers may compile in it.
        let mut last = subject.sample(1).await?;
        self.fits(last.ns())?;
        // Clocks rise while there is work: a fifth of a second of it, or one slow run.
        let (mut warmup, mut spent) = (2, last.ns());
        while warmup < 1000 && spent < 2e8 {
            last = subject.sample(1).await?;
            warmup += 1;
            spent += last.ns();
        }
        let inner_repeats = (subject.least_ns() / last.ns().max(1.0)).ceil().clamp(1.0, 1000.0) as u32;
        let sample_ns = last.ns() * f64::from(inner_repeats);
        let affordable = (self.seconds * 1e9 / sample_ns) as usize;
        let mut times = Times { warmup, inner_repeats, samples_ns: Vec::new(), wall_ns: Vec::new() };
        for _ in 0..affordable.clamp(FEWEST_SAMPLES, SAMPLES) {
            if observer.stop() {
                return Err(Missed::Stopped);
            }
            let lap = subject.sample(inner_repeats).await?;
            times.samples_ns.push(lap.ns() / f64::from(inner_repeats));
            times.wall_ns.push(lap.wall_ns / f64::from(inner_repeats));
        }
        Ok(times)
    }
}

/// A smaller case through the same kernel.
struct Control<'a, S> {
    case: Case,
    inputs: &'a Inputs,
    subject: S,
}

/// What the reference said, and the first run.
struct Judged {
    check: Check,
    verified: &'static str,
    first: Lap,
}

struct Times {
    warmup: u32,
    inner_repeats: u32,
    samples_ns: Vec<f64>,
    wall_ns: Vec<f64>,
}

/// Holds results against the reference: whole, or where that would take too long, rows of them, and all
/// of the control's.
async fn judge<S: Subject>(
    case: &Case,
    inputs: &Inputs,
    first: Lap,
    results: &Results,
    control: Option<Control<'_, S>>,
) -> Result<Judged> {
    let (check, verified) = inputs.judge(case, results, control.is_some())?;
    let Some(Control { case: small, inputs: small_inputs, subject: control }) = control else {
        return Ok(Judged { check, verified, first });
    };
    let (_, results) = control.results().await?;
    let check = check.and(small_inputs.judge(&small, &results, false)?.0);
    Ok(Judged { check, verified, first })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::super::case::Op;
    use super::super::module;
    use super::super::on_cpu::OnCpu;
    use super::*;
    use crate::problem::Shape;

    /// The CPU engine, whose results somebody tampers with.
    struct Broken<'a> {
        engine: OnCpu<'a>,
        change: fn(&mut Vec<f32>),
        samples: Cell<u32>,
    }

    impl Subject for Broken<'_> {
        fn kernel(&self) -> &Kernel {
            self.engine.kernel()
        }

        fn least_ns(&self) -> f64 {
            0.0
        }

        async fn results(&self) -> Result<(Lap, Results)> {
            let (lap, mut results) = self.engine.results().await?;
            match &mut results {
                Results::Outputs(outputs) => (self.change)(&mut outputs.out),
                Results::Gradients(gradients) => (self.change)(&mut gradients.dq),
                Results::Y(y) => (self.change)(y),
                Results::OfModule(gradients) => (self.change)(&mut gradients.dx),
                Results::Products(products) => (self.change)(&mut products[0]),
            }
            Ok((lap, results))
        }

        async fn sample(&self, runs: u32) -> Result<Lap> {
            self.samples.set(self.samples.get() + 1);
            self.engine.sample(runs).await
        }
    }

    struct Nobody;

    impl Observer for Nobody {
        fn stage(&mut self, _: Stage<'_>) {}
    }

    fn judge_and_time(case: &Case, change: fn(&mut Vec<f32>), control: Option<fn(&mut Vec<f32>)>) -> (bool, u32) {
        let inputs = Inputs::random(case, 1).unwrap();
        let small = case.smaller();
        let small_inputs = Inputs::random(&small, 2).unwrap();
        let broken = |case, inputs, change| Broken { engine: on_cpu(case, inputs), change, samples: Cell::new(0) };
        let subject = broken(case, &inputs, change);
        let control = control.map(|change| {
            let subject = broken(&small, &small_inputs, change);
            Control { case: small, inputs: &small_inputs, subject }
        });
        let timing = Timing { seconds: 10.0 };
        let mut nobody = Nobody;
        let done = pollster::block_on(timing.judge_and_time(case, &inputs, &subject, control, &mut nobody));
        let Ok((judged, times)) = done else { panic!("{case}: not measured") };
        assert_eq!(times.is_some(), judged.check.passed, "{case}");
        (judged.check.passed, subject.samples.get())
    }

    fn on_cpu<'a>(case: &Case, inputs: &'a Inputs) -> OnCpu<'a> {
        match inputs {
            Inputs::Attention(tensors) => OnCpu::of_attention(case, tensors).unwrap(),
            Inputs::Module(inputs) => module::on_cpu(case, inputs).unwrap(),
        }
    }

    fn case(op: Op) -> Case {
        let mut shape = Shape { batch: 2, q_len: 150, kv_len: 160, heads: 4, kv_heads: 2, head_dim: 16, value_dim: 8 };
        if op.is_module() {
            (shape.kv_len, shape.value_dim) = (shape.q_len, shape.head_dim);
        }
        Case::new(op, shape)
    }

    /// A wrong result is found before a single sample is taken, and a right one is timed.
    #[test]
    fn a_broken_kernel_is_not_timed() {
        let wrong: [fn(&mut Vec<f32>); 5] = [
            |out| out[3] += 1.0,
            |out| out.fill(0.0),
            |out| out.fill(f32::NAN),
            |out| out.rotate_left(8),
            |out| *out.last_mut().unwrap() = f32::INFINITY,
        ];
        for op in [Op::Forward, Op::Backward, Op::Module, Op::Train] {
            for change in wrong {
                assert_eq!(judge_and_time(&case(op), change, None), (false, 0), "{op:?} whole");
                assert_eq!(judge_and_time(&case(op), change, Some(|_| ())), (false, 0), "{op:?} sampled");
                assert_eq!(judge_and_time(&case(op), |_| (), Some(change)), (false, 0), "{op:?} by the control");
            }
            for control in [None, Some((|_| ()) as fn(&mut Vec<f32>))] {
                let (passed, samples) = judge_and_time(&case(op), |_| (), control);
                assert!(passed && samples >= SAMPLES as u32, "{op:?}: {passed} with {samples} samples");
            }
        }
    }
}
