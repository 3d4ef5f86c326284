//! The steps of a plan as messages of a batch.

use super::expr::{Anonymous, Expr, SetRef};
use super::lower::{comment, lower};
use super::object::{Chain, Element, Name, Rule};
use super::plan::Step;
use super::subject::Subject;
use super::wire::attributes::Writer;
use super::wire::element::{ELEMENTS, LARGEST, anonymous, element, gone};
use super::wire::expression::{ANONYMOUS, expression};
use super::wire::message::{APPEND, Batch, CREATE, EXCLUSIVE, kind};
use super::wire::{read, set};

/// Bytes of elements in one message: an attribute's length has sixteen bits, and wraps.
const LIST_BYTES: usize = u16::MAX as usize - LARGEST;
/// `NFTA_RULE_EXPRESSIONS`.
const EXPRESSIONS: u16 = 4;

/// Writes steps of one table.
#[derive(Debug)]
pub(super) struct Encoder<'t> {
    table: &'t str,
    pub(super) batch: Batch,
    /// Number of the last set that was made in this batch.
    id: u32,
}

impl<'t> Encoder<'t> {
    /// Encodes for `table` into an empty batch.
    pub(super) fn new(table: &'t str, first: u32) -> Self {
        Self { table, batch: Batch::new(first), id: 0 }
    }

    fn push(
        &mut self,
        kind: u16,
        flags: u16,
        subject: Subject,
        fill: impl FnOnce(&mut Writer<'_>),
    ) {
        let table = self.table;
        self.batch.push(kind, flags, subject, |w| {
            w.text(1, table);
            fill(w);
        });
    }

    /// The table comes, unless it is there.
    pub(super) fn make_table(&mut self) {
        self.push(kind::NEW_TABLE, CREATE, Subject::Table, |w| w.be32(2, 0));
    }

    /// The same, with hooks that no packet comes to (`NFT_TABLE_F_DORMANT`).
    pub(super) fn make_dormant_table(&mut self) {
        self.push(kind::NEW_TABLE, CREATE, Subject::Table, |w| w.be32(2, 1));
    }

    /// The table goes with all that it holds.
    pub(super) fn drop_table(&mut self) {
        self.push(kind::DELETE_TABLE, 0, Subject::Table, |_| ());
    }

    /// Does a step.
    pub(super) fn step(&mut self, step: &Step<'_>) {
        match step {
            Step::Flush(name) => {
                self.push(kind::DELETE_RULE, 0, Subject::Rules((*name).clone()), |w| {
                    w.text(2, name);
                });
            }
            Step::Remove(name, elements) => {
                let elements = elements.iter().map(|gone| gone.element());
                self.elements(kind::DELETE_ELEMENTS, 0, name, elements, gone);
            }
            Step::Insert(name, elements) => {
                let elements = elements.iter().copied();
                self.elements(kind::NEW_ELEMENTS, CREATE, name, elements, element);
            }
            Step::DropSet(name) => {
                self.push(kind::DELETE_SET, 0, Subject::Set((*name).clone()), |w| w.text(2, name));
            }
            Step::DropChain(name) => {
                let subject = Subject::Chain((*name).clone());
                self.push(kind::DELETE_CHAIN, 0, subject, |w| w.text(3, name));
            }
            Step::MakeSet(name, spec) => {
                self.id += 1;
                let id = self.id;
                let subject = Subject::Set((*name).clone());
                self.push(kind::NEW_SET, CREATE | EXCLUSIVE, subject, |w| {
                    set::set(w, name, *spec, id);
                });
            }
            Step::MakeChain(name, base) => {
                let subject = Subject::Chain((*name).clone());
                self.push(kind::NEW_CHAIN, CREATE | EXCLUSIVE, subject, |w| {
                    read::chain(w, name, *base);
                });
            }
            Step::Fill(name, chain) => self.fill(name, chain),
        }
    }

    /// Element lists of one set, each as long as an attribute can be.
    fn elements<'e>(
        &mut self,
        kind: u16,
        flags: u16,
        name: &Name,
        elements: impl Iterator<Item = &'e Element>,
        write: fn(&mut Writer<'_>, &Element),
    ) {
        let mut elements = elements.peekable();
        while elements.peek().is_some() {
            let mut count = 0;
            self.push(kind, flags, Subject::Elements(name.clone(), 0), |w| {
                w.text(2, name);
                w.nest(ELEMENTS, |w| {
                    let start = w.0.len();
                    while w.0.len() - start < LIST_BYTES
                        && let Some(element) = elements.next()
                    {
                        write(w, element);
                        count += 1;
                    }
                });
            });
            self.batch.rename_last(Subject::Elements(name.clone(), count));
        }
    }

    fn fill(&mut self, name: &Name, chain: &Chain) {
        for (index, rule) in chain.rules.iter().enumerate() {
            self.rule(name, index + 1, rule);
        }
    }

    /// A rule behind those of its chain, after the sets that are its own.
    fn rule(&mut self, chain: &Name, number: usize, rule: &Rule) {
        let exprs = lower(rule);
        let before = self.id;
        for expr in &exprs {
            if let Expr::Lookup { set: SetRef::Anonymous(set), .. } = expr {
                self.set_of_rule(chain, number, set);
            }
        }
        self.push(kind::NEW_RULE, CREATE | APPEND, Subject::Rule(chain.clone(), number), |w| {
            w.text(2, chain);
            w.nest(EXPRESSIONS, |w| {
                let mut id = before;
                for expr in &exprs {
                    if let Expr::Lookup { set: SetRef::Anonymous(_), .. } = expr {
                        id += 1;
                    }
                    expression(w, expr, id);
                }
            });
            if let Some(text) = &rule.comment {
                read::comment(w, &comment(text));
            }
        });
    }

    fn set_of_rule(&mut self, chain: &Name, number: usize, set: &Anonymous) {
        self.id += 1;
        let id = self.id;
        let subject = || Subject::Rule(chain.clone(), number);
        self.push(kind::NEW_SET, CREATE, subject(), |w| set::anonymous(w, set, id));
        // A range takes 60 bytes with two ends of IPv6.
        for part in set.ranges.chunks(LIST_BYTES / 80) {
            let part = Anonymous { key: set.key, ranges: part.to_vec() };
            self.push(kind::NEW_ELEMENTS, CREATE, subject(), |w| {
                w.text(2, ANONYMOUS);
                w.be32(4, id);
                w.nest(ELEMENTS, |w| anonymous(w, &part, set.is_interval()));
            });
        }
    }
}
