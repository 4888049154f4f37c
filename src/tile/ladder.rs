//! The ladder: which of the paths that a device can run a plan takes, and why. Pure.

use super::{Choice, Path, forward_tile};
use crate::caps::Caps;
use crate::error::Result;
use crate::problem::{DType, Problem};

/// The path and tile that a plan takes unless told otherwise, and why: of the ladder matrix, subgroup, portable the rung
/// that is estimated to cost least, of those that the device has and that [`Caps::objection`] does not speak against.
///
/// # Errors
/// Those of [`forward_tile`] on the portable path.
pub fn choose_forward(problem: &Problem, caps: &Caps) -> Result<(Choice, String)> {
    let mut best = forward_tile(problem, Path::Portable, caps)?;
    let (mut next, mut objections) = (None, Vec::new());
    for path in [Path::Subgroup, Path::Matrix] {
        let storage = || (path == Path::Matrix && problem.dtype == DType::F32).then(|| "f32 storage".to_string());
        if let Some(objection) = caps.objection(path).or_else(storage) {
            objections.push(format!("not {}: {objection}", path.name()));
            continue;
        }
        match forward_tile(problem, path, caps) {
            Ok(choice) if choice.cost < best.cost => next = Some(std::mem::replace(&mut best, choice)),
            Ok(choice) if next.is_none_or(|next: Choice| choice.cost < next.cost) => next = Some(choice),
            Ok(_) => {}
            Err(error) => objections.push(format!("not {}: {error}", path.name())),
        }
    }
    let estimate = next.map(|next| {
        let percent = 100.0 * best.cost / next.cost;
        format!("estimated at {percent:.0} % of the {} path's work", next.path.name())
    });
    let range = (best.path == Path::Matrix && problem.dtype == DType::Bf16)
        .then(|| "bf16 is multiplied as f16, exact from 2⁻¹⁷ to 65504".to_string());
    let reasons: Vec<_> = estimate.into_iter().chain(range).chain(objections).collect();
    Ok((best, reasons.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::{Options, Shape};
    use wgpu::DeviceType;

    fn prefill(q_len: u32, head_dim: u32, dtype: DType) -> Problem {
        let shape = Shape { batch: 1, q_len, kv_len: 4096, heads: 16, kv_heads: 8, head_dim, value_dim: head_dim };
        Problem::new(shape, dtype, Options::default())
    }

    fn device(adapter: &str, kind: DeviceType) -> Caps {
        Caps {
            adapter: adapter.into(),
            kind,
            vendor: 0x10de,
            driver: "NVIDIA".into(),
            driver_info: "580.65.06".into(),
            workgroup_storage: 48 << 10,
            invocations: 1024,
            unpack_f16: true,
            subgroups: Some((32, 32)),
            matrix: Some(16),
            ..Caps::floor()
        }
    }

    fn path(problem: &Problem, caps: &Caps) -> (Path, String) {
        let (choice, reason) = choose_forward(problem, caps).expect("a tile fits");
        (choice.path, reason)
    }

    #[test]
    fn matrix_units_take_the_prefill_of_a_discrete_gpu() {
        let caps = device("NVIDIA H200", DeviceType::DiscreteGpu);
        for head_dim in [64, 96, 128, 192, 256] {
            for dtype in [DType::F16, DType::Bf16] {
                let (path, reason) = path(&prefill(4096, head_dim, dtype), &caps);
                assert_eq!(path, Path::Matrix, "{head_dim}: {reason}");
                assert!(reason.starts_with("estimated at "), "{reason}");
                assert_eq!(reason.contains("multiplied as f16"), dtype == DType::Bf16, "{reason}");
            }
        }
        let (path, reason) = path(&prefill(4096, 128, DType::F32), &caps);
        assert_ne!(path, Path::Matrix);
        assert!(reason.contains("not matrix: f32 storage"), "{reason}");
    }

    #[test]
    fn elsewhere_they_wait_to_be_asked_and_the_reason_says_so() {
        let problem = prefill(4096, 128, DType::F16);
        let turing = device("NVIDIA GeForce RTX 2060 SUPER", DeviceType::DiscreteGpu);
        for (caps, word) in [
            (device("llvmpipe", DeviceType::Cpu), "not matrix: a software driver"),
            (device("Some APU", DeviceType::IntegratedGpu), "not matrix: untried"),
            (Caps { matrix: None, ..turing.clone() }, "not matrix: no matrix units"),
            (turing, "not matrix: attention on cooperative matrices is miscompiled"),
        ] {
            let (path, reason) = path(&problem, &caps);
            assert_ne!(path, Path::Matrix, "{reason}");
            assert!(reason.contains(word), "{reason}");
            // Asked for, they are there all the same.
            assert_eq!(forward_tile(&problem, Path::Matrix, &caps).is_ok(), caps.matrix.is_some());
        }
    }

    #[test]
    fn a_device_without_subgroups_says_so() {
        let (path, reason) = path(&prefill(64, 64, DType::F32), &Caps::floor());
        assert_eq!(path, Path::Portable);
        assert!(reason.contains("not subgroup: no subgroup operations"), "{reason}");
    }
}
