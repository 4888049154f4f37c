//! The kernels that only benchmarks need: loops that meet one limit of the device each.

use std::fmt::Write as _;

use crate::caps::Caps;
use crate::error::Result;
use crate::pipeline;
use crate::shader::{matrix_types, unroll};

/// A kernel of the benchmarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// Multiply-adds on f32.
    FmaF32,
    /// Multiply-adds on f16; needs `SHADER_F16`.
    FmaF16,
    /// Matrix products; needs matrix units.
    Matrix {
        /// Side of the matrices.
        size: u32,
        /// Lanes of a subgroup.
        subgroup: u32,
    },
    /// Reading a buffer.
    Read,
    /// Copying a buffer.
    Copy,
    /// Nothing.
    Empty,
}

/// Independent chains of matrix products of one subgroup: enough to hide the latency of a unit.
const CHAINS: u32 = 8;

impl Probe {
    /// The probes that a device may be given.
    pub fn all(caps: &Caps, f16: bool) -> Vec<Probe> {
        let mut probes = vec![Probe::FmaF32];
        probes.extend(f16.then_some(Probe::FmaF16));
        probes.extend(Probe::matrix(caps));
        probes.extend([Probe::Read, Probe::Copy, Probe::Empty]);
        probes
    }

    /// The matrix probe, where there are matrix units.
    pub(super) fn matrix(caps: &Caps) -> Option<Probe> {
        let ((subgroup, _), size) = (caps.subgroups?, caps.matrix?);
        Some(Probe::Matrix { size, subgroup })
    }

    /// Its name in errors and tests.
    pub fn label(self) -> String {
        let name = match self {
            Probe::FmaF32 => "fma.f32",
            Probe::FmaF16 => "fma.f16",
            Probe::Matrix { size, subgroup } => return format!("diffattn.bench.matrix.m{size}s{subgroup}"),
            Probe::Read => "read",
            Probe::Copy => "copy",
            Probe::Empty => "empty",
        };
        format!("diffattn.bench.{name}")
    }

    /// Floating-point operations of one workgroup, for the probes of arithmetic; by the constants of the shaders.
    pub(super) fn flop_per_workgroup(self) -> f64 {
        match self {
            Probe::FmaF32 | Probe::FmaF16 => 64.0 * 3.0 * 1024.0 * 4.0 * 2.0,
            Probe::Matrix { size, subgroup } => {
                f64::from(Self::subgroups(subgroup) * CHAINS) * 256.0 * 2.0 * f64::from(size).powi(3)
            }
            Probe::Read | Probe::Copy | Probe::Empty => 0.0,
        }
    }

    /// Subgroups of a workgroup: 128 lanes, or one subgroup where it is larger.
    fn subgroups(subgroup: u32) -> u32 {
        (128 / subgroup).max(1)
    }

    /// The complete WGSL text.
    pub fn source(self) -> String {
        let mut text = format!("// {}\n", self.label());
        match self {
            Probe::FmaF32 => text.push_str("alias Scalar = f32;\n"),
            Probe::FmaF16 => text.push_str("enable f16;\nalias Scalar = f16;\n"),
            Probe::Matrix { size, subgroup } => {
                text.push_str(&matrix_types(size));
                let subgroups = Self::subgroups(subgroup);
                let constants = [("MAT", size), ("SUBGROUP", subgroup), ("SUBGROUPS", subgroups), ("CHAINS", CHAINS)];
                for (name, value) in constants {
                    let _ = writeln!(text, "const {name}: u32 = {value}u;");
                }
            }
            Probe::Read | Probe::Copy | Probe::Empty => {}
        }
        let file = match self {
            Probe::FmaF32 | Probe::FmaF16 => include_str!("../../shaders/bench/fma.wgsl"),
            Probe::Matrix { .. } => include_str!("../../shaders/bench/matrix.wgsl"),
            Probe::Read => include_str!("../../shaders/bench/read.wgsl"),
            Probe::Copy => include_str!("../../shaders/bench/copy.wgsl"),
            Probe::Empty => include_str!("../../shaders/bench/empty.wgsl"),
        };
        text + &unroll(file, &|_| CHAINS)
    }

    /// The numbers of its bindings: what is read, then what is written.
    pub fn bindings(self) -> Vec<u32> {
        match self {
            Probe::FmaF32 | Probe::FmaF16 | Probe::Matrix { .. } => vec![0],
            Probe::Read | Probe::Copy => vec![0, 1],
            Probe::Empty => vec![],
        }
    }

    pub(super) async fn compile(self, device: &wgpu::Device) -> Result<wgpu::ComputePipeline> {
        pipeline::compile(device, &self.label(), self.source(), false).await
    }
}
