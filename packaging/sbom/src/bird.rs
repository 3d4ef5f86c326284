//! `packaging/dist/bird.source`: Debian's source package of BIRD.

use anyhow::{Context, Result};

/// Which BIRD is in the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bird {
    /// The name of Debian's package.
    pub(crate) package: String,
    /// Its version.
    pub(crate) version: String,
    /// SHA-256 and name of each of its files.
    pub(crate) files: Vec<(String, String)>,
}

/// Reads the file.
///
/// # Errors
/// When a line is missing.
pub(crate) fn parse(text: &str) -> Result<Bird> {
    let value = |key: &str| {
        let mut lines = text.lines().filter_map(|line| line.split_once(' '));
        let found = lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim().to_owned());
        found.with_context(|| format!("no {key} among the sources of BIRD"))
    };
    let sums = text.lines().filter_map(|line| line.split_once("  "));
    let sums = sums.filter(|(sum, _)| sum.len() == 64);
    let files: Vec<_> = sums.map(|(sum, file)| (sum.to_owned(), file.to_owned())).collect();
    anyhow::ensure!(!files.is_empty(), "no files among the sources of BIRD");
    Ok(Bird { package: value("package")?, version: value("version")?, files })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_the_repository_is_read() -> Result<()> {
        let bird = parse(include_str!("../../dist/bird.source"))?;
        assert_eq!(bird.package, "bird2");
        assert_eq!(bird.files.len(), 3);
        assert!(bird.files.iter().any(|(_, name)| name.ends_with(".orig.tar.gz")), "{bird:?}");
        assert!(parse("package bird2\nversion 1\n").is_err());
        Ok(())
    }
}
