//! How many files a command may have open.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Makes sure that this process and what it starts may have that many files open. Where the limit must be raised, a shell does it and
/// this program begins anew: setting it here would take unsafe code.
///
/// # Errors
/// The system allows fewer.
pub fn allow_files(needed: usize) -> Result<(), String> {
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
            "{needed} files must be open at once, and this system allows {hard} (`ulimit -Hn`); raise that as root with \
             `prlimit --nofile={needed}:{needed} --pid $$`, or say fewer --sockets"
        ));
    }
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -Sn "$0" && exec "$@""#]).arg(needed.to_string()).arg(program);
    Err(format!(
        "cannot raise the limit of open files: {}",
        shell.args(std::env::args().skip(1)).exec()
    ))
}
