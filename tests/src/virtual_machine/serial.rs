//! A shell on the machine's second serial line: the network is what is tested, so it is not used to ask.
//!
//! One line for each script (`number seconds script`), and one for what became of it (`= number status out
//! err`), the texts in base64. What else is on the line is nobody's.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::process::Output;
use crate::{run, wait};

/// What serves it inside.
pub(super) const PROGRAM: &str = r#"#!/bin/bash
exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo 115200
answer=$(mktemp -d /run/control.XXXXXX)
while true; do
    read -r -u 3 number seconds script || { sleep 0.1; continue; }
    [ -n "$script" ] || continue
    timeout -k 2 "$seconds" bash -c "$(base64 -d <<<"$script")" >"$answer/out" 2>"$answer/err" </dev/null 3>&-
    status=$?
    printf '= %s %s o%s e%s\n' "$number" "$status" "$(base64 -w0 "$answer/out")" "$(base64 -w0 "$answer/err")" >&3
done
"#;

/// The unit that runs it: from early on, whatever the boot waits for.
pub(super) const UNIT: &str = "\
[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service systemd-tmpfiles-setup.service
[Service]
ExecStart=/usr/local/sbin/control
Environment=HOME=/root
Restart=always
OOMScoreAdjust=-1000
[Install]
WantedBy=sysinit.target
";

/// How long an answer may be on its way, beyond the time of the script itself.
const GRACE: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Serial {
    stream: UnixStream,
    read: Vec<u8>,
    last: u64,
}

impl Serial {
    /// Waits until the shell inside answers.
    pub(super) fn connect(socket: &Path, limit: Duration) -> Result<Self> {
        let end = Instant::now() + limit;
        let stream = wait::until("qemu", Duration::from_secs(10), || {
            Ok(Some(UnixStream::connect(socket)?))
        })?;
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        let mut serial = Self { stream, read: Vec::new(), last: 0 };
        // What is said before somebody listens may be lost, or answered later.
        while serial.ask("true", Duration::from_secs(2), Duration::from_secs(2))?.is_none() {
            if Instant::now() > end {
                bail!("no shell within {limit:?}");
            }
        }
        Ok(serial)
    }

    /// Runs a script of at most `limit`.
    pub(super) fn call(&mut self, script: &str, limit: Duration) -> Result<Output> {
        let said = self.ask(script, limit, limit + GRACE)?;
        said.with_context(|| format!("no answer within {:?}: {script}", limit + GRACE))
    }

    fn ask(&mut self, script: &str, limit: Duration, patience: Duration) -> Result<Option<Output>> {
        self.last += 1;
        let (number, seconds) = (self.last, limit.as_secs().max(1));
        let line = format!("{number} {seconds} {}\n", STANDARD.encode(script));
        self.stream.write_all(line.as_bytes()).context("qemu has ended")?;
        let end = Instant::now() + patience;
        while Instant::now() < end {
            while let Some(line) = self.line()? {
                if let Some(output) = understand(&line, number) {
                    return Ok(Some(output));
                }
            }
        }
        Ok(None)
    }

    /// The next line, as soon as all of it is there.
    fn line(&mut self) -> Result<Option<String>> {
        if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.read.drain(..=end).collect();
            return Ok(Some(String::from_utf8_lossy(&line).trim().to_owned()));
        }
        run::stop_if_interrupted();
        let mut part = [0; 4096];
        match self.stream.read(&mut part) {
            Ok(0) => bail!("qemu has ended"),
            Ok(count) => self.read.extend_from_slice(&part[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(error).context("qemu has ended"),
        }
        Ok(None)
    }
}

/// The answer to that number, if the line is one.
fn understand(line: &str, number: u64) -> Option<Output> {
    let mut words = line.split(' ').skip_while(|word| *word != "=").skip(1);
    let own = words.next()?.parse::<u64>().ok() == Some(number);
    let status: i32 = words.next()?.parse().ok()?;
    let mut text = |prefix: char| {
        let bytes = STANDARD.decode(words.next()?.strip_prefix(prefix)?).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stdout, stderr) = (text('o')?, text('e')?);
    own.then(|| Output { status: ExitStatus::from_raw(status << 8), stdout, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_answer_to_the_right_question_is_one() {
        let said = understand("= 7 3 oaGk= e", 7).unwrap();
        assert_eq!(
            (said.status.code(), said.stdout.as_str(), said.stderr.as_str()),
            (Some(3), "hi", "")
        );
        assert!(understand("= 6 0 o e", 7).is_none());
        assert!(understand("= 7 0 oaGk=", 7).is_none());
        assert!(understand("7 30 dHJ1ZQ==", 7).is_none());
    }
}
