//! Handles: in which blocks an owner has how many addresses.

use serde_json::{Map, Value, json};

use super::Malformed;
use crate::layout::v3::keys;
use crate::model::Cidr;

const BLOCKS: &str = "block";

/// A stored handle, to be read and changed.
#[derive(Clone, Debug)]
pub struct HandleDocument {
    fields: Map<String, Value>,
}

impl HandleDocument {
    /// One that has nothing yet.
    pub fn create() -> Self {
        let mut fields = Map::new();
        fields.insert(BLOCKS.to_owned(), json!({}));
        fields.insert("deleted".to_owned(), json!(false));
        Self { fields }
    }

    /// Reads the handle `id`.
    ///
    /// # Errors
    /// When it cannot be told where it has addresses.
    pub fn open(id: &str, stored: &[u8]) -> Result<Self, Malformed> {
        let malformed = |reason: String| Malformed { key: keys::handle(id), reason };
        let fields: Map<String, Value> =
            serde_json::from_slice(stored).map_err(|error| malformed(error.to_string()))?;
        let handle = Self { fields };
        let well_formed = match handle.fields.get(BLOCKS) {
            None | Some(Value::Null) => true,
            Some(Value::Object(blocks)) => blocks.iter().all(|(block, count)| {
                block.parse::<Cidr>().is_ok() && (count.is_u64() || count.is_null())
            }),
            Some(_) => false,
        };
        if well_formed {
            Ok(handle)
        } else {
            Err(malformed("block is not counts by CIDR".to_owned()))
        }
    }

    /// The blocks that it has addresses of, and how many.
    pub fn blocks(&self) -> impl Iterator<Item = (Cidr, u64)> {
        let blocks = self.fields.get(BLOCKS).and_then(Value::as_object).into_iter().flatten();
        blocks.filter_map(|(block, count)| Some((block.parse().ok()?, count.as_u64().unwrap_or(0))))
    }

    /// How many addresses of a block it has.
    pub fn count(&self, block: Cidr) -> u64 {
        self.blocks().filter(|(known, _)| *known == block).map(|(_, count)| count).sum()
    }

    /// Sets how many addresses of a block it has.
    pub fn set(&mut self, block: Cidr, count: u64) {
        if !self.fields.get(BLOCKS).is_some_and(Value::is_object) {
            self.fields.insert(BLOCKS.to_owned(), json!({}));
        }
        let Some(Value::Object(blocks)) = self.fields.get_mut(BLOCKS) else { return };
        // However it was spelled.
        let name = blocks.keys().find(|known| known.parse() == Ok(block)).cloned();
        let name = name.unwrap_or_else(|| block.to_string());
        if count == 0 {
            blocks.shift_remove(&name);
        } else {
            blocks.insert(name, json!(count));
        }
    }

    /// It has nothing.
    pub fn is_empty(&self) -> bool {
        self.blocks().next().is_none()
    }

    /// The bytes to write.
    pub fn finish(self) -> Vec<u8> {
        Value::Object(self.fields).to_string().into_bytes()
    }
}
