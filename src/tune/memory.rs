//! What was chosen for which device and kind of problem, in one small file.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Choice, class};
use crate::attention::PlanOptions;
use crate::bench::Case;
use crate::caps::Caps;

/// Choices by device and kind of problem. A device is an adapter with its driver's version under this version of the
/// crate: after an update of either nothing is remembered.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    format: u32,
    devices: BTreeMap<String, BTreeMap<String, Entry>>,
}

/// One choice, in words that labels and flags use too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    tile: Option<String>,
    median_ns: f64,
}

/// Number of the file's format.
const FORMAT: u32 = 1;

/// What a device is called in the file.
fn device(caps: &Caps) -> String {
    let Caps { adapter, driver, driver_info, .. } = caps;
    format!("{adapter} | {driver} {driver_info} | {} | diffattn {}", caps.backend.to_str(), env!("CARGO_PKG_VERSION"))
}

impl Memory {
    /// The usual file: `diffattn/tuned.json` in the user's cache directory, if there is one.
    pub fn usual_file() -> Option<PathBuf> {
        use etcetera::BaseStrategy as _;
        etcetera::choose_base_strategy().ok().map(|dirs| dirs.cache_dir().join("diffattn").join("tuned.json"))
    }

    /// Reads a file. One that is not there is empty; one that is broken or of another program counts as empty too, and the
    /// second value says so.
    pub fn read(file: &Path) -> (Self, Option<String>) {
        let empty = Memory { format: FORMAT, ..Memory::default() };
        let ignored =
            |why: String| Some(format!("ignoring {}: {why}; `diffattn tune --forget` removes it", file.display()));
        let text = match std::fs::read_to_string(file) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return (empty, None),
            Err(error) => return (empty, ignored(error.to_string())),
        };
        match serde_json::from_str::<Memory>(&text) {
            Ok(memory) if memory.format == FORMAT => (memory, None),
            Ok(memory) => (empty, ignored(format!("it has format {}, not {FORMAT}", memory.format))),
            Err(error) => (empty, ignored(format!("it is no memory of the tuner ({error})"))),
        }
    }

    /// Writes the file, whole or not at all.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write(&self, file: &Path) -> std::io::Result<()> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        std::fs::create_dir_all(folder)?;
        let mut whole = tempfile::NamedTempFile::new_in(folder)?;
        serde_json::to_writer_pretty(&mut whole, self)?;
        whole.write_all(b"\n")?;
        whole.persist(file)?;
        Ok(())
    }

    /// Keeps a choice for a device and problems like this case.
    pub fn remember(&mut self, caps: &Caps, case: &Case, choice: Choice) {
        let Choice { path, tile, median_ns } = choice;
        let entry = Entry { path: path.name().into(), tile: tile.map(|tile| tile.to_string()), median_ns };
        self.devices.entry(device(caps)).or_default().insert(class(case), entry);
    }

    /// The choice for problems like this case on a device. One that the device cannot run (any more) is forgotten: the
    /// planner then decides as if there were none.
    pub fn recall(&self, caps: &Caps, case: &Case) -> Option<PlanOptions> {
        let entry = self.devices.get(&device(caps))?.get(&class(case))?;
        let path = crate::tile::Path::ALL.into_iter().find(|path| path.name() == entry.path)?;
        let tile = entry.tile.as_deref().map(str::parse).transpose().ok()?;
        let choice = Choice { path, tile, median_ns: entry.median_ns };
        let fits = choice.tile.is_none_or(|tile| tile.validate(&case.problem(), path, caps).is_ok());
        fits.then(|| choice.plan())
    }

    /// Every choice: device, kind of problem, path and tile, median in nanoseconds.
    pub fn entries(&self) -> impl Iterator<Item = (&str, &str, String, f64)> {
        self.devices.iter().flat_map(|(device, classes)| {
            classes.iter().map(move |(class, Entry { path, tile, median_ns })| {
                let tile = tile.as_deref().map(|tile| format!(" {tile}")).unwrap_or_default();
                (device.as_str(), class.as_str(), format!("{path}{tile}"), *median_ns)
            })
        })
    }
}
