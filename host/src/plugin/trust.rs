//! Whether a library is one that only root or the host's own user could have written.
//!
//! Judges what is open, not what a path names: the copy is made from the same descriptor, so nothing can be exchanged in
//! between. A library is code in the host's process; whoever can write it is the host.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Why a library is not trusted: what is wrong, and what puts it right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Distrust {
    #[error("{} is no regular file", .0.display())]
    NoFile(PathBuf),
    #[error(
        "{path} belongs to user {owner}, who is neither root nor the user that runs the host ({host}), and could change it; \
         `chown {host} {path}`, or check_owner = false under [server.reload]", path = path.display()
    )]
    Owner { path: PathBuf, owner: u32, host: u32 },
    #[error(
        "{path} can be written by {who}, mode {mode:o}; `chmod {right} {path}`, or check_owner = false under [server.reload]",
        path = path.display()
    )]
    Writable { path: PathBuf, who: String, mode: u32, right: &'static str },
    #[error("cannot find out who could have written {}", path.display())]
    Unknown {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Checks an open library, the folder that it lies in, and the one in which a symbolic link to it was found; also `staging`,
/// where its copy will be opened by path, and what that lies in.
///
/// # Errors
/// Somebody else could have written it.
pub(crate) fn check(path: &Path, file: &File, staging: &Path) -> Result<(), Distrust> {
    let unknown = |path: &Path| {
        let path = path.to_owned();
        move |source| Distrust::Unknown { path, source }
    };
    let accounts = Accounts::read().map_err(unknown(Path::new("/proc/self/status")))?;
    let meta = file.metadata().map_err(unknown(path))?;
    if !meta.is_file() {
        return Err(Distrust::NoFile(path.to_owned()));
    }
    accounts.judge(path, &meta)?;
    let real =
        fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).map_err(unknown(path))?;
    let mut folders: Vec<&Path> =
        [path, &real, staging].into_iter().filter_map(Path::parent).collect();
    folders.dedup();
    folders.push(staging);
    for folder in folders {
        let meta = fs::metadata(folder).map_err(unknown(folder))?;
        accounts.judge(folder, &meta)?;
    }
    Ok(())
}

/// Who the host is, and what the machine knows of users and groups.
struct Accounts {
    host: u32,
    passwd: String,
    group: String,
}

impl Accounts {
    fn read() -> io::Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let host = effective_uid(&status).ok_or(io::ErrorKind::InvalidData)?;
        // A container may have neither: then no group is known to be private.
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Ok(Self { host, passwd: read("/etc/passwd"), group: read("/etc/group") })
    }

    fn judge(&self, path: &Path, meta: &Metadata) -> Result<(), Distrust> {
        let (owner, group, mode) = (meta.uid(), meta.gid(), meta.mode() & 0o7777);
        let path = path.to_owned();
        if owner != 0 && owner != self.host {
            return Err(Distrust::Owner { path, owner, host: self.host });
        }
        if mode & 0o002 != 0 {
            let who = "everybody".to_owned();
            return Err(Distrust::Writable { path, who, mode, right: "go-w" });
        }
        // A umask of 002, as many systems have it, belongs to groups of one user each.
        if mode & 0o020 != 0 && !is_private(group, owner, &self.passwd, &self.group) {
            let who = format!("the group {group}, which is not one of its owner alone");
            return Err(Distrust::Writable { path, who, mode, right: "g-w" });
        }
        Ok(())
    }
}

/// Whether nobody but `owner` is in this group, by the files of the machine; users who are known elsewhere (LDAP) make no
/// group private.
fn is_private(gid: u32, owner: u32, passwd: &str, group: &str) -> bool {
    let field = |line: &str, at: usize| line.split(':').nth(at).map(str::to_owned);
    let number = |line: &str, at: usize| field(line, at)?.parse::<u32>().ok();
    let in_group = |line: &&str| number(line, 3) == Some(gid);
    let mut primary = passwd.lines().filter(in_group);
    let Some(only) = primary.next() else { return false };
    if primary.next().is_some() || number(only, 2) != Some(owner) {
        return false;
    }
    let name = field(only, 0).unwrap_or_default();
    let entry = group.lines().find(|line| number(line, 2) == Some(gid));
    let members = entry.and_then(|line| field(line, 3)).unwrap_or_default();
    entry.is_some() && members.split(',').all(|member| member.is_empty() || member == name)
}

/// The second number of the line `Uid:` (proc(5)).
fn effective_uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n\
                          cat:x:1002:1003::/:/bin/sh\ndan:x:1003:1003::/:/bin/sh\n";
    const GROUP: &str =
        "root:x:0:\nann:x:1000:\nbob:x:1001:bob,ann\nstaff:x:50:ann\nusers:x:1003:\n";

    #[test]
    fn a_group_is_private_where_its_owner_is_alone_in_it() {
        for (gid, owner, expected) in [
            (1000, 1000, true),
            (0, 0, true),
            (1001, 1001, false), // ann too
            (1003, 1002, false), // dan's as well
            (50, 1000, false),
            (1000, 1001, false),
            (1000, 0, false),
            (77, 1000, false),
        ] {
            assert_eq!(is_private(gid, owner, PASSWD, GROUP), expected, "{gid} of {owner}");
        }
        assert!(!is_private(1000, 1000, "", ""));
        assert!(!is_private(1000, 1000, PASSWD, ""));
    }

    #[test]
    fn the_user_is_the_effective_one() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1\t2\t3\t4\n"), Some(2));
        assert_eq!(effective_uid("Name:\tx\n"), None);
        assert!(Accounts::read().is_ok());
    }
}
