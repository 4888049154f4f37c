//! Drivers on which a path is known to be wrong or to fail: data, and how a device is held against it.

use super::Caps;
use crate::tile::Path;

/// One entry of the table: whose driver, and which path it spoils. A path named here is not taken unasked.
#[derive(Debug, Clone, Copy)]
pub struct Quirk {
    /// The path that is passed over.
    pub path: Path,
    /// PCI vendor number.
    pub vendor: u32,
    /// Part of the driver's name, in lower case; empty for all drivers of the vendor.
    pub driver: &'static str,
    /// Parts of adapter names, in lower case, of which one must be there; empty for all adapters.
    pub adapters: &'static [&'static str],
    /// The first driver version without the fault; `None` while none is known.
    pub mended: Option<[u32; 2]>,
    /// What goes wrong, in one clause.
    pub reason: &'static str,
    /// Who saw it.
    pub link: &'static str,
}

const NVIDIA: u32 = 0x10de;
const INTEL: u32 = 0x8086;
const QUALCOMM: u32 = 0x5143;

/// The table. A row needs a public report; it may name more devices than were seen to fail where names do not tell them
/// apart, since a path that is passed over costs speed only, and `--path` still takes it.
pub(super) const QUIRKS: &[Quirk] = &[
    Quirk {
        path: Path::Matrix,
        vendor: NVIDIA,
        driver: "nvidia",
        adapters: &["gtx 16", "geforce rtx 20", "tesla t4", "nvidia t4", "quadro rtx", "titan rtx"],
        mended: None,
        reason: "attention on cooperative matrices is miscompiled for Turing",
        link: "https://github.com/ggml-org/llama.cpp/pull/19290",
    },
    Quirk {
        path: Path::Matrix,
        vendor: INTEL,
        driver: "mesa",
        adapters: &[],
        mended: None,
        reason: "matrices loaded from workgroup memory are wrong on Xe3",
        link: "https://github.com/tracel-ai/cubecl/pull/1444",
    },
    Quirk {
        path: Path::Matrix,
        vendor: INTEL,
        driver: "intel corporation",
        adapters: &[],
        mended: None,
        reason: "the driver resets the device under cooperative matrices (Arc Pro B70)",
        link: "https://github.com/IGCIT/Intel-GPU-Community-Issue-Tracker-IGCIT/issues/1487",
    },
    Quirk {
        path: Path::Subgroup,
        vendor: QUALCOMM,
        driver: "",
        adapters: &[],
        mended: None,
        reason: "subgroup shuffles give wrong values on some Adreno devices",
        link: "https://github.com/Tencent/ncnn/issues/6778",
    },
];

impl Quirk {
    /// The row that passes `path` over on a device with these capabilities.
    pub(super) fn find(table: &'static [Quirk], path: Path, caps: &Caps) -> Option<&'static Quirk> {
        table.iter().find(|quirk| quirk.path == path && quirk.matches(caps))
    }

    fn matches(&self, caps: &Caps) -> bool {
        let named = self.adapters.is_empty() || self.adapters.iter().any(|part| contains(&caps.adapter, part));
        // A driver that does not tell its version may have the fault.
        let mended = matches!((self.mended, version(&caps.driver_info)), (Some(first), Some(now)) if now >= first);
        self.vendor == caps.vendor && contains(&caps.driver, self.driver) && named && !mended
    }
}

/// Whether a name has this part, in letters of either case. Takes nothing from the heap, since every plan asks.
fn contains(name: &str, part: &str) -> bool {
    let mut places = name.as_bytes().windows(part.len().max(1));
    part.is_empty() || places.any(|place| place.eq_ignore_ascii_case(part.as_bytes()))
}

/// The first two numbers of a driver's own words: `Mesa 26.1.0-devel` is [26, 1].
fn version(words: &str) -> Option<[u32; 2]> {
    let text = words.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next().flatten().unwrap_or(0)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(vendor: u32, driver: &str, adapter: &str, driver_info: &str) -> Caps {
        let [driver, adapter, driver_info] = [driver, adapter, driver_info].map(String::from);
        Caps { vendor, driver, adapter, driver_info, ..Caps::floor() }
    }

    #[test]
    fn rows_meet_their_devices_and_no_others() {
        let found = |path, caps: &Caps| Quirk::find(QUIRKS, path, caps).map(|quirk| quirk.link);
        let turing = device(NVIDIA, "NVIDIA", "NVIDIA GeForce RTX 2060 SUPER", "580.65.06");
        assert!(found(Path::Matrix, &turing).is_some_and(|link| link.ends_with("19290")));
        assert_eq!(found(Path::Subgroup, &turing), None);
        let ada = device(NVIDIA, "NVIDIA", "NVIDIA RTX 2000 Ada Generation", "580.65.06");
        assert_eq!(found(Path::Matrix, &ada), None);
        let hopper = device(NVIDIA, "NVIDIA", "NVIDIA H200", "580.65.06");
        assert_eq!(found(Path::Matrix, &hopper), None);
        let adreno = device(QUALCOMM, "turnip Mesa driver", "Adreno (TM) 640", "Mesa 26.1.2");
        assert!(found(Path::Subgroup, &adreno).is_some());
        assert_eq!(found(Path::Subgroup, &Caps::floor()), None);
    }

    #[test]
    fn a_mended_driver_is_not_passed_over() {
        const ROWS: &[Quirk] = &[Quirk { mended: Some([26, 2]), driver: "mesa", ..QUIRKS[1] }];
        let with = |words| device(INTEL, "Intel open-source Mesa driver", "Intel(R) Graphics", words);
        for (words, faulty) in
            [("Mesa 25.3.1", true), ("Mesa 26.1.9-devel (git-1)", true), ("Mesa 26.2.0", false), ("Mesa", true)]
        {
            assert_eq!(Quirk::find(ROWS, Path::Matrix, &with(words)).is_some(), faulty, "{words}");
        }
    }
}
