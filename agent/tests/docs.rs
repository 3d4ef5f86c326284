//! The documents say what the code does.

use std::path::Path;

use calico_agent::cli::{Cli, exit};
use calico_agent::config::UNSUPPORTED;

fn document(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name);
    assert!(path.exists(), "{} is not there", path.display());
    std::fs::read_to_string(&path).unwrap_or_default()
}

#[test]
fn architecture_lists_every_parameter_without_effect_and_why() {
    let text = document("ARCHITECTURE.md");
    let rows: Vec<&str> = text.lines().filter(|line| line.starts_with("| ")).collect();
    for (name, reason) in UNSUPPORTED {
        let quoted = format!("`{name}`");
        assert!(
            rows.iter().any(|row| row.contains(&quoted) && row.contains(reason)),
            "{name}: {reason}"
        );
    }
    let listed = rows.iter().filter(|row| row.contains("`")).count();
    assert!(listed > 0);
}

#[test]
fn the_page_about_explain_names_every_option_and_exit_code() {
    let text = document("docs/explain.md");
    let command = <Cli as clap::CommandFactory>::command();
    let explain = command.find_subcommand("explain");
    let options = explain.into_iter().flat_map(|explain| explain.get_arguments());
    let options: Vec<_> = options.filter_map(|option| option.get_long()).collect();
    assert!(options.len() > 15, "{options:?}");
    for option in options {
        assert!(text.contains(&format!("`--{option}`")), "--{option}");
    }
    for code in [exit::DENIED, exit::UNKNOWN, exit::FAILURE, exit::NOT_RUNNING, exit::USAGE] {
        let (_, codes) = text.split_once("The exit code:").unwrap_or_default();
        let codes = codes.split("\n\n").next().unwrap_or_default().replace('\n', " ");
        assert!(codes.contains(&format!("; {code} ")), "{code} in {codes}");
    }
}

#[test]
fn every_path_that_a_document_links_to_exists() {
    let pages = [
        "docs/beside.md",
        "docs/counters.md",
        "docs/explain.md",
        "docs/host-endpoints.md",
        "docs/nftables.md",
        "docs/performance.md",
        "docs/rkt.md",
        "docs/cni.md",
    ];
    for name in ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"].into_iter().chain(pages) {
        let text = document(name);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if !link.contains("://") && !link.starts_with('#') {
                let beside = Path::new(name).with_file_name(link.split('#').next().unwrap_or(link));
                document(&beside.to_string_lossy());
            }
        }
    }
}
