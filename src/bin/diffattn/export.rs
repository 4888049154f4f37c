//! `diffattn export`: the kernels as WGSL files with a manifest, for programs in other languages.

mod manifest;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use diffattn::shader::{CacheVariant, Variant};
use diffattn::{Caps, DType, Options, Packed, Problem, Shape};

use crate::args::DTypeArg;
use manifest::{Kernel, Manifest};

/// Write the kernels as WGSL files, with a manifest that says how to run them
///
/// For WebGPU in JavaScript, Dawn, wgpu-py. Without --head-dim, one of every kind of kernel; with it, all kernels
/// (forward and gradients, on every path) of the problem that the flags describe. DIR/manifest.json explains itself;
/// the text of a kernel is its header, native or web, followed by its file.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Directory to create; it appears whole or not at all
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,

    /// Elements of a query and of a key
    #[arg(long, value_name = "N")]
    pub head_dim: Option<u32>,

    #[command(flatten)]
    pub problem: ProblemArgs,
}

/// The problem, where one is chosen
#[derive(Debug, Args)]
pub struct ProblemArgs {
    /// Elements of a value [default: head_dim]
    #[arg(long, value_name = "N", requires = "head_dim")]
    pub value_dim: Option<u32>,

    /// Storage type
    #[arg(long, value_enum, default_value = "f32", requires = "head_dim")]
    pub dtype: DTypeArg,

    /// Which keys a query sees; the sides of a window are parameters
    #[arg(long, value_enum, default_value = "full", requires = "head_dim")]
    pub mask: MaskArg,

    /// With softcap
    #[arg(long, requires = "head_dim")]
    pub softcap: bool,

    /// For packed sequences of different lengths
    #[arg(long, requires = "head_dim")]
    pub packed: bool,

    /// The forward writes the log-sum-exp
    #[arg(long, requires = "head_dim")]
    pub lse: bool,

    /// The forward writes the subtracted member, and the gradients read it
    #[arg(long, requires = "head_dim")]
    pub a2: bool,

    /// Output heads that share one KV head: tiles are chosen for it. A kernel runs with every multiple of its
    /// grid.head_tiles.per; those for 1 run with any number
    #[arg(long, value_name = "N", default_value_t = 1, requires = "head_dim")]
    pub group: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum MaskArg {
    Full,
    Causal,
    Window,
}

pub fn run(args: &ExportArgs, out: &mut impl Write) -> Result<()> {
    let kernels = match args.head_dim {
        None => every_kind()?,
        Some(head_dim) => {
            let problem = args.problem.problem(head_dim);
            problem.validate()?;
            of(&problem)?
        }
    };
    let manifest = Manifest::new(kernels.values().map(|(kernel, _)| kernel.clone()).collect())?;

    let shown = args.out.display();
    let taken = args.out.exists() && fs::read_dir(&args.out).map_or(true, |mut entries| entries.next().is_some());
    ensure!(!taken, "cannot write {shown}: it is there and not empty; choose another name");
    let parent = args.out.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(".".as_ref());
    ensure!(parent.is_dir(), "cannot write {shown}: there is no directory {}", parent.display());
    let folder = tempfile::Builder::new().prefix(".diffattn-").tempdir_in(parent);
    let folder = folder.with_context(|| format!("cannot write into {}", parent.display()))?;
    let write = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).with_context(|| format!("cannot write {shown}/{name}"))
    };
    fs::create_dir(folder.path().join("kernels")).with_context(|| format!("cannot write {shown}"))?;
    for (kernel, text) in kernels.values() {
        write(&kernel.file, text)?;
    }
    write("manifest.json", &format!("{:#}\n", manifest.json()))?;
    #[cfg(unix)]
    {
        // Temporary directories are private; this one is like any other.
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
    }
    fs::rename(folder.path(), &args.out).with_context(|| format!("cannot write {shown}"))?;
    // It has another name now: there is nothing left to remove.
    let _ = folder.keep();
    writeln!(out, "{} kernels in {shown}; manifest.json says how to run them", kernels.len())?;
    Ok(())
}

impl ProblemArgs {
    fn problem(&self, head_dim: u32) -> Problem {
        let (len, kv_heads) = (1024, 4u32);
        let heads = kv_heads.saturating_mul(self.group);
        let value_dim = self.value_dim.unwrap_or(head_dim);
        let shape = Shape { batch: 1, q_len: len, kv_len: len, heads, kv_heads, head_dim, value_dim };
        let mut options = Options::default();
        options.causal = matches!(self.mask, MaskArg::Causal);
        // The numbers of mask and softcap are parameters of the kernel, and choose none.
        options.window = if matches!(self.mask, MaskArg::Window) { (Some(1), Some(1)) } else { (None, None) };
        options.softcap = self.softcap.then_some(1.0);
        (options.lse, options.a2) = (self.lse, self.a2);
        let lengths = || vec![0, len];
        let packed = self.packed.then(|| Packed { cu_seqlens_q: lengths(), cu_seqlens_k: lengths() });
        Problem { packed, ..Problem::new(shape, DType::from(self.dtype), options) }
    }
}

/// Kernels and their text, by label.
type Kernels = BTreeMap<String, (Kernel, String)>;

/// One of every kind, for each kind of device.
fn every_kind() -> Result<Kernels> {
    let mut found = Kernels::new();
    for caps in devices() {
        add(&mut found, &caps, Variant::all(&caps))?;
        for variant in CacheVariant::all(&caps) {
            if let Entry::Vacant(entry) = found.entry(variant.label()) {
                let (header, text) = split(variant.source());
                entry.insert((Kernel::cache(&variant, &caps, header, &text)?, text));
            }
        }
    }
    Ok(found)
}

/// Those of a problem, for each kind of device.
fn of(problem: &Problem) -> Result<Kernels> {
    let mut found = Kernels::new();
    for caps in devices() {
        add(&mut found, &caps, Variant::of(problem, &caps))?;
    }
    Ok(found)
}

fn add(found: &mut Kernels, caps: &Caps, variants: Vec<Variant>) -> Result<()> {
    for variant in variants {
        if let Entry::Vacant(entry) = found.entry(variant.label()) {
            let (header, text) = split(variant.source());
            entry.insert((Kernel::tensors(&variant, caps, header, &text)?, text));
        }
    }
    Ok(())
}

/// WebGPU's floor; the same with subgroups and `unpack2x16float`; and with matrix units of either size.
fn devices() -> Vec<Caps> {
    let mut subgroups = Caps::floor();
    (subgroups.unpack_f16, subgroups.subgroups) = (true, Some((32, 32)));
    let matrix = [16, 8].map(|side| {
        let mut caps = subgroups.clone();
        caps.matrix = Some(side);
        caps
    });
    [vec![Caps::floor(), subgroups], matrix.to_vec()].concat()
}

/// The directives at the top of a kernel, which differ between native WGSL and a browser's, and the rest.
fn split(source: String) -> (String, String) {
    let (directives, rest): (Vec<_>, Vec<_>) = source.lines().partition(|line| line.starts_with("enable "));
    (directives.iter().map(|line| format!("{line}\n")).collect(), rest.join("\n") + "\n")
}
