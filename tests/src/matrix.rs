//! A table of who reaches whom: what should pass, beside what does.
//!
//! A cell reads `what passes = what should`: a letter for each service, `✓` for all and `·` for
//! none; `≠` stands between two that differ.
//! All questions of a table are asked at the same time, so every drop is measured while the
//! permitted packets of the same table pass: they are its control.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context, Result, bail, ensure};

use crate::netns::enter;
use crate::probe::{Answer, BRIEF, PATIENT, Service, ask};

/// A place that asks and answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// As it is called in tables.
    pub name: String,
    /// Its namespace.
    pub netns: String,
    /// Where it is reached over IPv4.
    pub v4: Ipv4Addr,
    /// Where it is reached over IPv6.
    pub v6: Ipv6Addr,
}

/// Which address of a [`Site`] is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Site {
    /// Its address of one family.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }
}

/// The services of a table, each with its letter.
pub type Services = [(char, Service)];

/// What should pass: for each (from, to) the letters of the services that do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    rows: Vec<String>,
    columns: Vec<String>,
    cells: BTreeMap<(String, String), String>,
}

impl Expected {
    /// Reads a table: a line of names, then a line for each source. `-` is not asked, `.` is
    /// nothing, `*` is every service, other letters name the services that pass.
    ///
    /// # Errors
    /// When a line has another number of cells than the first.
    pub fn parse(text: &str, services: &Services) -> Result<Self> {
        let mut lines = text.lines().filter(|line| !line.trim().is_empty());
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let columns = words(lines.next().context("an empty table")?);
        let (mut rows, mut cells) = (Vec::new(), BTreeMap::new());
        for line in lines {
            let mut line = words(line);
            ensure!(line.len() == columns.len() + 1, "{} cells in {line:?}", line.len());
            let row = line.remove(0);
            for (column, cell) in columns.iter().zip(line) {
                let letters = match cell.as_str() {
                    "-" => continue,
                    "." => String::new(),
                    "*" => services.iter().map(|(letter, _)| letter).collect(),
                    letters => letters.to_owned(),
                };
                if let Some(odd) = letters.chars().find(|c| services.iter().all(|(l, _)| l != c)) {
                    bail!("no service has the letter {odd}");
                }
                cells.insert((row.clone(), column.clone()), letters);
            }
            rows.push(row);
        }
        Ok(Self { rows, columns, cells })
    }

    /// Every cell that is asked: from, to, and the letters of the services that pass.
    pub fn cells(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.cells.iter().map(|((from, to), passes)| (&from[..], &to[..], &passes[..]))
    }

    /// Changes one cell.
    pub fn set(&mut self, from: &str, to: &str, letters: &str) {
        self.cells.insert((from.to_owned(), to.to_owned()), letters.to_owned());
    }
}

/// What passed, beside what should have.
#[derive(Clone, Debug)]
pub struct Measured {
    expected: Expected,
    letters: Vec<char>,
    answers: BTreeMap<(String, String, char), Answer>,
}

impl Measured {
    /// Asks every question of `expected` at once.
    ///
    /// # Errors
    /// When a name of the table is not among `sites`, or a question cannot be asked.
    pub fn take(
        expected: &Expected,
        sites: &[Site],
        services: &Services,
        family: Family,
    ) -> Result<Self> {
        let site = |name: &String| {
            sites.iter().find(|s| s.name == *name).with_context(|| format!("no site {name}"))
        };
        let answers = std::thread::scope(|scope| -> Result<_> {
            let mut rows = Vec::new();
            for row in &expected.rows {
                let from = site(row)?;
                let mut questions = Vec::new();
                for column in &expected.columns {
                    let Some(pass) = expected.cells.get(&(row.clone(), column.clone())) else {
                        continue;
                    };
                    let to = site(column)?.address(family);
                    for &(letter, service) in services {
                        let limit = if pass.contains(letter) { PATIENT } else { BRIEF };
                        questions.push((column.clone(), letter, to, service, limit));
                    }
                }
                rows.push((row, scope.spawn(move || ask_all(&from.netns, &questions))));
            }
            let mut answers = BTreeMap::new();
            for (row, handle) in rows {
                let all = handle.join().unwrap_or_else(|p| std::panic::resume_unwind(p))?;
                for (column, letter, answer) in all {
                    answers.insert((row.clone(), column, letter), answer);
                }
            }
            Ok(answers)
        })?;
        let letters = services.iter().map(|(letter, _)| *letter).collect();
        Ok(Self { expected: expected.clone(), letters, answers })
    }

    /// How many questions were asked, and how many of the answers were as they should be silence.
    pub fn counts(&self) -> (usize, usize) {
        let silent = self.answers.values().filter(|a| **a == Answer::Silence).count();
        (self.answers.len(), silent)
    }

    /// Every answer that is not as it should be, in words, the same answers of a cell together. A
    /// drop must be silence: an unreachable or refused service does not count as one.
    pub fn differences(&self) -> Vec<String> {
        let mut all: BTreeMap<(&str, &str, String), String> = BTreeMap::new();
        for ((from, to, letter), answer) in &self.answers {
            let pass = self.should(from, to).contains(*letter);
            if !is_right(pass, answer) {
                let should = if pass { "pass" } else { "drop" };
                let text = format!("should {should}, got {answer:?}");
                all.entry((from, to, text)).or_default().push(*letter);
            }
        }
        let words = all.into_iter();
        words.map(|((from, to, text), letters)| format!("{from} → {to} {letters} {text}")).collect()
    }

    fn should(&self, from: &str, to: &str) -> &str {
        self.expected.cells.get(&(from.to_owned(), to.to_owned())).map_or("", String::as_str)
    }

    /// `✓=✓`: what passes, beside what should.
    fn beside(&self, from: &str, to: &str) -> String {
        let key = |letter: char| (from.to_owned(), to.to_owned(), letter);
        let answers: Vec<_> =
            self.letters.iter().filter_map(|l| Some((*l, self.answers.get(&key(*l))?))).collect();
        if answers.is_empty() {
            return "-".to_owned();
        }
        let should = self.should(from, to);
        let right = answers.iter().all(|(l, answer)| is_right(should.contains(*l), answer));
        let passes = |l: char| answers.iter().any(|(m, answer)| *m == l && answer.reached());
        let sign = if right { '=' } else { '≠' };
        format!("{}{sign}{}", self.cell(passes), self.cell(|l| should.contains(l)))
    }

    fn cell(&self, passes: impl Fn(char) -> bool) -> String {
        let passing: String = self.letters.iter().copied().filter(|l| passes(*l)).collect();
        match passing.chars().count() {
            0 => "·".to_owned(),
            n if n == self.letters.len() => "✓".to_owned(),
            _ => passing,
        }
    }
}

fn is_right(should_pass: bool, answer: &Answer) -> bool {
    if should_pass { answer.reached() } else { *answer == Answer::Silence }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Expected { rows, columns, .. } = &self.expected;
        let label = rows.iter().map(|r| r.chars().count()).max().unwrap_or(0);
        let line = |name: &str, cells: &mut dyn Iterator<Item = String>| -> String {
            let cells = columns.iter().zip(cells);
            let cells = cells.map(|(column, cell)| format!("  {cell:<w$}", w = width(column)));
            format!("{name:<label$}{}", cells.collect::<String>()).trim_end().to_owned()
        };
        writeln!(f, "{}", line("", &mut columns.iter().cloned()))?;
        for row in rows {
            let mut cells = columns.iter().map(|column| self.beside(row, column));
            writeln!(f, "{}", line(row, &mut cells))?;
        }
        Ok(())
    }
}

/// A column holds its name, and two cells of four letters with a sign between.
fn width(name: &str) -> usize {
    name.chars().count().max(9)
}

type Question = (String, char, IpAddr, Service, std::time::Duration);

/// All questions from one namespace at once. Threads begin in the namespace of their creator.
fn ask_all(netns: &str, questions: &[Question]) -> Result<Vec<(String, char, Answer)>> {
    enter(netns, || {
        std::thread::scope(|scope| {
            let asked: Vec<_> = questions
                .iter()
                .map(|(to, letter, address, service, limit)| {
                    (to, letter, scope.spawn(|| ask(*address, *service, *limit)))
                })
                .collect();
            let answered = asked.into_iter().map(|(to, letter, handle)| {
                let answer = handle.join().unwrap_or_else(|p| std::panic::resume_unwind(p))?;
                Ok((to.clone(), *letter, answer))
            });
            answered.collect()
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICES: [(char, Service); 2] = [('t', Service::Tcp(1)), ('i', Service::Icmp)];

    fn measured(answers: &[(&str, &str, char, Answer)]) -> Measured {
        let expected = Expected::parse("  a b\na - *\nb . -\n", &SERVICES).unwrap();
        let answers =
            answers.iter().map(|(f, t, l, a)| (((*f).into(), (*t).into(), *l), a.clone()));
        Measured { expected, letters: vec!['t', 'i'], answers: answers.collect() }
    }

    #[test]
    fn only_an_answer_passes_and_only_silence_is_a_drop() {
        let (yes, no) = (Answer::Reached(None), Answer::Silence);
        let right = [
            ("a", "b", 't', yes.clone()),
            ("a", "b", 'i', yes.clone()),
            ("b", "a", 't', no.clone()),
            ("b", "a", 'i', no),
        ];
        assert_eq!(measured(&right).differences(), Vec::<String>::new());
        for (at, wrong) in [
            (0, Answer::Silence),
            (1, Answer::Refused),
            (2, yes),
            (2, Answer::Refused),
            (3, Answer::Unreachable("no route".into())),
        ] {
            let mut answers = right.clone();
            answers[at].3 = wrong;
            let measured = measured(&answers);
            assert_eq!(measured.differences().len(), 1, "{at}");
            assert!(measured.to_string().contains('≠'), "{measured}");
        }
    }

    #[test]
    fn a_table_with_a_missing_cell_or_an_unknown_letter_is_refused() {
        for bad in ["", "a b\na -\n", "a\na x\n"] {
            assert!(Expected::parse(bad, &SERVICES).is_err(), "{bad:?}");
        }
    }
}
