//! Checks that only root or the host's user could have written a library.
//!
//! Checks the open file, from which the copy is made, and not what its path names at that moment,
//! so that the file cannot be exchanged in between. A library is code in the host's process: an
//! account that can write to it has the host's rights.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::getxattr_query;
use rustix::io::Errno;

/// Why the ownership of a library is refused, and how to correct it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OwnershipError {
    #[error(
        "{path} belongs to user {owner}, who is neither root nor the user that runs the host \
         ({host}), and could change it; `chown {host} {path}`, or check_owner = false under \
         [server.reload]", path = path.display()
    )]
    Owner { path: PathBuf, owner: u32, host: u32 },
    #[error(
        "{path} can be written by {writers}, mode {mode:o}; `chmod {right} {path}`, or check_owner \
         = false under [server.reload]", path = path.display()
    )]
    Writable { path: PathBuf, writers: String, mode: u32, right: &'static str },
    #[error(
        "{path} has an access control list that lets other users write to it, mode {mode:o}; \
         `setfacl -b {path}`, or check_owner = false under [server.reload]", path = path.display()
    )]
    AccessList { path: PathBuf, mode: u32 },
    #[error("cannot read the owner and mode of {}", path.display())]
    Unknown {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Checks an open library, its folder, the folders of the symbolic links to it, and the folder
/// `staging`, where its copy will be opened by path.
///
/// # Errors
/// Another user could have written the library.
pub(crate) fn check(path: &Path, file: &File, staging: &Path) -> Result<(), OwnershipError> {
    let unknown = |source| OwnershipError::Unknown { path: path.to_owned(), source };
    let accounts = Accounts::read();
    let open = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    accounts.check_owner(path, &open)?;
    let real = fs::read_link(&open).map_err(unknown)?;
    let linked = folders_of_links(path).map_err(unknown)?;
    let named = [path, &real, staging].into_iter().filter_map(Path::parent);
    let folders: BTreeSet<&Path> =
        named.chain([staging]).chain(linked.iter().map(PathBuf::as_path)).collect();
    folders.into_iter().try_for_each(|folder| accounts.check_owner(folder, folder))
}

/// Returns the folders of all symbolic links from a library's path to its file, and the folder of
/// that file. Write access to one of them selects the file.
fn folders_of_links(path: &Path) -> io::Result<BTreeSet<PathBuf>> {
    let mut folders = BTreeSet::new();
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(folders) };
    let (mut at, mut links) = (fs::canonicalize(folder)?, 0);
    // A stack: the next name is the last.
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
                let is_name = |part: &Component<'_>| {
                    matches!(part, Component::Normal(_) | Component::ParentDir)
                };
                let parts = target.components().rev().filter(is_name);
                names.extend(parts.map(|part| part.as_os_str().to_owned()));
            }
            // Not a symbolic link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => at = next,
            Err(error) => return Err(error),
        }
    }
    folders.extend(at.parent().map(Path::to_owned));
    Ok(folders)
}

/// The limit of the system (path_resolution(7)).
const MAX_LINKS: u32 = 40;

/// Returns whether there is an access control list (acl(5)). The group bits of the mode are then
/// only the upper limit of its entries.
fn has_access_list(at: &Path) -> io::Result<bool> {
    match getxattr_query(at, "system.posix_acl_access") {
        Ok(_) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The host's user, and the machine's users and groups.
struct Accounts {
    host: u32,
    passwd: String,
    group: String,
}

impl Accounts {
    fn read() -> Self {
        let host = rustix::process::geteuid().as_raw();
        // A container may have neither file; then no group is known to be private.
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self { host, passwd: read("/etc/passwd"), group: read("/etc/group") }
    }

    /// Checks the file at `at`; `path` is its name in errors.
    fn check_owner(&self, path: &Path, at: &Path) -> Result<(), OwnershipError> {
        let unknown = |source| OwnershipError::Unknown { path: path.to_owned(), source };
        let meta = fs::metadata(at).map_err(unknown)?;
        let has_list = meta.mode() & 0o020 != 0 && has_access_list(at).map_err(unknown)?;
        let path = path.to_owned();
        let (owner, group, mode) = (meta.uid(), meta.gid(), meta.mode() & 0o7777);
        if owner != 0 && owner != self.host {
            return Err(OwnershipError::Owner { path, owner, host: self.host });
        }
        if mode & 0o002 != 0 {
            let writers = "every user".to_owned();
            return Err(OwnershipError::Writable { path, writers, mode, right: "go-w" });
        }
        if has_list {
            return Err(OwnershipError::AccessList { path, mode });
        }
        // With a umask of 002, common on many systems, each user has a private group.
        if mode & 0o020 != 0 && !is_private(group, owner, &self.passwd, &self.group) {
            let writers = format!("the group {group}, which is not its owner's private group");
            return Err(OwnershipError::Writable { path, writers, mode, right: "g-w" });
        }
        Ok(())
    }
}

/// Returns whether `owner` is the only member of a group, by the machine's files. Users known from
/// elsewhere (LDAP) make no group private.
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

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:/bin/sh\nbob:x:1001:1001::/:/bin/sh\n\
                          cat:x:1002:1003::/:/bin/sh\ndan:x:1003:1003::/:/bin/sh\n";
    const GROUP: &str =
        "root:x:0:\nann:x:1000:\nbob:x:1001:bob,ann\nstaff:x:50:ann\nusers:x:1003:\n";

    #[test]
    fn a_group_is_private_if_its_owner_is_the_only_member() {
        for (gid, owner, expected) in [
            (1000, 1000, true),
            (0, 0, true),
            (1001, 1001, false), // also ann
            (1003, 1002, false), // also dan
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
    fn the_folder_of_every_link_is_found_and_a_cycle_is_an_error() {
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
}
