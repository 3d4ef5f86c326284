//! A page that is a transcript: read, and written again with what commands said and how long they took.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use calico_e2e::document::{More, more_lines};

/// Between these two lines of the page are the times.
const TIMES: [&str; 2] = ["<!-- times -->", "<!-- end of times -->"];

/// A command at a prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Command {
    /// The machine whose prompt it is.
    pub(crate) host: String,
    /// What is typed.
    pub(crate) typed: String,
    /// What it says, and `[n]` if it ends with that exit code.
    pub(crate) says: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Line(String),
    /// The step that begins here.
    Heading(String),
    Command(Command),
    /// What stands between [`TIMES`].
    Times(Vec<String>),
}

/// The page.
#[derive(Clone, Debug)]
pub(crate) struct Transcript {
    pieces: Vec<Piece>,
}

impl Transcript {
    /// Reads a page.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut pieces = Vec::new();
        let mut console = false;
        let mut lines = text.lines();
        while let Some(line) = lines.next() {
            if line == TIMES[0] {
                let rows = lines.by_ref().take_while(|line| *line != TIMES[1]);
                pieces.push(Piece::Times(rows.map(str::to_owned).collect()));
                continue;
            }
            if line.starts_with("```") {
                console = line == "```console";
            } else if console && let Some((host, first)) = prompt(line) {
                let mut typed = first.to_owned();
                match more_lines(first) {
                    More::None => {}
                    More::Continued => {
                        while typed.ends_with('\\') {
                            typed += "\n";
                            typed += lines.next().context("a command that does not end")?;
                        }
                    }
                    More::Until(word) => loop {
                        let next = lines.next().context("a here-document that does not end")?;
                        typed += &format!("\n{next}");
                        if next == word {
                            break;
                        }
                    },
                }
                let command = Command { host: host.to_owned(), typed, says: Vec::new() };
                pieces.push(Piece::Command(command));
                continue;
            } else if console && let Some(Piece::Command(command)) = pieces.last_mut() {
                command.says.push(line.to_owned());
                continue;
            } else if let Some(title) = line.strip_prefix("## ") {
                pieces.push(Piece::Heading(title.to_owned()));
                continue;
            }
            pieces.push(Piece::Line(line.to_owned()));
        }
        let tables = pieces.iter().filter(|piece| matches!(piece, Piece::Times(_))).count();
        ensure!(tables == 1, "{tables} tables of times");
        Ok(Self { pieces })
    }

    /// Its commands, each with the step that it belongs to.
    pub(crate) fn commands(&mut self) -> impl Iterator<Item = (String, &mut Command)> {
        let mut step = String::new();
        self.pieces.iter_mut().filter_map(move |piece| match piece {
            Piece::Heading(title) => {
                title.clone_into(&mut step);
                None
            }
            Piece::Command(command) => Some((step.clone(), command)),
            Piece::Line(_) | Piece::Times(_) => None,
        })
    }

    /// Writes the times, and where they were measured.
    pub(crate) fn set_times(&mut self, steps: &[(String, Duration)], machine: &str) {
        let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
        let mut rows = vec![String::new(), "| step | time |".into(), "|---|---|".into()];
        rows.extend(steps.iter().map(|(step, time)| format!("| {step} | {} |", seconds(*time))));
        let all = steps.iter().map(|(_, time)| *time).sum();
        rows.extend([format!("| together | {} |", seconds(all)), String::new()]);
        rows.extend(format!("Measured on {machine}.").lines().map(str::to_owned));
        rows.push(String::new());
        for piece in &mut self.pieces {
            if let Piece::Times(old) = piece {
                rows.clone_into(old);
            }
        }
    }

    /// The steps that the table of times names.
    pub(crate) fn timed_steps(&self) -> Vec<&str> {
        let times = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Times(rows) => Some(rows),
            _ => None,
        });
        let rows = times.flatten().filter_map(|row| row.strip_suffix(" s |"));
        rows.filter_map(|row| Some(row.strip_prefix("| ")?.rsplit_once(" | ")?.0)).collect()
    }

    /// The page.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for piece in &self.pieces {
            let _ = match piece {
                Piece::Line(line) => writeln!(text, "{line}"),
                Piece::Heading(title) => writeln!(text, "## {title}"),
                Piece::Times(rows) => {
                    writeln!(text, "{}\n{}\n{}", TIMES[0], rows.join("\n"), TIMES[1])
                }
                Piece::Command(Command { host, typed, says }) => {
                    let says = says.iter().map(|line| format!("{line}\n")).collect::<String>();
                    write!(text, "{host}# {typed}\n{says}")
                }
            };
        }
        text
    }
}

/// `host# command`.
fn prompt(line: &str) -> Option<(&str, &str)> {
    let (host, command) = line.split_once("# ")?;
    let name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (!host.is_empty() && host.chars().all(name)).then_some((host, command))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "\
# A page
<!-- times -->
<!-- end of times -->
## One
```console
first# cat <<END
# not a prompt
END
# not a prompt
second# false
[1]
```
## Two
Text with # and first# words.
```sh
first# no transcript
```
```console
first# one \\
    two
```
";

    #[test]
    fn a_page_is_read_and_written() {
        let mut page = Transcript::parse(PAGE).unwrap();
        assert_eq!(page.text().replace("-->\n\n<!--", "-->\n<!--"), PAGE);
        let read: Vec<_> = page.commands().map(|(step, command)| (step, command.clone())).collect();
        let command = |host: &str, typed: &str, says: &[&str]| Command {
            host: host.into(),
            typed: typed.into(),
            says: says.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(
            read,
            [
                (
                    "One".into(),
                    command("first", "cat <<END\n# not a prompt\nEND", &["# not a prompt"])
                ),
                ("One".into(), command("second", "false", &["[1]"])),
                ("Two".into(), command("first", "one \\\n    two", &[])),
            ]
        );
        assert_eq!(page.timed_steps(), [""; 0]);
        let times =
            [("One".to_owned(), Duration::from_millis(1234)), ("Two".into(), Duration::ZERO)];
        page.set_times(&times, "this");
        assert!(page.text().contains("| One | 1.2 s |\n| Two | 0.0 s |\n| together | 1.2 s |\n"));
        assert_eq!(page.timed_steps(), ["One", "Two", "together"]);
        assert_eq!(Transcript::parse(&page.text()).unwrap().text(), page.text());
    }
}
