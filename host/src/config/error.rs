//! What can be wrong with a configuration, in the words the operator reads.

use std::path::PathBuf;
use std::{fmt, io};

/// Why there is no [`Config`](super::Config).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file does not exist.
    #[error("{}: there is no such file; name the configuration with --config FILE or PLUGSOCKET_CONFIG", path.display())]
    Missing {
        /// The file asked for, absolute.
        path: PathBuf,
    },
    /// The file exists and cannot be read.
    #[error("{}: cannot be read; name another configuration with --config FILE", path.display())]
    Unreadable {
        /// The file asked for, absolute.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The file was read and has mistakes. Printed one to a line.
    #[error("{}", one_a_line(problems))]
    Invalid {
        /// The file, absolute.
        path: PathBuf,
        /// Every mistake found, in the order of the file; never empty.
        problems: Vec<Problem>,
    },
}

/// One mistake. `Display` prints the line for the operator, `file:line: key: problem; what would be
/// right`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The file, absolute.
    pub path: PathBuf,
    /// Line in it, from 1.
    pub line: usize,
    /// Key path, such as `server.max_message` or `resources."/web".plugin`; empty where the file is
    /// not TOML.
    pub key: String,
    /// What is wrong, and what would be right; one line.
    pub problem: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.path.display(), self.line)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)
    }
}

fn one_a_line(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
