//! One call of the plugin.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::{IsTerminal as _, Read as _};
use std::net::IpAddr;
use std::path::PathBuf;

use calico_datastore::model::InterfaceName;
use serde_json::{Value, json};

use super::{Args, CniError, Code, NetConf, Success, Version};

/// The most that is read from standard input, bytes. A configuration with the result of an earlier
/// plugin has some kilobytes; the list of a GC has 100 bytes for each attachment.
pub const MAX_STDIN: usize = 4 << 20;

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect a container.
    Add,
    /// Disconnect it.
    Del,
    /// Is it as ADD left it?
    Check,
    /// Which versions are spoken?
    Version,
    /// Remove what belongs to no attachment of a list.
    Gc,
    /// Could an ADD be served?
    Status,
}

impl Command {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Add, Self::Del, Self::Check, Self::Version, Self::Gc, Self::Status];

    /// As `CNI_COMMAND` has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Version => "VERSION",
            Self::Gc => "GC",
            Self::Status => "STATUS",
        }
    }

    /// The version of the specification that brought it.
    fn since(self) -> Version {
        match self {
            // VERSION came with 0.2.0, but what it answers is needed to know who speaks that.
            Self::Add | Self::Del | Self::Version => Version::V0_1_0,
            Self::Check => Version::V0_4_0,
            Self::Gc | Self::Status => Version::V1_1_0,
        }
    }

    /// The variables that it cannot do without.
    fn needs(self) -> &'static [&'static str] {
        match self {
            Self::Add | Self::Check => &[CONTAINER_ID, NETNS, IFNAME],
            Self::Del => &[CONTAINER_ID, IFNAME],
            // The specification lists CNI_PATH for GC. Only who delegates needs it.
            Self::Version | Self::Gc | Self::Status => &[],
        }
    }
}

pub(crate) const COMMAND: &str = "CNI_COMMAND";
pub(crate) const CONTAINER_ID: &str = "CNI_CONTAINERID";
pub(crate) const NETNS: &str = "CNI_NETNS";
pub(crate) const IFNAME: &str = "CNI_IFNAME";
pub(crate) const PATH: &str = "CNI_PATH";
const ARGS: &str = "CNI_ARGS";

/// One call: environment and standard input.
#[derive(Clone)]
pub struct Invocation {
    /// `CNI_COMMAND`.
    pub command: Command,
    /// `CNI_CONTAINERID`; empty where the command needs none.
    pub container_id: String,
    /// `CNI_NETNS`; empty means gone.
    pub netns: Option<PathBuf>,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// `CNI_ARGS`.
    pub args: Args,
    /// `CNI_PATH`: where delegated plugins are looked for, in order; entries may be relative.
    pub path: Vec<PathBuf>,
    /// Standard input.
    pub conf: NetConf,
    /// Standard input, byte for byte.
    pub stdin: Vec<u8>,
}

impl fmt::Debug for Invocation {
    /// Without standard input: it may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invocation")
            .field("command", &self.command)
            .field("container_id", &self.container_id)
            .field("netns", &self.netns)
            .field("ifname", &self.ifname)
            .field("args", &self.args)
            .field("path", &self.path)
            .field("conf", &self.conf)
            .finish_non_exhaustive()
    }
}

/// Where the values of variables come from.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

impl Invocation {
    /// What this process was told.
    ///
    /// # Errors
    /// Codes 1, 2, 4, 5, 6, 7 of the specification, each naming the variable or the field.
    pub fn of_process() -> Result<Self, CniError> {
        Self::read(&|name| std::env::var_os(name), &stdin_of_process()?)
    }

    /// What an environment and a standard input tell.
    ///
    /// DEL overlooks what it does not need: it is sent once, and what it does not clean is lost.
    ///
    /// # Errors
    /// Code 4 for variables: all that are missing are named together, and so are all that are
    /// wrong. Codes 1, 2, 6 and 7 for the configuration, as [`NetConf::parse`] has them, for DEL only
    /// 1 and 6; also code 1 for a command that its version does not have.
    pub fn read(env: Env<'_>, stdin: &[u8]) -> Result<Self, CniError> {
        let env = Environment::read(env)?;
        let command = env.command;
        if command == Command::Version {
            return Ok(env.with(NetConf::of_version(stdin), Args::default(), stdin));
        }
        let args = match Args::parse(&env.args) {
            Ok(args) => args,
            Err(_) if command == Command::Del => Args::default(),
            Err(error) => return Err(error),
        };
        let conf = match NetConf::parse(stdin) {
            Err(_) if command == Command::Del => NetConf::of_del(stdin)?,
            conf => conf?,
        };
        check(command, &conf)?;
        Ok(env.with(conf, args, stdin))
    }

    /// The addresses that the pod is to have: those of the configuration (`runtimeConfig`, else
    /// `args`), and only if there are none those of `CNI_ARGS`, as the specification wants it.
    pub fn requested_ips(&self) -> &[IpAddr] {
        if self.conf.ips.is_empty() { &self.args.ips } else { &self.conf.ips }
    }

    /// The labels of the endpoint. What the configuration says cannot be changed by `CNI_ARGS`.
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.args.labels.clone();
        labels.extend(self.conf.labels.clone());
        labels
    }

    /// What VERSION answers: the version asked for, as it is, and those that are spoken.
    pub fn version_answer(&self) -> Value {
        let asked = self.conf.document.get("cniVersion").and_then(Value::as_str);
        let asked = asked.filter(|version| !version.is_empty());
        json!({
            "cniVersion": asked.unwrap_or(Version::LATEST.as_str()),
            "supportedVersions": Version::ALL.map(Version::as_str),
        })
    }
}

/// What a command wants of its configuration beyond that it can be read.
fn check(command: Command, conf: &NetConf) -> Result<(), CniError> {
    let invalid = |msg: String, details: &str| CniError::new(Code::InvalidConfig, msg, details);
    let (name, since) = (command.as_str(), command.since());
    if conf.version < since {
        return Err(CniError::new(
            Code::IncompatibleVersion,
            format!("cniVersion {} has no {name}", conf.version),
            format!("{name} came with {since}"),
        ));
    }
    if command == Command::Check && conf.previous.is_none() {
        return Err(match conf.document.get("prevResult").filter(|value| !value.is_null()) {
            None => invalid(
                "\"prevResult\" is missing".to_owned(),
                "CHECK compares what is there with what ADD answered",
            ),
            Some(value) => match Success::from_previous(value) {
                Err(error) => error.into(),
                Ok(_) => invalid("\"prevResult\" cannot be used".to_owned(), ""),
            },
        });
    }
    if command == Command::Gc && conf.valid_attachments.is_none() {
        return Err(invalid(
            "\"cni.dev/valid-attachments\" is missing".to_owned(),
            "without the list everything would be removed; an empty list says that nothing is valid",
        ));
    }
    Ok(())
}

/// The variables, checked.
struct Environment {
    command: Command,
    container_id: String,
    netns: String,
    ifname: String,
    args: String,
    path: OsString,
}

impl Environment {
    fn read(env: Env<'_>) -> Result<Self, CniError> {
        let mut wrong = vec![];
        let mut text = |name: &'static str| match env(name).map(OsString::into_string) {
            None => String::new(),
            Some(Ok(text)) => text,
            Some(Err(bytes)) => {
                wrong.push((name, format!("{bytes:?} is not UTF-8")));
                String::new()
            }
        };
        let word = text(COMMAND);
        let fields = [CONTAINER_ID, NETNS, IFNAME, ARGS].map(&mut text);
        let command = Command::ALL.into_iter().find(|command| command.as_str() == word);
        let command = match command {
            Some(command) => command,
            None if word.is_empty() && wrong.is_empty() => return Err(missing(&[COMMAND], "")),
            None => {
                wrong.retain(|(name, _)| *name == COMMAND);
                if wrong.is_empty() {
                    let commands = Command::ALL.map(Command::as_str).join(", ");
                    wrong.push((COMMAND, format!("{word:?} is none of {commands}")));
                }
                return Err(invalid(&wrong));
            }
        };
        let [container_id, netns, ifname, args] = fields;
        // What a command does not need may be anything.
        let adds = matches!(command, Command::Add | Command::Check);
        wrong.retain(|(name, _)| command.needs().contains(name) || (adds && *name == ARGS));
        if command.needs().contains(&CONTAINER_ID)
            && !container_id.is_empty()
            && !is_identifier(&container_id)
        {
            wrong.push((CONTAINER_ID, format!("{container_id:?} is not {IDENTIFIER}")));
        }
        if command.needs().contains(&IFNAME)
            && !ifname.is_empty()
            && let Err(error) = ifname.parse::<InterfaceName>()
        {
            wrong.push((IFNAME, error.to_string()));
        }
        let values = [(CONTAINER_ID, &container_id), (NETNS, &netns), (IFNAME, &ifname)];
        let absent = values.iter().filter(|(name, value)| {
            command.needs().contains(name)
                && value.is_empty()
                && wrong.iter().all(|(other, _)| other != name)
        });
        let absent: Vec<_> = absent.map(|(name, _)| *name).collect();
        if !absent.is_empty() {
            return Err(missing(&absent, command.as_str()));
        }
        if !wrong.is_empty() {
            return Err(invalid(&wrong));
        }
        let path = env(PATH).unwrap_or_default();
        Ok(Self { command, container_id, netns, ifname, args, path })
    }

    fn with(self, conf: NetConf, args: Args, stdin: &[u8]) -> Invocation {
        let path = std::env::split_paths(&self.path).filter(|dir| !dir.as_os_str().is_empty());
        Invocation {
            command: self.command,
            container_id: self.container_id,
            netns: Some(self.netns).filter(|netns| !netns.is_empty()).map(PathBuf::from),
            ifname: self.ifname,
            args,
            path: path.collect(),
            conf,
            stdin: stdin.to_vec(),
        }
    }
}

fn missing(names: &[&str], command: &str) -> CniError {
    let (are, why) = match command {
        "" => ("is", "a CNI runtime sets it".to_owned()),
        command if names.len() == 1 => ("is", format!("{command} needs it")),
        command => ("are", format!("{command} needs them")),
    };
    let msg = format!("{} {are} missing", names.join(", "));
    CniError::new(Code::InvalidEnvironment, msg, why)
}

fn invalid(wrong: &[(&str, String)]) -> CniError {
    let names: Vec<_> = wrong.iter().map(|(name, _)| *name).collect();
    let are = if names.len() == 1 { "is" } else { "are" };
    let reasons: Vec<_> = wrong.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    let msg = format!("{} {are} not valid", names.join(", "));
    CniError::new(Code::InvalidEnvironment, msg, reasons.join("; "))
}

/// What names of containers and of networks look like.
pub(super) const IDENTIFIER: &str =
    "a letter or digit, and then letters, digits, _ . - (of ASCII) only";

/// See [`IDENTIFIER`].
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Standard input, whole; nothing when somebody sits there.
pub(super) fn stdin_of_process() -> Result<Vec<u8>, CniError> {
    let io = |details: String| {
        CniError::new(Code::Io, "standard input cannot be read to its end", details)
    };
    let stdin = std::io::stdin();
    let mut bytes = vec![];
    if stdin.is_terminal() {
        return Ok(bytes);
    }
    let most = u64::try_from(MAX_STDIN).unwrap_or(u64::MAX);
    let mut stdin = stdin.lock().take(most.saturating_add(1));
    stdin.read_to_end(&mut bytes).map_err(|error| io(error.to_string()))?;
    if bytes.len() > MAX_STDIN {
        return Err(io(format!("it has more than {MAX_STDIN} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests;
