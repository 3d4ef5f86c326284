//! What would be written to BIRD's file. It reads the file and writes nothing.

use std::path::Path;

use super::file::{self, FileError};
use super::render::{Input, render};
use crate::reconcile::{Problem, World};
use crate::telemetry::chain;

/// What would become of the file.
#[derive(Clone, Debug)]
pub enum BirdPreview {
    /// It stays.
    Same,
    /// Another text takes its place.
    Change {
        /// What is there; empty when there is none.
        from: String,
        /// What would be there.
        to: String,
    },
    /// There is nothing to be written, and why.
    None(Problem),
}

/// What would be written to `config`.
///
/// # Errors
/// When the file is there and cannot be read.
pub async fn preview(config: &Path, world: &World) -> Result<BirdPreview, FileError> {
    let desired = &world.desired;
    let input = Input {
        bgp: &desired.bgp,
        blocks: &desired.blocks,
        interface_prefixes: &desired.settings.interface_prefixes,
    };
    let to = match render(&input) {
        Ok(text) => text,
        Err(error) => {
            let (subject, message) = ("bird".to_owned(), chain(&error));
            return Ok(BirdPreview::None(Problem { subject, message }));
        }
    };
    let from = file::read(config).await?;
    Ok(if from == to { BirdPreview::Same } else { BirdPreview::Change { from, to } })
}
