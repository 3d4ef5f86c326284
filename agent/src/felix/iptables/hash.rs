//! The hash that a rule carries in its comment, so that what the kernel holds can be compared with
//! what it should hold without understanding rules.
//!
//! The hash is of the chain's name and the rule, not of the rules before it (as the original has it):
//! whole lists of hashes are compared, so the order is seen all the same, and a rule that comes or
//! goes does not change those behind it.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha224};

/// The first 16 characters of the hash in base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleHash([u8; 16]);

impl RuleHash {
    /// Reads the comment of a rule; `None` when it is not one of ours.
    pub fn of_comment(comment: &str) -> Option<Self> {
        // The original puts its own remarks behind the hash.
        let text = comment.strip_prefix("cali:")?.as_bytes();
        let hash: [u8; 16] = text.get(..16)?.try_into().ok()?;
        let ends = !text.get(16).is_some_and(|b| b.is_ascii_alphanumeric());
        let plain = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (ends && hash.iter().all(plain)).then_some(Self(hash))
    }
}

impl fmt::Display for RuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&b| write!(f, "{}", char::from(b)))
    }
}

impl fmt::Debug for RuleHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The hashes of the rules of a chain.
pub fn of_chain<'a>(
    chain: &str,
    lines: impl IntoIterator<Item = &'a String>,
) -> impl Iterator<Item = RuleHash> {
    let chain = Sha224::digest(chain);
    lines.into_iter().map(move |line| {
        let hash = Sha224::new().chain_update(chain).chain_update(line).finalize();
        let mut text = [0; 38];
        let mut first = [0; 16];
        // 28 bytes are 38 characters, so this cannot fail; the zeroes would only cost a rewrite.
        if URL_SAFE_NO_PAD.encode_slice(hash, &mut text).is_ok() {
            first.copy_from_slice(&text[..16]);
        }
        RuleHash(first)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(chain: &str, lines: &[&str]) -> Vec<String> {
        let lines: Vec<String> = lines.iter().map(|&l| l.to_owned()).collect();
        of_chain(chain, &lines).map(|h| h.to_string()).collect()
    }

    #[test]
    fn a_hash_says_the_chain_and_the_rule() {
        let ab = hashes("cali-x", &["a", "b"]);
        assert_eq!(ab.len(), 2);
        assert_eq!(ab[0], hashes("cali-x", &["a"])[0]);
        assert_eq!(ab[1], hashes("cali-x", &["b"])[0]);
        assert_ne!(ab[0], ab[1]);
        assert_ne!(ab[0], hashes("cali-y", &["a"])[0]);
        assert!(ab.iter().all(|h| h.len() == 16));
    }

    #[test]
    fn comments_of_others_are_not_ours() {
        assert!(RuleHash::of_comment("cali:abcdefghijklmnop").is_some());
        assert!(RuleHash::of_comment("cali:abcdefghijklmnop with a remark").is_some());
        for text in ["", "cali:", "cali:abc", "cali:abcdefghijklmnopq", "x cali:abcdefghijklmnop"] {
            assert_eq!(RuleHash::of_comment(text), None, "{text}");
        }
    }
}
