//! The Markdown documents of the repository, as far as tests check them: headings, links and code.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A document.
#[derive(Debug)]
pub struct Document {
    /// The path, relative to the repository.
    pub path: PathBuf,
    /// The fenced code blocks.
    pub blocks: Vec<Block>,
    /// The code spans, as they are between their backticks.
    pub spans: Vec<Place>,
    /// The destinations of links and images.
    pub links: Vec<Place>,
    /// The anchors of the headings, as GitHub makes them.
    pub anchors: HashSet<String>,
}

/// A fenced code block.
#[derive(Debug)]
pub struct Block {
    /// The line of the opening fence.
    pub line: usize,
    /// The word behind the opening fence; may be empty.
    pub language: String,
    /// The content.
    pub text: String,
}

/// A piece of text and the line where its paragraph begins.
#[derive(Debug)]
pub struct Place {
    /// The line.
    pub line: usize,
    /// The text.
    pub text: String,
}

/// Returns the root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Reads all Markdown documents of the repository.
///
/// # Panics
/// If there are implausibly few.
pub fn documents() -> Vec<Document> {
    let root = root();
    let mut paths = Vec::new();
    find(&root, &mut paths);
    assert!(paths.len() >= 10, "{paths:?}");
    paths.sort();
    let relative = |path: &PathBuf| path.strip_prefix(&root).unwrap().to_owned();
    paths
        .iter()
        .map(|path| parse(relative(path), &std::fs::read_to_string(path).unwrap()))
        .collect()
}

fn find(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_foreign = ["target", "node_modules", "vendor"].contains(&&*name);
        if path.is_dir() && !name.starts_with('.') && !is_foreign {
            find(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Parses a document.
pub fn parse(path: PathBuf, text: &str) -> Document {
    let mut document = Document {
        path,
        blocks: Vec::new(),
        spans: Vec::new(),
        links: Vec::new(),
        anchors: HashSet::new(),
    };
    let mut paragraph = Place { line: 1, text: String::new() };
    let mut lines = text.lines().enumerate();
    while let Some((index, line)) = lines.next() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            document.end_paragraph(&mut paragraph);
            let content = lines.by_ref().map(|(_, line)| line);
            let content = content.take_while(|line| !line.trim_start().starts_with("```"));
            let text = content.map(|line| format!("{line}\n")).collect();
            let language = language.trim().to_owned();
            document.blocks.push(Block { line: index + 1, language, text });
        } else if line.starts_with('#') {
            document.end_paragraph(&mut paragraph);
            document.add_anchor(line.trim_start_matches('#').trim());
        } else if line.trim().is_empty() {
            document.end_paragraph(&mut paragraph);
        } else {
            if paragraph.text.is_empty() {
                paragraph.line = index + 1;
            }
            paragraph.text.push_str(line.trim());
            paragraph.text.push(' ');
        }
    }
    document.end_paragraph(&mut paragraph);
    document
}

impl Document {
    fn add_anchor(&mut self, heading: &str) {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let slug: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let slug = slug.to_lowercase();
        let numbered = (1..).map(|number| format!("{slug}-{number}"));
        let mut candidates = std::iter::once(slug.clone()).chain(numbered);
        let free = candidates.find(|candidate| !self.anchors.contains(candidate));
        self.anchors.extend(free);
    }

    /// Takes the code spans and links out of a paragraph.
    fn end_paragraph(&mut self, paragraph: &mut Place) {
        let Place { line, text } =
            std::mem::replace(paragraph, Place { line: 0, text: String::new() });
        let place = |text: &str| Place { line, text: text.to_owned() };
        let mut prose = String::new();
        let mut pieces = text.split('`');
        while let Some(plain) = pieces.next() {
            prose.push_str(plain);
            if let Some(code) = pieces.next() {
                self.spans.push(place(code));
                prose.push_str("code");
            }
        }
        for rest in prose.split("](").skip(1) {
            self.links.extend(rest.split_once(')').map(|(destination, _)| place(destination)));
        }
    }
}
