//! How much memory the process can have at most: what the machine has, a control group (a container) allows,
//! or a limit of the process (`ulimit -v`).
//!
//! Read from /proc and /sys, so Linux alone; elsewhere nothing is known.

use std::path::{Path, PathBuf};

use crate::backend::Ceiling;

/// Beside what the backend holds, for what the C library reserves of the address space to each thread (an
/// arena of 64 MiB, 128 MiB until it is aligned) and what lies between large buffers.
const RESERVED: usize = 192 << 20;

/// The lowest ceiling that is known, in bytes that the backend may hold in all; it holds `held` at present.
pub fn of_process(held: usize) -> Option<Ceiling> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let [virtual_size, resident] = ["VmSize:", "VmRSS:"].map(|field| kibibytes(&status, field).unwrap_or(0));
    // What else the process occupies stays occupied.
    let for_backend = |bytes: usize, used: usize, whose: String| Ceiling {
        bytes: bytes.saturating_sub(used.saturating_sub(held)),
        whose,
    };
    let machine =
        std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| kibibytes(&text, "MemTotal:"));
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let group = group_limits(&groups, Path::new("/sys/fs/cgroup")).into_iter().min();
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let address_space = address_space(&limits).map(|bytes| bytes.saturating_sub(RESERVED));
    [
        machine.map(|bytes| for_backend(bytes, resident, "the machine's memory".into())),
        group.map(|(bytes, file)| for_backend(bytes, resident, file.display().to_string())),
        address_space.map(|bytes| for_backend(bytes, virtual_size, "ulimit -v".into())),
    ]
    .into_iter()
    .flatten()
    .min_by_key(|ceiling| ceiling.bytes)
}

/// `NAME:   123 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<usize> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

/// The soft limit of the address space, if there is one.
fn address_space(limits: &str) -> Option<usize> {
    limits
        .lines()
        .find_map(|line| line.strip_prefix("Max address space"))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}

/// The memory limits of the process's control groups and of all above them, with the files that say so.
fn group_limits(groups: &str, root: &Path) -> Vec<(usize, PathBuf)> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        // Version 2 has one hierarchy and no list of controllers.
        let (root, file) = match controllers {
            "" => (root.to_path_buf(), "memory.max"),
            list if list.split(',').any(|c| c == "memory") => (root.join("memory"), "memory.limit_in_bytes"),
            _ => continue,
        };
        for group in Path::new(path.trim_start_matches('/')).ancestors() {
            let file = root.join(group).join(file);
            let limit =
                std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<usize>().ok());
            // Version 1 says "none" with a number beyond any memory.
            limits.extend(limit.filter(|&bytes| bytes < 1 << 60).map(|bytes| (bytes, file)));
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_linux_writes_them() {
        assert_eq!(kibibytes("Name:\tx\nVmRSS:\t    1234 kB\n", "VmRSS:"), Some(1234 << 10));
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max cpu time              unlimited            unlimited            seconds   \n\
                      Max address space         536870912            unlimited            bytes     \n";
        assert_eq!(address_space(limits), Some(536_870_912));
        assert_eq!(address_space(&limits.replace("536870912", "unlimited")), None);
    }

    #[test]
    fn the_groups_above_count_too() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            path
        };
        write("a/b/memory.max", "max\n");
        let above = write("a/memory.max", "1073741824\n");
        assert_eq!(group_limits("0::/a/b\n", dir.path()), [(1 << 30, above)]);
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        let own = write("memory/c/memory.limit_in_bytes", "2147483648\n");
        assert_eq!(group_limits("4:memory:/c\n3:cpuset:/\n", dir.path()), [(2 << 30, own)]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_has_a_ceiling() {
        let ceiling = of_process(0).unwrap();
        assert!(ceiling.bytes > 1 << 20, "{ceiling:?}");
    }
}
