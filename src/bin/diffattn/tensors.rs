//! Reading safetensors files, however broken: nothing is allocated or read before it is known to be in the file.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use diffattn::DType;
use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// A safetensors file whose header agrees with its length. Tensors are read when asked for.
pub struct TensorFile {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Byte at which the tensors start.
    start: u64,
}

/// A tensor, widened to f32.
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

/// Bytes of the header's length, at the start of the file.
const PREFIX: u64 = 8;

/// The largest header that the format allows.
const MAX_HEADER: u64 = 100_000_000;

impl TensorFile {
    pub fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        // Asked before opening, which would wait for the writer of a pipe.
        let kind = path.metadata().with_context(|| format!("cannot open {shown}"))?;
        ensure!(kind.is_file(), "{shown} is not a regular file; give a safetensors file");
        let mut file = File::open(path).with_context(|| format!("cannot open {shown}"))?;
        let len = file.metadata().with_context(|| format!("cannot read {shown}"))?.len();
        ensure!(len > 0, "{shown} is empty; give a safetensors file");
        ensure!(len > PREFIX, "{shown} is too short for a safetensors file: {len} bytes");

        let mut prefix = [0; PREFIX as usize];
        file.read_exact(&mut prefix).with_context(|| format!("cannot read {shown}"))?;
        let header_len = u64::from_le_bytes(prefix);
        if header_len > MAX_HEADER || header_len > len - PREFIX {
            bail!(
                "{shown} is not a safetensors file or is cut short: its header claims {header_len} bytes, the file has \
                 {len}"
            );
        }
        let mut header = vec![0; header_len as usize];
        file.read_exact(&mut header).with_context(|| format!("cannot read {shown}"))?;
        // Parsing checks that shapes and offsets agree, leave no gap and do not overflow.
        let header: Metadata = serde_json::from_slice(&header)
            .with_context(|| format!("{shown} is not a valid safetensors file: bad header"))?;
        // Compared here, not by `SafeTensors::deserialize`, whose sum overflows for offsets near 2⁶⁴.
        let (claimed, actual) = (header.data_len() as u64, len - PREFIX - header_len);
        if claimed != actual {
            let hint = if claimed > actual { "it is cut short or its header is wrong" } else { "its header is wrong" };
            bail!("{shown} claims {claimed} bytes of tensors but has {actual}: {hint}");
        }
        Ok(TensorFile { path: path.into(), file, header, start: PREFIX + header_len })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn has(&self, name: &str) -> bool {
        self.header.info(name).is_some()
    }

    /// A value of the file's metadata.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        Some(self.header.metadata().as_ref()?.get(key)?.as_str())
    }

    /// Name, shape and storage type of every tensor; the name of a type that is none of ours.
    pub fn iter(&self) -> impl Iterator<Item = (String, &[usize], Result<DType, String>)> {
        let tensors = self.header.offset_keys().into_iter();
        tensors.filter_map(|name| {
            let TensorInfo { dtype, shape, .. } = self.header.info(&name)?;
            Some((name, &shape[..], stored(*dtype).ok_or_else(|| dtype.to_string())))
        })
    }

    /// Storage type and shape of a tensor that must be there.
    pub fn describe(&self, name: &str) -> Result<(DType, &[usize])> {
        let TensorInfo { dtype, shape, .. } = self.info(name)?;
        Ok((storage_type(name, *dtype)?, shape))
    }

    /// Reads a tensor that must be there.
    pub fn read(&self, name: &str) -> Result<Tensor> {
        let TensorInfo { dtype, shape, data_offsets: (start, end) } = self.info(name)?.clone();
        let dtype = storage_type(name, dtype)?;
        let (offset, len) = (self.start + start as u64, end - start);
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).with_context(|| format!("`{name}` ({len} bytes) does not fit into memory"))?;
        let mut file = &self.file;
        let read = file.seek(SeekFrom::Start(offset)).and_then(|_| {
            bytes.resize(len, 0);
            file.read_exact(&mut bytes)
        });
        read.with_context(|| format!("cannot read `{name}` of {}", self.path.display()))?;
        Ok(Tensor { shape, values: decode(dtype, &bytes) })
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).with_context(|| {
            let mut names = self.header.offset_keys();
            names.sort_unstable();
            format!("{} has no tensor `{name}`; it has {}", self.path.display(), list(&names))
        })
    }
}

/// Names from a file, made fit for a line on a terminal.
fn list(names: &[String]) -> String {
    const MOST: usize = 12;
    if names.is_empty() {
        return "none".into();
    }
    let shown: Vec<_> = names.iter().take(MOST).map(|name| printable(name)).collect();
    let more = names.len().saturating_sub(MOST);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}

/// The beginning of a text from a file, without control characters.
pub fn printable(text: &str) -> String {
    const MOST: usize = 40;
    let mut shown: String = text.chars().take(MOST).flat_map(char::escape_debug).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}

fn storage_type(name: &str, dtype: Dtype) -> Result<DType> {
    stored(dtype).with_context(|| format!("`{name}` holds {dtype} values; convert it to f32, f16 or bf16"))
}

fn stored(dtype: Dtype) -> Option<DType> {
    match dtype {
        Dtype::F32 => Some(DType::F32),
        Dtype::F16 => Some(DType::F16),
        Dtype::BF16 => Some(DType::Bf16),
        _ => None,
    }
}

fn decode(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let halves = || bytes.as_chunks().0.iter();
    match dtype {
        DType::F32 => bytes.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect(),
        DType::F16 => halves().map(|&bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        DType::Bf16 => halves().map(|&bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
    }
}
