//! The limit on open file descriptors, and the processes of the system.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Ensures that this process and its children may have `needed` file descriptors open. If the soft
/// limit is too low, a shell raises it and restarts this program: `setrlimit` needs unsafe code.
///
/// # Errors
/// If the hard limit is too low.
pub fn ensure_file_limit(needed: usize) -> Result<(), String> {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let mut limits = line.unwrap_or_default().split_whitespace().map(|limit| match limit {
        "unlimited" => usize::MAX,
        number => number.parse().unwrap_or(0),
    });
    let (soft, hard) = (limits.next().unwrap_or(0), limits.next().unwrap_or(0));
    if needed <= soft {
        return Ok(());
    }
    if needed > hard {
        return Err(format!(
            "{needed} file descriptors are needed, but the hard limit is {hard} (`ulimit -Hn`); raise it \
             as root with `prlimit --nofile={needed}:{needed} --pid $$`, or use fewer --sockets"
        ));
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -Sn "$0" && exec "$@""#]).arg(needed.to_string()).arg(program);
    Err(format!(
        "cannot raise the file descriptor limit: {}",
        shell.args(std::env::args().skip(1)).exec()
    ))
}

/// Returns the processes whose command line contains `part`, without zombies.
pub fn processes(part: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    // A zombie has an empty command line.
    let matches = |id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(part)
    };
    ids.filter(matches).collect()
}
