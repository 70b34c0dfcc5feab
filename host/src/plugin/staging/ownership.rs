//! Whether a library is one that only root or the host's own user could have written.
//!
//! Judges what is open, not what a path names: the copy is made from the same descriptor, so nothing can be exchanged in
//! between. A library is code in the host's process; whoever can write it is the host.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::getxattr_query;
use rustix::io::Errno;

/// Why a library is not trusted: what is wrong, and what puts it right.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnershipError {
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
    #[error(
        "{path} has an access control list, by which more than its owner can write it, mode {mode:o}; `setfacl -b {path}`, \
         or check_owner = false under [server.reload]", path = path.display()
    )]
    Listed { path: PathBuf, mode: u32 },
    #[error("cannot find out who could have written {}", path.display())]
    Unknown {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Checks an open library, the folder that it lies in, and those in which the symbolic links to it lie; also `staging`,
/// where its copy will be opened by path, and what that lies in.
///
/// # Errors
/// Somebody else could have written it.
pub(crate) fn check(path: &Path, file: &File, staging: &Path) -> Result<(), OwnershipError> {
    let unknown = |path: &Path| {
        let path = path.to_owned();
        move |source| OwnershipError::Unknown { path, source }
    };
    let accounts = Accounts::read().map_err(unknown(Path::new("/proc/self/status")))?;
    if !file.metadata().map_err(unknown(path))?.is_file() {
        return Err(OwnershipError::NoFile(path.to_owned()));
    }
    let open = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    accounts.judge(path, &open)?;
    let real = fs::read_link(&open).map_err(unknown(path))?;
    let linked = folders_of_links(path).map_err(unknown(path))?;
    let named = [path, &real, staging].into_iter().filter_map(Path::parent);
    let folders: BTreeSet<&Path> =
        named.chain([staging]).chain(linked.iter().map(PathBuf::as_path)).collect();
    folders.into_iter().try_for_each(|folder| accounts.judge(folder, folder))
}

/// The folders of all links that lead from a library's path to its file, and of what they lead to: who can write one of
/// them chooses the file.
fn folders_of_links(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut folders = BTreeSet::new();
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(folders) };
    let (mut at, mut links) = (fs::canonicalize(folder)?, 0);
    // The next name is the last.
    let mut names: Vec<OsString> = vec![name.to_owned()];
    while let Some(name) = names.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&name);
        match fs::read_link(&next) {
            Ok(_) if links == MAX_LINKS => return Err(io::Error::from(Errno::LOOP)),
            Ok(target) => {
                links += 1;
                folders.insert(at.clone());
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
                names.extend(target.components().rev().filter_map(|part| match part {
                    Component::Normal(_) | Component::ParentDir => {
                        Some(part.as_os_str().to_owned())
                    }
                    _ => None,
                }));
            }
            // No link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => at = next,
            Err(error) => return Err(error),
        }
    }
    folders.extend(at.parent().map(Path::to_owned));
    Ok(folders)
}

/// As many as the system follows (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Whether there is an access control list (acl(5)): the mode's bits of the group are then the most that anybody in it may have.
fn has_list(at: &Path) -> io::Result<bool> {
    match getxattr_query(at, "system.posix_acl_access") {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
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

    /// What is called `path`, and reached by `at`.
    fn judge(&self, path: &Path, at: &Path) -> Result<(), OwnershipError> {
        let path = path.to_owned();
        let judged =
            fs::metadata(at).and_then(|meta| Ok((meta.mode() & 0o020 != 0 && has_list(at)?, meta)));
        let (is_listed, meta) = match judged {
            Ok(found) => found,
            Err(source) => return Err(OwnershipError::Unknown { path, source }),
        };
        let (owner, group, mode) = (meta.uid(), meta.gid(), meta.mode() & 0o7777);
        if owner != 0 && owner != self.host {
            return Err(OwnershipError::Owner { path, owner, host: self.host });
        }
        if mode & 0o002 != 0 {
            let who = "everybody".to_owned();
            return Err(OwnershipError::Writable { path, who, mode, right: "go-w" });
        }
        if is_listed {
            return Err(OwnershipError::Listed { path, mode });
        }
        // A umask of 002, as many systems have it, belongs to groups of one user each.
        if mode & 0o020 != 0 && !is_private(group, owner, &self.passwd, &self.group) {
            let who = format!("the group {group}, which is not one of its owner alone");
            return Err(OwnershipError::Writable { path, who, mode, right: "g-w" });
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
    fn every_folder_with_a_link_in_it_is_found_and_a_circle_ends() {
        let folder = std::env::temp_dir().join(format!("plugsocket-links-{}", std::process::id()));
        for part in ["plug", "mid/deep", "releases/42"] {
            fs::create_dir_all(folder.join(part)).unwrap();
        }
        fs::write(folder.join("releases/42/lib.so"), "").unwrap();
        let folder = fs::canonicalize(folder).unwrap();
        let absolute = folder.join("mid/l");
        let link = |target: &Path, at: &str| {
            std::os::unix::fs::symlink(target, folder.join(at)).unwrap();
        };
        link(&absolute, "plug/lib.so");
        link(Path::new("./deep/../deep/l"), "mid/l");
        link(Path::new("../../releases/current/lib.so"), "mid/deep/l");
        link(Path::new("42"), "releases/current");
        link(Path::new("round.so"), "plug/round.so");
        let found = folders_of_links(&folder.join("plug/lib.so")).unwrap();
        let expected = ["plug", "mid", "mid/deep", "releases", "releases/42"];
        assert_eq!(found, expected.map(|part| folder.join(part)).into());
        let plain = folders_of_links(&folder.join("releases/42/lib.so")).unwrap();
        assert_eq!(plain, [folder.join("releases/42")].into());
        assert!(folders_of_links(&folder.join("plug/round.so")).is_err());
        assert!(folders_of_links(&folder.join("plug/none.so")).is_err());
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn the_user_is_the_effective_one() {
        assert_eq!(effective_uid("Name:\tx\nUid:\t1\t2\t3\t4\n"), Some(2));
        assert_eq!(effective_uid("Name:\tx\n"), None);
        assert!(Accounts::read().is_ok());
    }
}
