//! The reference page of `plugins.toml`, docs/reference/configuration.md, generated from the
//! declared keys.

use std::fmt::Write;

use super::keys::{Applies, Declaration, tables};

const INTRODUCTION: &str = "\
# Configuration

The keys of `plugins.toml`. The shipped file shows all of them with their defaults. Every key is
optional unless it is *required*. Relative paths are relative to the file. Durations are seconds,
with or without a fraction, up to a day.

The host reads the file again when it changes, or on `SIGHUP`, and applies it as a whole or not at
all. *live*: a change applies while the host runs; limits and timeouts apply to new connections.
*restart*: it applies at the next start. Connections of resources that did not change stay open.
The host reports a mistake as `file:line: key: what is wrong; what would be right`.

[plugins.schema.json](plugins.schema.json) is a JSON schema of the file. Editors with Taplo (in
Visual Studio Code the extension *Even Better TOML*) complete and check a file by it that begins with
`#:schema PATH`, relative to the file, as the shipped one does. `plugsocket schema` prints it.
";

/// Returns the page, in Markdown.
pub fn reference() -> String {
    let mut page = INTRODUCTION.to_owned();
    for table in tables() {
        let _ = write!(page, "\n## `{}`\n", table.header);
        for group in table.groups.iter().filter(|group| !group.keys.is_empty()) {
            let _ = write!(page, "\n{}\n\n", group.about.trim());
            page.push_str("| Key | Takes | Default | Change | Meaning |\n|---|---|---|---|---|\n");
            group.keys.iter().for_each(|key| row(key, &mut page));
        }
    }
    page
}

fn row(key: &Declaration, page: &mut String) {
    let description = (key.describe)();
    let default = match description.otherwise {
        "" => format!("`{}`", description.default),
        otherwise => otherwise.to_owned(),
    };
    let change = match key.applies {
        Applies::Live => "live",
        Applies::AtRestart => "restart",
    };
    let (name, takes, meaning) = (key.name, description.takes, key.meaning.trim());
    let _ = writeln!(page, "| `{name}` | {takes} | {default} | {change} | {meaning} |");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_what_the_declared_keys_generate() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(file, reference()).unwrap();
        }
        let page = std::fs::read_to_string(file).unwrap_or_default();
        assert!(
            page == reference(),
            "docs/reference/configuration.md is out of date; run: UPDATE_DOCS=1 cargo test -p plugsocket --lib config::reference"
        );
    }
}
