//! Writing files that appear whole or not at all.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use diffattn::DType;
use half::{bf16, f16};
use safetensors::tensor::{Dtype, TensorView, serialize};
use tempfile::NamedTempFile;

use crate::tables;

/// A path that a file can be written to. Until [`Output::write`], nothing lies there or beside it: also when the program is
/// stopped.
pub struct Output {
    path: PathBuf,
}

/// A result to be written.
pub struct Named<'a> {
    pub name: &'a str,
    pub dtype: DType,
    pub shape: Vec<usize>,
    pub values: &'a [f32],
}

/// Refuses results that nobody can use.
pub fn check_finite<'a>(tensors: impl IntoIterator<Item = &'a Named<'a>>) -> Result<()> {
    for Named { name, shape, values, .. } in tensors {
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            let place = tables::place(index, shape);
            bail!("`{name}` is {} at {place}: the inputs are too large to compute with", values[index]);
        }
    }
    Ok(())
}

impl Output {
    /// Makes sure that `path` can be written, before any work is done. No input must be overwritten.
    pub fn create(path: &Path, inputs: &[PathBuf]) -> Result<Self> {
        let shown = path.display();
        let mut path = path.to_path_buf();
        if let Ok(kind) = path.metadata() {
            ensure!(kind.is_file(), "cannot write {shown}: it is there and not a regular file; choose another name");
            // What a link names is replaced, not the link.
            path = path.canonicalize().with_context(|| format!("cannot write {shown}"))?;
            let same = |input: &PathBuf| input.canonicalize().is_ok_and(|input| input == path);
            ensure!(!inputs.iter().any(same), "the output {shown} is the input file; choose another name");
        }
        ensure!(path.file_name().is_some(), "cannot write {shown}: it names no file");
        let parent = folder(&path);
        ensure!(parent.is_dir(), "cannot write {shown}: there is no directory {}", parent.display());
        temporary(parent)?;
        Ok(Output { path })
    }

    pub fn write_tensors(self, tensors: &[&Named]) -> Result<()> {
        let encoded: Vec<_> = tensors.iter().map(|tensor| encode(tensor.dtype, tensor.values)).collect();
        let views = tensors.iter().zip(&encoded).map(|(tensor, bytes)| {
            let dtype = match tensor.dtype {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::Bf16 => Dtype::BF16,
            };
            Ok((tensor.name, TensorView::new(dtype, tensor.shape.clone(), bytes)?))
        });
        self.write(&serialize(views.collect::<Result<Vec<_>>>()?, None)?)
    }

    pub fn write(self, bytes: &[u8]) -> Result<()> {
        let shown = self.path.display();
        let parent = folder(&self.path);
        let file = temporary(parent)?;
        let mut writer = BufWriter::new(file.as_file());
        writer.write_all(bytes).and_then(|()| writer.flush()).with_context(|| format!("cannot write {shown}"))?;
        drop(writer);
        file.persist(&self.path).map_err(|error| error.error).with_context(|| format!("cannot write {shown}"))?;
        Ok(())
    }
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file in a directory, gone when dropped.
fn temporary(directory: &Path) -> Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".diffattn-");
    #[cfg(unix)]
    {
        // Like any new file: what the umask leaves of it.
        use std::os::unix::fs::PermissionsExt as _;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    builder
        .tempfile_in(directory)
        .map_err(|error| anyhow::anyhow!("cannot write into the directory {}: {}", directory.display(), error.kind()))
}

fn encode(dtype: DType, values: &[f32]) -> Vec<u8> {
    match dtype {
        DType::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
        DType::F16 => values.iter().flat_map(|&value| f16::from_f32(value).to_le_bytes()).collect(),
        DType::Bf16 => values.iter().flat_map(|&value| bf16::from_f32(value).to_le_bytes()).collect(),
    }
}
