//! Steps on their way to the kernel.

use std::io;

use super::{EARLY_BYTES, WriteError, Written};
use crate::felix::counters::Counters;
use crate::felix::nftables::encode::Encoder;
use crate::felix::nftables::object::{Name, SetKind};
use crate::felix::nftables::plan::Step;
use crate::felix::nftables::socket::{Channel, Outcome, Refusal};
use crate::felix::nftables::subject::Subject;
use crate::felix::nftables::wire::element;
use crate::felix::nftables::wire::message::{HEADERS, Sealed};

/// Sends the steps of one write.
pub(super) struct Sender<'a> {
    pub(super) table: &'a str,
    pub(super) channel: &'a mut Channel,
    pub(super) counters: &'a Counters,
    pub(super) written: &'a mut Written,
    pub(super) exists: bool,
}

/// What a set is, by its name.
pub(super) type KindOf<'a> = &'a dyn Fn(&Name) -> Option<SetKind>;

impl<'a> Sender<'a> {
    pub(super) fn encoder(&self) -> Encoder<'a> {
        Encoder::new(self.table, self.channel.next())
    }

    /// An encoder that begins with the table where that is not known to be there.
    fn begin(&self) -> Encoder<'a> {
        let mut encoder = self.encoder();
        if !self.exists {
            encoder.make_table();
        }
        encoder
    }

    /// The table without flags, and nothing else.
    pub(super) fn wake(&mut self) -> Result<(), WriteError> {
        let mut encoder = self.encoder();
        encoder.make_table();
        self.send(&encoder.batch.finish(), &|_| None)
    }

    /// New sets in as many batches as their elements need.
    pub(super) fn early(
        &mut self,
        steps: Vec<Step<'_>>,
        kind: KindOf<'_>,
    ) -> Result<(), WriteError> {
        if steps.is_empty() {
            return Ok(());
        }
        let mut encoder = self.begin();
        for step in steps {
            let parts = match step {
                Step::Insert(name, elements) => {
                    let chunks = elements.chunks(EARLY_BYTES / 48);
                    chunks.map(|chunk| Step::Insert(name, chunk.to_vec())).collect()
                }
                step => vec![step],
            };
            for part in &parts {
                encoder.step(part);
                if encoder.batch.size() >= EARLY_BYTES {
                    let full = std::mem::replace(&mut encoder, self.encoder());
                    self.send(&full.batch.finish(), kind)?;
                    encoder = self.encoder();
                }
            }
        }
        if encoder.batch.len() > 0 {
            self.send(&encoder.batch.finish(), kind)?;
        }
        Ok(())
    }

    /// Everything that is visible, at once.
    pub(super) fn batch(&mut self, steps: &[Step<'_>], kind: KindOf<'_>) -> Result<(), WriteError> {
        let mut encoder = self.begin();
        steps.iter().for_each(|step| encoder.step(step));
        match encoder.batch.len() {
            0 => Ok(()),
            _ => self.send(&encoder.batch.finish(), kind),
        }
    }

    /// Takes back what came early.
    pub(super) fn discard(&mut self, made: &[Name]) {
        for name in made {
            let mut encoder = self.encoder();
            encoder.step(&Step::DropSet(name));
            // One that was not made is not there.
            if let Err(error) = self.send(&encoder.batch.finish(), &|_| None) {
                tracing::debug!(set = %name, %error, "a set that nothing uses stays");
            }
        }
    }

    pub(super) fn send(&mut self, batch: &Sealed, kind: KindOf<'_>) -> Result<(), WriteError> {
        let bytes = batch.bytes.len();
        let sent = self.channel.send(batch);
        let outcome = sent.map_err(|source| WriteError::Send { bytes, source })?;
        let (messages, bytes) = (batch.len() as u64, bytes as u64);
        self.written.batches += 1;
        self.written.messages += messages;
        self.written.bytes += bytes;
        self.counters.nftables_batches.count(1);
        self.counters.nftables_messages.count(messages);
        self.counters.nftables_bytes.count(bytes);
        match outcome {
            Outcome::Done => {
                self.exists = true;
                Ok(())
            }
            Outcome::Unknown => Err(WriteError::Unknown),
            Outcome::Refused(refusal, count) => Err(refused(batch, refusal, count, kind)),
        }
    }
}

/// Names what was refused.
fn refused(batch: &Sealed, refusal: Refusal, count: usize, kind: KindOf<'_>) -> WriteError {
    let subject = match batch.message(refusal.sequence) {
        None => Subject::Batch,
        Some((Subject::Elements(set, number), body)) => {
            // The kernel says where in the list; a list of one says it, too.
            let place = refusal.offset.and_then(|offset| offset.checked_sub(HEADERS));
            let place = if *number == 1 { Some(0) } else { place };
            match place.and_then(|place| element::at(body, place)) {
                Some(raw) => Subject::Element(set.clone(), element::describe(kind(set), raw)),
                None => Subject::Elements(set.clone(), *number),
            }
        }
        Some((subject, _)) => subject.clone(),
    };
    let source = io::Error::from_raw_os_error(refusal.errno);
    WriteError::Refused { subject, said: refusal.said, source, count }
}
