//! What can go wrong, in one typed enum whose messages say what to do.

/// The result of every fallible call of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong.
///
/// [`Shape`](Error::Shape), [`Invalid`](Error::Invalid), [`HeadGroups`](Error::HeadGroups),
/// [`Weights`](Error::Weights) and [`Slice`](Error::Slice) are mistakes of the caller. For [`Unsupported`](Error::Unsupported), [`MissingFeature`](Error::MissingFeature) and
/// [`Limit`](Error::Limit) the problem is right but this device or path cannot run it: [`Error::is_unsupported`] is
/// true and another path, engine or device may. [`Shader`](Error::Shader) is a defect of this crate or of a driver.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor does not have the size that the problem asks for.
    #[error("`{tensor}` has the wrong size: expected {expected}, found {actual}")]
    Shape {
        /// Name of the tensor, as in [`crate::HostInputs`].
        tensor: &'static str,
        /// What the problem asks for, e.g. `batch 2 × q_len 5 × heads 4 × value_dim 64 = 2560 elements`.
        expected: String,
        /// What was given.
        actual: String,
    },

    /// A parameter has a value outside its range.
    #[error("`{name}` is {actual}, but must be {expected}")]
    Invalid {
        /// Name of the parameter, as in [`crate::Shape`] or [`crate::Options`].
        name: &'static str,
        /// The range or rule.
        expected: String,
        /// What was given.
        actual: String,
    },

    /// `heads` is not a multiple of `kv_heads`, so that some pair would read two different KV heads.
    #[error(
        "{heads} heads cannot be shared among {kv_heads} kv_heads: heads must be a multiple of kv_heads, so that both \
         query heads of every pair (2j, 2j+1) read the same KV head; pairing across KV groups makes training unstable \
         (DIFF V2). Use {lower} or {upper} heads, or a kv_heads that divides {heads}"
    )]
    HeadGroups {
        /// Output heads (query heads are twice as many).
        heads: u32,
        /// Key and value heads.
        kv_heads: u32,
        /// The nearest valid number of heads below (at least `kv_heads`).
        lower: u32,
        /// The nearest valid number of heads above.
        upper: u32,
    },

    /// Tensors that are not the parameters of the module: every one that is missing, unknown, or of the wrong shape or
    /// type. Nothing was taken.
    #[error("the tensors are not the parameters of {module}: {}", .faults.join("; "))]
    Weights {
        /// The module, by its kind and sizes.
        module: String,
        /// One sentence for each tensor at fault.
        faults: Vec<String>,
    },

    /// A buffer slice cannot be bound: alignment, usage, size, or one buffer for reading and for writing.
    #[error("the buffer slice for `{tensor}` cannot be used: {reason}")]
    Slice {
        /// Name of the tensor.
        tensor: &'static str,
        /// What is wrong and what to do.
        reason: String,
    },

    /// This combination is not implemented.
    #[error("{what} is not supported: {hint}")]
    Unsupported {
        /// The thing asked for.
        what: String,
        /// What to use instead.
        hint: String,
    },

    /// The device lacks an optional feature that the requested path needs.
    #[error("the {path} path needs the device feature {feature}, which is not enabled on this device; {hint}")]
    MissingFeature {
        /// The path that was asked for.
        path: &'static str,
        /// The feature, by its wgpu name.
        feature: &'static str,
        /// What to do instead.
        hint: &'static str,
    },

    /// A limit of the device is too small, and the work cannot be split further.
    #[error("the device limit {name} is too small for {what}: {needed} needed, {available} available")]
    Limit {
        /// The limit, by its wgpu name.
        name: &'static str,
        /// What needs it.
        what: String,
        /// How much is needed.
        needed: u64,
        /// How much the device has.
        available: u64,
    },

    /// A benchmark record cannot be read or written.
    #[error("line {line} of the record is not as it should be: {reason}")]
    Record {
        /// The line, from 1.
        line: usize,
        /// What is wrong.
        reason: String,
    },

    /// A KV cache has no room left. Nothing was written.
    #[error(
        "the KV cache has too few {resource}: {needed} needed, {available} available; remove or truncate a sequence"
    )]
    CacheFull {
        /// What ran out: `sequences`, `tokens of one sequence` or `pages`.
        resource: &'static str,
        /// How many are needed.
        needed: u64,
        /// How many there are.
        available: u64,
    },

    /// A sequence that the KV cache does not hold (any more). Nothing was written.
    #[error("the KV cache holds no such sequence in place {slot}: it was removed, or belongs to another cache")]
    UnknownSequence {
        /// The place that it had.
        slot: u32,
    },

    /// No usable adapter.
    #[error("no GPU adapter: {reason}")]
    NoAdapter {
        /// What was looked for and what was found.
        reason: String,
    },

    /// A shader or pipeline was refused. Please report it with the label and the adapter.
    #[error("the driver refused the shader {label}: {message}")]
    Shader {
        /// The variant's label.
        label: String,
        /// What wgpu or the driver said.
        message: String,
    },

    /// The device ran out of memory.
    #[error("the device ran out of memory while {during}; use a smaller batch or a shorter sequence")]
    OutOfMemory {
        /// What was being done.
        during: String,
    },

    /// The device was lost: driver reset, unplugged, or a dispatch that took too long.
    #[error("the device was lost: {reason}; create a new device and plan again")]
    DeviceLost {
        /// What wgpu reported.
        reason: String,
    },

    /// Reading results back failed.
    #[error("reading back results failed: {reason}")]
    Readback {
        /// What wgpu reported.
        reason: String,
    },
}

impl Error {
    /// Whether the problem itself is right and another path, engine or device may run it.
    pub fn is_unsupported(&self) -> bool {
        matches!(self, Error::Unsupported { .. } | Error::MissingFeature { .. } | Error::Limit { .. })
    }

    /// Of heads that are not a multiple of kv_heads; both are at least 1.
    pub(crate) fn head_groups(heads: u32, kv_heads: u32) -> Self {
        let groups = heads / kv_heads;
        Error::HeadGroups { heads, kv_heads, lower: groups.max(1) * kv_heads, upper: (groups + 1) * kv_heads }
    }

    pub(crate) fn invalid(name: &'static str, expected: impl Into<String>, actual: impl ToString) -> Self {
        Error::Invalid { name, expected: expected.into(), actual: actual.to_string() }
    }
}
