//! The documents agree with the program: links resolve, configurations are served, commands exist,
//! the quick start and the tutorial run as written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails loudly")]

mod configurations;

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use plugsocket_tests::markdown::{Block, Document, documents, root};
use plugsocket_tests::skip;
use plugsocket_tests::tutorial::Tutorial;

const PROGRAM: &str = env!("CARGO_BIN_EXE_plugsocket-under-test");

/// Code spans that look like paths of the repository and are not, with the reason.
const OTHER_PATHS: [(&str, &str); 0] = [];
/// Shell blocks that are not run, by a part of their text, with the reason.
const NOT_RUN: [(&str, &str); 3] = [
    ("cargo test --workspace", "is this test"),
    ("cargo build --release\n", "the host is built already, with the profile of the tests"),
    ("target/release/plugsocket\n", "serves until it is ended; the test starts it before"),
];

/// Fails with all problems at once.
fn expect_none(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}", problems.join("\n"));
}

#[test]
fn relative_links_and_anchors_resolve() {
    let documents = documents();
    let anchors: BTreeMap<_, _> =
        documents.iter().map(|document| (root().join(&document.path), &document.anchors)).collect();
    let mut problems = Vec::new();
    for document in &documents {
        let folder = root().join(document.path.parent().unwrap());
        for link in document.links.iter().filter(|link| !link.text.contains("://")) {
            let (file, anchor) = link.text.split_once('#').unwrap_or((&link.text, ""));
            let target = match file {
                "" => root().join(&document.path),
                file => folder.join(file),
            };
            let found = target.canonicalize().ok();
            let resolves = found.as_ref().is_some_and(|found| {
                anchor.is_empty() || anchors.get(found).is_some_and(|all| all.contains(anchor))
            });
            if !resolves {
                problems.push(format!("{}:{}: {}", document.path.display(), link.line, link.text));
            }
        }
    }
    expect_none(problems);
}

fn blocks<'d>(documents: &'d [Document], languages: &[&str]) -> Vec<(&'d Document, &'d Block)> {
    let all = documents
        .iter()
        .flat_map(|document| document.blocks.iter().map(move |block| (document, block)));
    all.filter(|(_, block)| languages.contains(&&*block.language)).collect()
}

/// Commands and options in shell blocks, in console blocks behind a prompt, and in code spans.
#[test]
fn commands_and_options_exist() {
    let documents = documents();
    let (mut helps, mut problems, mut checked) = (BTreeMap::new(), Vec::new(), 0);
    let mut check = |document: &Document, line: usize, text: &str| {
        for command in invocations(text) {
            checked += 1;
            let problem = unknown_word(&command, &mut helps);
            let place = format!("{}:{line}", document.path.display());
            problems.extend(problem.map(|word| format!("{place}: {word:?} in {command:?}")));
        }
    };
    for (document, block) in blocks(&documents, &["sh", "console"]) {
        let text = block.text.replace("\\\n", " ");
        let is_command = |line: &&str| block.language == "sh" || line.starts_with("$ ");
        for line in text.lines().filter(is_command) {
            check(document, block.line, line.strip_prefix("$ ").unwrap_or(line));
        }
    }
    for document in &documents {
        let spans = document.spans.iter().filter(|span| span.text.starts_with("plugsocket "));
        spans.for_each(|span| check(document, span.line, &span.text));
    }
    expect_none(problems);
    assert!(checked >= 20, "{checked}");
}

/// The arguments of each invocation of the program in a command line.
fn invocations(line: &str) -> Vec<Vec<String>> {
    let line = line.split(" #").next().unwrap().replace("$(", " ; ").replace(')', " ");
    let words: Vec<&str> = line.split_whitespace().collect();
    let commands = words.split(|word| ["|", "||", "&&", "&", ";"].contains(word));
    let arguments = commands.filter_map(|command| {
        let prefix = |word: &&&str| word.contains('=') || ["sudo", "exec"].contains(*word);
        let mut words = command.iter().skip_while(|word| prefix(word));
        let program = words.next()?;
        let is_meant = *program == "plugsocket" || program.ends_with("/plugsocket");
        let is_argument = |word: &&&str| !word.contains('>') && !word.contains('<');
        is_meant.then(|| words.take_while(is_argument).map(|word| (*word).to_owned()).collect())
    });
    arguments.collect()
}

/// What `--help` says of a command.
struct Help {
    commands: HashSet<String>,
    /// With the name of the value, if there is one.
    options: BTreeMap<String, bool>,
    takes_arguments: bool,
}

/// The first word that `--help` does not know.
fn unknown_word(arguments: &[String], helps: &mut BTreeMap<Vec<String>, Help>) -> Option<String> {
    let mut level = Vec::new();
    let mut words = arguments.iter().map(|word| word.trim_matches(['[', ']', '\'', '"', ',']));
    while let Some(word) = words.next() {
        let help = helps.entry(level.clone()).or_insert_with(|| help(&level));
        let (name, value) = word.split_once('=').map_or((word, None), |(n, v)| (n, Some(v)));
        if name.starts_with('-') {
            let takes_value = help.options.get(name);
            if value.is_none() && takes_value == Some(&true) {
                words.next();
            } else if takes_value.is_none() {
                return Some(word.to_owned());
            }
        } else if help.commands.contains(word) {
            level.push(word.to_owned());
        } else if !help.takes_arguments && word != "…" {
            return Some(word.to_owned());
        }
    }
    None
}

fn help(level: &[String]) -> Help {
    let output = Command::new(PROGRAM).args(level).arg("--help").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let section = |name: &str| text.split_once(name).map_or("", |(_, rest)| rest);
    let commands = section("\nCommands:\n").lines().take_while(|line| !line.is_empty());
    let mut options = BTreeMap::new();
    for line in section("\nOptions:\n").lines().filter(|line| line.trim_start().starts_with('-')) {
        let names = line.split([' ', ',']).filter(|word| word.starts_with('-'));
        options.extend(names.map(|name| (name.to_owned(), line.contains('<'))));
    }
    let usage = text.lines().find(|line| line.starts_with("Usage: ")).unwrap();
    let usage = usage.replace("[OPTIONS]", "").replace("[COMMAND]", "").replace("<COMMAND>", "");
    Help {
        commands: commands
            .filter_map(|line| line.split_whitespace().next())
            .map(Into::into)
            .collect(),
        options,
        takes_arguments: usage.contains(['<', '[']),
    }
}

#[test]
fn paths_in_code_spans_exist() {
    const FOLDERS: [&str; 7] =
        ["host/", "plugin-api/", "plugins/", "clients/", "tests/", "docs/", ".ci/"];
    let mut problems = Vec::new();
    for document in documents() {
        let folder = root().join(document.path.parent().unwrap());
        let exists = |path: &str| root().join(path).exists() || folder.join(path).exists();
        let is_path = |text: &str| FOLDERS.iter().any(|folder| text.starts_with(folder));
        for span in document.spans.iter().filter(|span| is_path(&span.text)) {
            let path = span.text.split_whitespace().next().unwrap();
            let known = OTHER_PATHS.iter().any(|(known, _)| *known == path);
            if !known && !braces(path).iter().all(|path| exists(path)) {
                problems.push(format!("{}:{}: {path}", document.path.display(), span.line));
            }
        }
    }
    expect_none(problems);
}

/// Expands one pair of braces, as in `src/{a,b}.rs`.
fn braces(path: &str) -> Vec<String> {
    match path.split_once('{').and_then(|(start, rest)| Some((start, rest.split_once('}')?))) {
        Some((start, (names, end))) => {
            names.split(',').map(|name| format!("{start}{name}{end}")).collect()
        }
        None => vec![path.to_owned()],
    }
}

/// Each folder of `host/src` has a row in the code map, and each module named there exists.
#[test]
fn the_code_map_names_every_folder_and_only_modules_that_exist() {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let source = root().join("host/src");
    let mut folders: HashSet<String> = std::fs::read_dir(&source)
        .unwrap()
        .map(Result::unwrap)
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    let rows =
        text.lines().filter(|line| line.starts_with("| `") && source.join(folder(line)).is_dir());
    for row in rows {
        folders.remove(folder(row));
        for module in row.split('|').nth(3).unwrap().split('`').skip(1).step_by(2) {
            let path = source.join(folder(row)).join(module);
            assert!(path.is_dir() || path.with_extension("rs").exists(), "{}", path.display());
        }
    }
    // Compiled for tests only, described in a sentence.
    folders.remove("internals");
    assert!(folders.is_empty(), "without a row: {folders:?}");
}

/// The folder in the first column of a row.
fn folder(row: &str) -> &str {
    row.split('`').nth(1).unwrap_or_default().trim_end_matches('/')
}

#[test]
fn the_tests_that_the_page_on_reliability_names_exist() {
    let documents = documents();
    let page =
        documents.iter().find(|document| document.path.ends_with("explanation/reliability.md"));
    let names = page.unwrap().spans.iter().filter_map(|span| span.text.split_once("::"));
    let names: Vec<_> = names.filter(|(_, test)| *test != "NAME").collect();
    assert!(names.len() >= 30, "{names:?}");
    for (file, test) in names {
        let path = root().join("tests/tests").join(file);
        let sources: Vec<_> = match std::fs::read_dir(&path) {
            Ok(entries) => entries.map(|entry| entry.unwrap().path()).collect(),
            Err(_) => vec![path.with_extension("rs")],
        };
        let needle = format!("fn {test}(");
        let is_there =
            |path: &PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.contains(&needle));
        assert!(sources.iter().any(is_there), "{file}::{test}");
    }
}

/// Each message in the tables of log events is in the source, apart from the text that varies.
#[test]
fn the_log_events_that_are_documented_exist() {
    const LEVELS: [&str; 4] = ["| ERROR |", "| WARN |", "| INFO |", "| DEBUG |"];
    let page = root().join("docs/reference/log-events.md");
    let page = std::fs::read_to_string(page).unwrap();
    let source = sources(&root().join("host/src"));
    let rows = page.lines().filter(|line| LEVELS.iter().any(|level| line.starts_with(level)));
    let messages: Vec<_> = rows.map(|row| row.split('|').nth(2).unwrap().trim()).collect();
    assert!(messages.len() >= 50, "{messages:?}");
    let is_there = |message: &&str| {
        let mut parts = message.split(['…']).flat_map(|part| part.split("NAME"));
        parts.all(|part| source.contains(part.trim()))
    };
    expect_none(
        messages.iter().filter(|message| !is_there(message)).map(|m| (*m).to_owned()).collect(),
    );
}

/// The text of all files of a folder.
fn sources(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let text = entries.map(|path| match path.is_dir() {
        true => sources(&path),
        false => std::fs::read_to_string(path).unwrap(),
    });
    text.collect()
}

#[tokio::test]
async fn the_commands_of_the_readme_run_as_written() {
    run("README.md").await;
}

#[tokio::test]
async fn the_tutorial_runs_as_written() {
    run("docs/getting-started.md").await;
}

async fn run(path: &str) {
    let has_php = Command::new("php").arg("--version").output().is_ok();
    if !has_php {
        skip("the commands in PHP", "php is missing", "apt-get install php-cli");
    }
    let documents = documents();
    let document = documents.iter().find(|document| document.path.ends_with(path)).unwrap();
    let is_left_out = |block: &Block| {
        let is_known = |(text, _): &(&str, &str)| {
            block.text.starts_with(text) || !text.ends_with('\n') && block.text.contains(text)
        };
        NOT_RUN.iter().any(is_known) || !has_php && block.text.contains("\nphp ")
    };
    Tutorial::start(PROGRAM).await.run(document, is_left_out).await;
}
