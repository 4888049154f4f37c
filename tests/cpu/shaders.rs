//! Every kernel's text, without a device: parsed and validated with exactly the capabilities that its device has, and
//! translated for Vulkan, Metal and DX12.

use diffattn::shader::{Kernel, Variant};
use diffattn::{Caps, Path};
use naga::back::{hlsl, msl, spv};
use naga::valid::{Capabilities, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// The floor, and devices with more.
fn devices() -> Vec<Caps> {
    let mut desktop = Caps::floor();
    (desktop.workgroup_storage, desktop.invocations, desktop.unpack_f16) = (48 << 10, 1024, true);
    desktop.subgroups = Some((32, 32));
    let mut cuda = desktop.clone();
    cuda.matrix = Some(16);
    let mut apple = Caps::floor();
    (apple.workgroup_storage, apple.unpack_f16) = (32 << 10, true);
    (apple.subgroups, apple.matrix) = (Some((32, 32)), Some(8));
    let mut mobile = Caps::floor();
    (mobile.workgroup_storage, mobile.subgroups) = (32 << 10, Some((4, 128)));
    vec![Caps::floor(), desktop, cuda, apple, mobile]
}

/// Every variant once, with the capabilities of its device.
fn variants() -> Vec<(Variant, Capabilities)> {
    let mut variants = BTreeMap::new();
    for caps in devices() {
        let mut granted = Capabilities::empty();
        granted.set(Capabilities::SHADER_FLOAT16_IN_FLOAT32, caps.unpack_f16);
        granted.set(Capabilities::SUBGROUP, caps.subgroups.is_some());
        for variant in Variant::all(&caps) {
            let mut granted = granted;
            // Only the kernels that use matrix units are compiled with what belongs to them.
            let matrix = Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16;
            granted.set(matrix, variant.path == Path::Matrix);
            variants.entry(variant.label()).or_insert((variant, granted));
        }
    }
    variants.into_values().collect()
}

fn validate(variant: &Variant, granted: Capabilities) -> Result<(naga::Module, ModuleInfo), String> {
    let source = variant.source();
    let module = naga::front::wgsl::parse_str(&source).map_err(|error| error.emit_to_string(&source))?;
    let mut validator = Validator::new(ValidationFlags::all(), granted);
    if granted.contains(Capabilities::SUBGROUP) {
        validator.subgroup_stages(ShaderStages::COMPUTE).subgroup_operations(SubgroupOperationSet::all());
    }
    let info = validator.validate(&module).map_err(|error| error.emit_to_string(&source))?;
    Ok((module, info))
}

#[test]
fn every_variant_validates_and_translates() {
    let variants = variants();
    let spirv_val = Command::new("spirv-val").arg("--version").output().is_ok();
    if !spirv_val {
        println!("!! spirv-val is not installed: the SPIR-V is written but not checked");
    }
    let mut failures = Vec::new();
    for (variant, granted) in &variants {
        if let Err(error) = translate(variant, *granted, spirv_val) {
            failures.push(format!("{}: {error}", variant.label()));
        }
    }
    println!("{} variants", variants.len());
    assert!(variants.len() > 300, "only {} variants", variants.len());
    assert!(failures.is_empty(), "{} of {} failed:\n{}", failures.len(), variants.len(), failures.join("\n"));
}

fn translate(variant: &Variant, granted: Capabilities, spirv_val: bool) -> Result<(), String> {
    let (module, info) = validate(variant, granted)?;
    // As wgpu asks for it on a Vulkan 1.1 device; 1.3 is what subgroup operations need.
    let options = spv::Options { lang_version: (1, 3), ..Default::default() };
    let words = spv::write_vec(&module, &info, &options, None).map_err(|error| format!("SPIR-V: {error}"))?;
    if spirv_val {
        check_spirv(&words)?;
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
    let mut text = String::new();
    hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(&module, &info, None)
        .map_err(|error| format!("HLSL: {error}"))?;
    Ok(())
}

fn check_spirv(words: &[u32]) -> Result<(), String> {
    // naga lays every array out explicitly, which the rules of newer Vulkan validators refuse in workgroup memory and
    // drivers ignore. Where that is what is wrong, the rules of SPIR-V itself decide.
    match spirv_val(words, "vulkan1.3") {
        Err(error) if error.contains("VUID-StandaloneSpirv-None-10684") => spirv_val(words, "spv1.6"),
        result => result,
    }
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
    for (variant, granted) in variants() {
        let (module, info) = validate(&variant, granted).expect("valid");
        let used = |(handle, variable): (naga::Handle<naga::GlobalVariable>, &naga::GlobalVariable)| {
            let binding = variable.binding?;
            (!info.get_entry_point(0)[handle].is_empty()).then_some((binding.binding, variable.space))
        };
        let mut reflected: Vec<_> = module.global_variables.iter().filter_map(used).collect();
        reflected.sort_by_key(|(binding, _)| *binding);
        let table: Vec<u32> = variant.bindings().into_iter().map(|binding| binding as u32).collect();
        let numbers: Vec<u32> = reflected.iter().map(|(binding, _)| *binding).collect();
        assert_eq!(numbers, table, "{}", variant.label());
        let storage = |space: &naga::AddressSpace| matches!(space, naga::AddressSpace::Storage { .. });
        assert!(reflected.iter().filter(|(_, space)| storage(space)).count() <= 8, "{}", variant.label());
    }
}

/// A broken fragment is caught, with its place.
#[test]
fn a_missing_function_is_an_error() {
    let variants = variants();
    let (variant, _) = variants.iter().find(|(variant, _)| variant.kernel == Kernel::Forward).expect("a forward");
    let broken = variant.source().replace("fn keys_seen", "fn keys_unseen");
    assert!(naga::front::wgsl::parse_str(&broken).is_err());
}
