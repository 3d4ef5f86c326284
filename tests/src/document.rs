//! The documents of the project: their blocks of commands, and who runs each.
//!
//! A block says it in its first line, which readers do not see:
//!
//! ```text
//! ```sh machine               tests/tests/commands.rs types it on a booted machine, line by line
//! ```sh by: documents         the program of tests of that name does what it says
//! ```sh elsewhere: Flatcar    what it needs is not here
//! ```console                  a transcript, which tests/tests/first_hour types and compares
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// A block between fences.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Its document, from the project's directory on.
    pub page: String,
    /// The line of its first fence, from 1 on.
    pub line: usize,
    /// `sh`, `yaml`.
    pub language: String,
    /// What stands behind the language.
    pub mark: String,
    /// What is in it.
    pub text: String,
}

/// Who runs a block of commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner<'a> {
    /// A booted machine with the package.
    Machine,
    /// A program of tests.
    Program(&'a str),
    /// Nobody: what it needs is not here.
    Elsewhere(&'a str),
}

impl Block {
    /// Who runs it.
    ///
    /// # Errors
    /// When it does not say.
    pub fn runner(&self) -> Result<Runner<'_>> {
        let Self { page, line, mark, .. } = self;
        if mark == "machine" {
            return Ok(Runner::Machine);
        }
        let program = mark.strip_prefix("by: ").map(Runner::Program);
        let elsewhere = || mark.strip_prefix("elsewhere: ").map(Runner::Elsewhere);
        let says = || format!("{page}:{line} does not say who runs it, but {mark:?}");
        program.or_else(elsewhere).with_context(says)
    }

    /// Its commands: a line each, with what belongs to it.
    pub fn commands(&self) -> Vec<String> {
        commands(&self.text)
    }
}

/// The project's directory.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The text of a document.
///
/// # Errors
/// When it is not there.
pub fn read(page: &str) -> Result<String> {
    fs::read_to_string(project().join(page)).with_context(|| format!("no document {page}"))
}

/// All documents with commands for users: README.md and what is in `docs`.
///
/// # Errors
/// When the directory cannot be read.
pub fn pages() -> Result<Vec<String>> {
    let mut pages = vec!["README.md".to_owned()];
    for entry in fs::read_dir(project().join("docs"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        pages.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    pages.sort();
    Ok(pages)
}

/// The blocks of a document.
///
/// # Errors
/// When it is not there, or a block does not end.
pub fn blocks(page: &str) -> Result<Vec<Block>> {
    parse(page, &read(page)?)
}

fn parse(page: &str, text: &str) -> Result<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (fence, &mut open) {
            (Some(info), None) => {
                let (language, mark) = info.trim().split_once(' ').unwrap_or((info.trim(), ""));
                open = Some(Block {
                    page: page.to_owned(),
                    line: index + 1,
                    language: language.to_owned(),
                    mark: mark.trim().to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    ensure!(open.is_none(), "{page}: a block does not end");
    Ok(blocks)
}

/// The first block of a language that has `content` in it.
///
/// # Errors
/// When there is none.
pub fn block(page: &str, language: &str, content: &str) -> Result<Block> {
    let mut all = blocks(page)?.into_iter();
    let found = all.find(|block| block.language == language && block.text.contains(content));
    found.with_context(|| format!("no {language} with {content} in {page}"))
}

/// The commands of a script: lines that are not empty or remarks, each with its here-document and the
/// lines that a `\` at its end continues.
pub fn commands(text: &str) -> Vec<String> {
    let mut commands: Vec<String> = Vec::new();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let mut command = line.to_owned();
        let more = more_lines(line);
        let mut last = line;
        match more {
            More::None => {}
            More::Continued => {
                while last.ends_with('\\')
                    && let Some(next) = lines.next()
                {
                    command += &format!("\n{next}");
                    last = next;
                }
            }
            More::Until(word) => {
                for next in lines.by_ref() {
                    command += &format!("\n{next}");
                    if next == word {
                        break;
                    }
                }
            }
        }
        commands.push(command);
    }
    commands
}

/// What of the lines behind it belongs to a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum More<'a> {
    /// Nothing.
    None,
    /// The next one, and on as long as they end in `\`.
    Continued,
    /// All up to one that is this word.
    Until(&'a str),
}

/// See [`More`].
pub fn more_lines(line: &str) -> More<'_> {
    if let Some((_, rest)) = line.split_once("<<") {
        let word = rest.split_whitespace().next().unwrap_or_default();
        return More::Until(word.trim_matches('\''));
    }
    if line.ends_with('\\') { More::Continued } else { More::None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
text
```sh machine
# a remark
cat > file <<'EOF'
# not a remark
EOF
one \\
    two   # three

four
```
```yaml
a: b
```
   ```sh elsewhere: another system
   five
   ```
";

    #[test]
    fn blocks_have_their_lines_and_say_who_runs_them() {
        let blocks = parse("page", PAGE).unwrap();
        let shapes: Vec<_> =
            blocks.iter().map(|block| (block.line, block.language.as_str())).collect();
        assert_eq!(shapes, [(2, "sh"), (12, "yaml"), (15, "sh")]);
        assert_eq!(blocks[0].runner().unwrap(), Runner::Machine);
        assert!(blocks[1].runner().unwrap_err().to_string().starts_with("page:12 "));
        assert_eq!(blocks[2].runner().unwrap(), Runner::Elsewhere("another system"));
        let by = Block { mark: "by: documents".to_owned(), ..blocks[0].clone() };
        assert_eq!(by.runner().unwrap(), Runner::Program("documents"));
        assert!(parse("page", "```sh\n").is_err());
    }

    #[test]
    fn a_command_has_its_lines() {
        let blocks = parse("page", PAGE).unwrap();
        assert_eq!(
            blocks[0].commands(),
            ["cat > file <<'EOF'\n# not a remark\nEOF", "one \\\n    two   # three", "four"]
        );
    }
}
