//! Every kernel's text, without a device: parsed and validated with exactly the capabilities that its device has, and
//! translated for Vulkan, Metal and DX12.

#[cfg(feature = "bench")]
use diffattn::bench::{Glue, Probe};
use diffattn::shader::{CacheKernel, CacheVariant, LayerVariant, Variant};
use diffattn::{Caps, DType, Path, wgpu};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The floor, and devices with more.
fn devices() -> Vec<Caps> {
    let mut desktop = Caps::floor();
    (desktop.workgroup_storage, desktop.invocations, desktop.unpack_f16) = (48 << 10, 1024, true);
    desktop.subgroups = Some((32, 32));
    let mut cuda = desktop.clone();
    (cuda.matrix, cuda.kind, cuda.backend) = (Some(16), wgpu::DeviceType::DiscreteGpu, wgpu::Backend::Vulkan);
    let mut apple = Caps::floor();
    (apple.workgroup_storage, apple.unpack_f16) = (32 << 10, true);
    (apple.subgroups, apple.matrix, apple.backend) = (Some((32, 32)), Some(8), wgpu::Backend::Metal);
    let mut mobile = Caps::floor();
    (mobile.workgroup_storage, mobile.subgroups) = (32 << 10, Some((4, 128)));
    vec![Caps::floor(), desktop, cuda, apple, mobile]
}

/// A kernel's text, and what a test needs to know of its variant.
struct Text {
    label: String,
    source: String,
    bindings: Vec<u32>,
    path: Path,
    /// Capabilities of its device.
    granted: Capabilities,
}

/// Every variant once.
fn variants() -> Vec<Text> {
    let mut variants = BTreeMap::new();
    for caps in devices() {
        let mut granted = Capabilities::empty();
        granted.set(Capabilities::SHADER_FLOAT16_IN_FLOAT32, caps.unpack_f16);
        granted.set(Capabilities::SUBGROUP, caps.subgroups.is_some());
        // Only the kernels that use matrix units are compiled with what belongs to them.
        let matrix = Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16;
        for variant in Variant::all(&caps) {
            let mut granted = granted;
            granted.set(matrix, variant.path == Path::Matrix);
            variants.entry(variant.label()).or_insert_with(|| Text {
                label: variant.label(),
                source: variant.source(),
                bindings: variant.bindings().into_iter().map(|binding| binding as u32).collect(),
                path: variant.path,
                granted,
            });
        }
        for variant in CacheVariant::all(&caps) {
            let path = match variant.kernel {
                CacheKernel::Decode { path, .. } => path,
                CacheKernel::Merge { .. } | CacheKernel::Append => Path::Portable,
            };
            variants.entry(variant.label()).or_insert_with(|| Text {
                label: variant.label(),
                source: variant.source(),
                bindings: variant.bindings().into_iter().map(|binding| binding as u32).collect(),
                path,
                granted,
            });
        }
        for variant in LayerVariant::all(&caps) {
            let mut granted = granted;
            granted.set(matrix, variant.path() == Path::Matrix);
            variants.entry(variant.label()).or_insert_with(|| Text {
                label: variant.label(),
                source: variant.source(),
                bindings: (0..variant.bindings()).collect(),
                path: variant.path(),
                granted,
            });
        }
    }
    #[cfg(feature = "bench")]
    for caps in devices() {
        for probe in Probe::all(&caps, caps.unpack_f16) {
            // Of matrix units there are bindings for Vulkan and Metal only, of f16 arithmetic not in HLSL's older model.
            let (path, granted) = match probe {
                Probe::Matrix { .. } => {
                    let matrix = Capabilities::COOPERATIVE_MATRIX | Capabilities::SUBGROUP;
                    (Path::Matrix, matrix | Capabilities::SHADER_FLOAT16)
                }
                Probe::FmaF16 => (Path::Subgroup, Capabilities::SHADER_FLOAT16),
                _ => (Path::Portable, Capabilities::empty()),
            };
            variants.entry(probe.label()).or_insert_with(|| Text {
                label: probe.label(),
                source: probe.source(),
                bindings: probe.bindings(),
                path,
                granted,
            });
        }
    }
    #[cfg(feature = "bench")]
    for (backward, dtype) in [false, true].into_iter().flat_map(|backward| DType::ALL.map(|dtype| (backward, dtype))) {
        let glue = Glue { backward, dtype, rows: 100, value_dim: 40 };
        let (label, source, bindings) = (glue.label(), glue.source(), glue.bindings());
        let text = Text { label, source, bindings, path: Path::Portable, granted: Capabilities::empty() };
        variants.insert(glue.label(), text);
    }
    variants.into_values().collect()
}

fn validate(Text { source, granted, .. }: &Text) -> Result<(naga::Module, ModuleInfo), String> {
    let granted = *granted;
    let module = naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string(source))?;
    let mut validator = Validator::new(ValidationFlags::all(), granted);
    if granted.contains(Capabilities::SUBGROUP) {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).map_err(|error| error.emit_to_string(source))?;
    Ok((module, info))
}

#[test]
fn every_variant_validates_and_translates() {
    let variants = variants();
    // Asked of one that has what the rules differ in.
    let rules_of = |differs: fn(&&Text) -> bool| spirv_rules(variants.iter().find(differs).expect("such a kernel"));
    let plain = rules_of(|variant| variant.path != Path::Matrix && variant.source.contains("var<workgroup>"));
    let matrix = rules_of(|variant| variant.path == Path::Matrix);
    let failure = |variant: &Text| {
        let rules = if variant.path == Path::Matrix { matrix } else { plain };
        translate(variant, rules).err().map(|error| format!("{}: {error}", variant.label))
    };
    let failures: Vec<String> = variants.par_iter().filter_map(failure).collect();
    println!("{} variants", variants.len());
    assert!(variants.len() > 300, "only {} variants", variants.len());
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), variants.len(), failures.join("\n"));
}

/// The rules by which an installed spirv-val judges kernels like this one, if it can.
///
/// naga lays every array out explicitly, which newer Vulkan validators refuse in workgroup memory and drivers ignore
/// (VUID-StandaloneSpirv-None-10684). Such a validator is asked for the rules of SPIR-V itself.
fn spirv_rules(variant: &Text) -> Option<&'static str> {
    if Command::new("spirv-val").arg("--version").output().is_err() {
        println!("!! spirv-val is not installed: the SPIR-V is written but not checked");
        return None;
    }
    let (module, info) = validate(variant).expect("valid");
    let words = spv::write_vec(&module, &info, &spirv_options(), None).expect("SPIR-V");
    match spirv_val(&words, "vulkan1.3") {
        Err(error) if error.contains("VUID-StandaloneSpirv-None-10684") => Some("spv1.6"),
        Err(error) if error.contains("Invalid capability operand") => {
            println!("!! spirv-val is older than cooperative matrices: their SPIR-V is written but not checked");
            None
        }
        _ => Some("vulkan1.3"),
    }
}

/// As wgpu asks for it; 1.3 is what subgroup operations need.
fn spirv_options() -> spv::Options<'static> {
    spv::Options { lang_version: (1, 3), ..Default::default() }
}

fn translate(variant: &Text, rules: Option<&str>) -> Result<(), String> {
    let (module, info) = validate(variant)?;
    let words = spv::write_vec(&module, &info, &spirv_options(), None).map_err(|error| format!("SPIR-V: {error}"))?;
    if let Some(rules) = rules {
        spirv_val(&words, rules)?;
    }
    let options = msl::Options { lang_version: (2, 4), fake_missing_bindings: true, ..Default::default() };
    msl::write_string(&module, &info, &options, &msl::PipelineOptions::default())
        .map_err(|error| format!("MSL: {error}"))?;
    if variant.path == Path::Matrix {
        return Ok(()); // wgpu has matrix units on Vulkan and Metal only
    }
    let options =
        hlsl::Options { shader_model: hlsl::ShaderModel::V6_0, fake_missing_bindings: true, ..Default::default() };
    let pipeline = hlsl::PipelineOptions::default();
    let write = |options: &hlsl::Options| {
        let mut text = String::new();
        let written = hlsl::Writer::new(&mut text, options, &pipeline).write(&module, &info, None);
        written.map(|_| ()).map_err(|error| format!("HLSL {:?}: {error}", options.shader_model))
    };
    write(&options)?;
    if variant.path == Path::Subgroup {
        return Ok(()); // which the older compiler, FXC, does not have
    }
    write(&hlsl::Options { shader_model: hlsl::ShaderModel::V5_1, ..options })
}

fn spirv_val(words: &[u32], environment: &str) -> Result<(), String> {
    let mut child = Command::new("spirv-val")
        .args(["--target-env", environment, "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let stdin = child.stdin.take();
    stdin.ok_or("no stdin")?.write_all(&bytes).map_err(|error| error.to_string())?;
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(format!("spirv-val: {}", String::from_utf8_lossy(&said))) }
}

/// The bindings that the shader uses are the ones that the host fills, and within the floor's eight storage buffers.
#[test]
fn bindings_are_those_of_the_table() {
    for variant in variants() {
        let (module, info) = validate(&variant).unwrap_or_else(|error| panic!("{}: {error}", variant.label));
        let used = |(handle, variable): (naga::Handle<naga::GlobalVariable>, &naga::GlobalVariable)| {
            let binding = variable.binding?;
            (!info.get_entry_point(0)[handle].is_empty()).then_some((binding.binding, variable.space))
        };
        let mut reflected: Vec<_> = module.global_variables.iter().filter_map(used).collect();
        reflected.sort_by_key(|(binding, _)| *binding);
        let numbers: Vec<u32> = reflected.iter().map(|(binding, _)| *binding).collect();
        assert_eq!(numbers, variant.bindings, "{}", variant.label);
        let storage = |space: &naga::AddressSpace| matches!(space, naga::AddressSpace::Storage { .. });
        assert!(reflected.iter().filter(|(_, space)| storage(space)).count() <= 8, "{}", variant.label);
    }
}

/// In Chromium a variable that is declared in a loop's body without a value starts with that of the iteration before, not
/// with zero as WGSL says. So those get their value in words. (No browser has matrix units.)
#[test]
fn variables_of_loops_have_a_value() {
    let bare = |line: &&str| line.starts_with("        ") && line.trim().starts_with("var ") && !line.contains('=');
    let variants = variants();
    let faults = variants.iter().filter(|variant| variant.path != Path::Matrix).flat_map(|variant| {
        variant.source.lines().filter(bare).map(|line| format!("{}: {}", variant.label, line.trim()))
    });
    assert_eq!(faults.collect::<Vec<_>>(), Vec::<String>::new());
    assert!(bare(&"        var score: array<f32, 2>;") && !bare(&"        var score = array<f32, 2>();"));
}

/// A broken fragment is caught, with its place.
#[test]
fn a_missing_function_is_an_error() {
    let variants = variants();
    let variant = variants.iter().find(|variant| variant.label.contains(".forward.")).expect("a forward");
    let broken = variant.source.replace("fn keys_seen", "fn keys_unseen");
    assert!(naga::front::wgsl::parse_str(&broken).is_err());
}
