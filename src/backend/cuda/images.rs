//! The compiled kernels that the program carries: one fatbin for each `kernels/NAME.cu`, made by build.rs.
//!
//! A fatbin holds machine code for each `sm_` architecture of [`ARCHITECTURES`] and PTX for each `compute_`
//! one; the driver picks what fits its device, as [`code_for`] foretells. A program that was built without
//! nvcc has no images and says so by [`BUILT_WITH`].

include!(concat!(env!("OUT_DIR"), "/images.rs"));

/// The fatbin of `kernels/NAME.cu`, at an address that is a multiple of 16; None if there is no such file, or
/// no nvcc was there at build time.
pub fn image(name: &str) -> Option<&'static [u8]> {
    IMAGES.iter().find(|(stem, _)| *stem == name).map(|(_, image)| *image)
}

/// Which code of [`ARCHITECTURES`] a driver loads on a device of compute capability `major.minor`; None if
/// the images hold nothing for it.
pub fn code_for(major: u32, minor: u32) -> Option<&'static str> {
    code_among(ARCHITECTURES, major, minor)
}

/// Machine code goes before PTX (which the driver compiles when it loads the image), later architectures
/// before earlier ones. Machine code `sm_XY` runs on devices X.Z with Z >= Y and PTX `compute_XY` on
/// everything from X.Y on; the suffix `a` restricts both to X.Y, the suffix `f` to X.Z with Z >= Y. (CUDA
/// programming guide, "Application compatibility" and "Family-specific architectures".)
fn code_among<'a>(architectures: &[&'a str], major: u32, minor: u32) -> Option<&'a str> {
    let fits = |name: &str| -> Option<(bool, u32)> {
        let (kind, number) = name.split_once('_')?;
        let machine = kind == "sm";
        let digits = number.trim_end_matches(['a', 'f']);
        let of: u32 = digits.parse().ok()?;
        let (of_major, of_minor) = (of / 10, of % 10);
        let same_major = of_major == major && of_minor <= minor;
        let fits = match (number.chars().last()?, machine) {
            ('a', _) => (of_major, of_minor) == (major, minor),
            ('f', _) | (_, true) => same_major,
            (_, false) => (of_major, of_minor) <= (major, minor),
        };
        fits.then_some((machine, of))
    };
    architectures.iter().copied().filter_map(|name| Some((fits(name)?, name))).max().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machine_code_before_ptx_and_nothing_below() {
        let usual = ["sm_80", "sm_90a", "compute_80"];
        let expected = [
            ((7, 5), None),
            ((8, 0), Some("sm_80")),
            ((8, 9), Some("sm_80")),
            ((9, 0), Some("sm_90a")),
            ((10, 0), Some("compute_80")),
            ((12, 1), Some("compute_80")),
        ];
        for ((major, minor), code) in expected {
            assert_eq!(code_among(&usual, major, minor), code, "{major}.{minor}");
        }
    }

    #[test]
    fn suffixes_restrict() {
        assert_eq!(code_among(&["sm_86", "sm_80"], 8, 9), Some("sm_86"));
        assert_eq!(code_among(&["sm_86"], 8, 0), None);
        assert_eq!(code_among(&["sm_90a", "compute_90a"], 10, 0), None);
        assert_eq!(code_among(&["sm_100f"], 10, 3), Some("sm_100f"));
        assert_eq!(code_among(&["compute_100f"], 12, 0), None);
        assert_eq!(code_among(&[], 8, 0), None);
    }

    #[test]
    fn every_image_is_a_fatbin_at_an_address_that_the_driver_can_read() {
        assert_eq!(BUILT_WITH.is_none(), ARCHITECTURES.is_empty());
        for (name, image) in IMAGES {
            assert_eq!(image[..4], 0xba55_ed50_u32.to_le_bytes(), "{name}: the first word of a fatbin");
            assert_eq!(image.as_ptr().align_offset(16), 0, "{name}");
        }
        assert!(image("no such kernel").is_none());
    }
}
