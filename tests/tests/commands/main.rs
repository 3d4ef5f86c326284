//! Every command in the documents is run by a test, or says what it needs that is not here. A block of
//! commands names who runs it (`calico_e2e::document`); those of `machine` are typed here, line by line.

mod world;

use std::path::Path;

use anyhow::{Context, Result, ensure};
use calico_e2e::document::{self, Block, Runner};

use self::world::World;

/// Whose blocks are typed on the machine, in this order: each finds what those before have left, and the
/// last two take it away.
const ORDER: [&str; 10] = [
    "docs/install.md",
    "README.md",
    "docs/commands.md",
    "docs/explain.md",
    "docs/host-endpoints.md",
    "docs/rkt.md",
    "docs/troubleshooting.md",
    "docs/one-host.md",
    "docs/operating.md",
    "docs/migrate.md",
];

/// Commands within sentences that only look, by how they begin.
const LOOKS: [&str; 8] = [
    "journalctl ",
    "birdc ",
    "birdcl ",
    "curl --unix-socket ",
    "ip route show ",
    "ip route get ",
    "systemctl status ",
    "systemctl reload ",
];

/// Where the commands are listed that no test runs.
const LIST: &str = "CONTRIBUTING.md";
const BEGIN: &str = "<!-- commands that no test runs -->\n";
const END: &str = "<!-- end of the list -->";

fn shell_blocks() -> Result<Vec<Block>> {
    let mut all = Vec::new();
    for page in document::pages()? {
        all.extend(document::blocks(&page)?);
    }
    all.retain(|block| ["sh", "bash", "shell", "console"].contains(&block.language.as_str()));
    Ok(all)
}

/// The text of a program of tests.
fn program(name: &str) -> Result<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let file = folder.join(format!("{name}.rs"));
    if file.exists() {
        return Ok(std::fs::read_to_string(file)?);
    }
    let files = std::fs::read_dir(folder.join(name)).with_context(|| format!("no test {name}"))?;
    let texts = files.map(|file| Ok(std::fs::read_to_string(file?.path())?));
    Ok(texts.collect::<Result<Vec<_>>>()?.concat())
}

/// The list of what no test runs.
fn list(blocks: &[Block]) -> Result<String> {
    let mut rows = String::from("\n| document | begins with | needs |\n|---|---|---|\n");
    for block in blocks.iter().filter(|block| block.language != "console") {
        if let Runner::Elsewhere(needs) = block.runner()? {
            let first = block.commands().into_iter().next().unwrap_or_default();
            let first = first.lines().next().unwrap_or_default();
            let first = first.split("  ").next().unwrap_or_default();
            rows += &format!("| {} | `{first}` | {needs} |\n", block.page);
        }
    }
    Ok(rows + "\n")
}

#[test]
fn every_block_of_commands_is_run_or_listed() -> Result<()> {
    let blocks = shell_blocks()?;
    ensure!(blocks.len() > 35, "only {} blocks found", blocks.len());
    for block in &blocks {
        let Block { page, line, language, .. } = block;
        let place = format!("{page}:{line}");
        if language == "console" {
            ensure!(program("first_hour")?.contains(page), "{place}: nobody types this transcript");
            continue;
        }
        ensure!(language == "sh", "{place}: {language} is sh in all other documents");
        ensure!(!block.commands().is_empty(), "{place}: no command");
        match block.runner()? {
            Runner::Machine => {
                ensure!(ORDER.contains(&page.as_str()), "{place}: in what order is it typed?");
            }
            Runner::Program(name) => {
                ensure!(program(name)?.contains(page), "{place}: {name} does not know the page");
            }
            Runner::Elsewhere(needs) => ensure!(!needs.is_empty(), "{place}: what does it need?"),
        }
    }
    let text = document::read(LIST)?;
    let (before, rest) = text.split_once(BEGIN).context("no list")?;
    let (old, after) = rest.split_once(END).context("the list does not end")?;
    let new = list(&blocks)?;
    if std::env::var_os("UPDATE_EXAMPLE").is_some() {
        let text = format!("{before}{BEGIN}{new}{END}{after}");
        std::fs::write(document::project().join(LIST), text)?;
        return Ok(());
    }
    ensure!(old == new, "{LIST}: run the test with UPDATE_EXAMPLE=1\n{new}");
    Ok(())
}

/// What stands between backticks in sentences and begins as one of [`LOOKS`].
fn in_sentences(text: &str) -> Vec<String> {
    let mut sentences = String::new();
    let mut block = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            block = !block;
        } else if !block {
            sentences += line.trim();
            sentences.push(if line.trim().is_empty() { '\n' } else { ' ' });
        }
    }
    let spans = sentences.lines().flat_map(|part| part.split('`').skip(1).step_by(2));
    let looks = spans.filter(|span| LOOKS.iter().any(|begin| span.starts_with(begin)));
    looks.map(str::to_owned).collect()
}

#[test]
fn what_the_documents_type_works_on_a_machine() -> Result<()> {
    let Some(mut world) = World::new()? else { return Ok(()) };
    let (mut typed, mut looked) = (0, 0);
    for (index, page) in ORDER.into_iter().enumerate() {
        if index + 2 == ORDER.len() {
            for page in document::pages()? {
                for command in in_sentences(&document::read(&page)?) {
                    world.type_in(&page, &command)?;
                    looked += 1;
                }
            }
        }
        for block in document::blocks(page)?.iter().filter(|block| block.mark == "machine") {
            for command in block.commands() {
                world.type_in(&format!("{page}:{}", block.line), &command)?;
                typed += 1;
            }
        }
        if index == 0 {
            world.populate()?;
        }
    }
    println!("{typed} commands of blocks, {looked} within sentences");
    ensure!(typed > 35 && looked > 30, "{typed} of blocks, {looked} within sentences");
    // The same way, what is wrong is not taken.
    for wrong in ["calico-agent statsu", "journalctl --unti CALICO_EVENT=ready", "systemct status"]
    {
        ensure!(world.type_in("here", wrong).is_err(), "{wrong} was taken");
    }
    Ok(())
}
