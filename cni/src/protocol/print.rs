//! The answer on standard output: one write, so that a reader sees all of it or nothing.

use std::io::Write as _;
use std::process::ExitCode;

use serde_json::Value;

use super::invocation::stdin_of_process;
use super::{CniError, Code, Command, Invocation, Success, Version};

/// A whole plugin: reads what this process was told, answers VERSION itself, lets `run` do
/// anything else, and prints what it says, in the version that was asked for. Only ADD has a result.
///
/// If the answer to ADD may not get lost, `run` prints it itself ([`success`]) and gives back none.
pub fn serve(run: impl FnOnce(Invocation) -> Result<Option<Success>, CniError>) -> ExitCode {
    let stdin = match stdin_of_process() {
        Ok(stdin) => stdin,
        Err(error) => return failure(&error, Version::LATEST),
    };
    let version = Version::of_input(&stdin);
    let answer = Invocation::read(&|name| std::env::var_os(name), &stdin).and_then(|invocation| {
        if invocation.command == Command::Version {
            return print(&invocation.version_answer());
        }
        match run(invocation)? {
            Some(result) => success(&result, version),
            None => Ok(()),
        }
    });
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failure(&error, version),
    }
}

/// Prints a result.
///
/// # Errors
/// Code 5 when nobody reads it: the runtime will take the ADD for failed.
pub fn success(success: &Success, version: Version) -> Result<(), CniError> {
    print(&success.to_json(version))
}

/// Prints why a command failed, and gives the exit code: 1. When nobody reads it, nothing is lost:
/// the code says that it failed.
pub fn failure(error: &CniError, version: Version) -> ExitCode {
    let _ = print(&error.to_json(version));
    ExitCode::FAILURE
}

/// Prints a document and a line feed.
///
/// # Errors
/// Code 5 when nobody reads it.
pub fn print(document: &Value) -> Result<(), CniError> {
    let mut stdout = std::io::stdout().lock();
    let written =
        stdout.write_all(format!("{document}\n").as_bytes()).and_then(|()| stdout.flush());
    written
        .map_err(|error| CniError::new(Code::Io, "the answer cannot be written", error.to_string()))
}
