//! `addgroup`, `addtogroup`, `showgroups`: groups of pods that reach each other and send anywhere, as
//! in calicoctl 0.0.6. A group is a profile of the same name, the one that a network of that name
//! would have; its members are the endpoints that list it.

mod members;

use calico_datastore::location::{Location, OpenError};
use calico_datastore::model::Name;
use calico_datastore::store::AnyStore;
use clap::Args;

pub use members::{GroupError, Joined, create, join, names};

use crate::cli::exit;
use crate::node::name::{self, NameError};
use crate::startup::{Startup, StartupError};
use crate::telemetry;
use crate::terminal::{self, complain, say, small_runtime};
use crate::verbs::place::PlaceArgs;

/// `calico-agent addgroup`.
#[derive(Clone, Debug, Args)]
pub struct AddGroupArgs {
    /// What the group is called.
    #[arg(value_name = "GROUP")]
    pub group: String,
    /// Where the datastore is.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `calico-agent addtogroup`.
#[derive(Clone, Debug, Args)]
pub struct AddToGroupArgs {
    /// A pod of this host: its id (of rkt: the UUID), or the beginning of it, or its endpoint as
    /// `status` shows it.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// An existing group.
    #[arg(value_name = "GROUP")]
    pub group: String,
    /// Which of its interfaces [default: the first].
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Where the datastore is.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// `calico-agent showgroups`.
#[derive(Clone, Debug, Args)]
pub struct ShowGroupsArgs {
    /// Where the datastore is.
    #[command(flatten)]
    pub place: PlaceArgs,
}

/// The datastore cannot be asked.
#[derive(Debug, thiserror::Error)]
enum StoreProblem {
    #[error(transparent)]
    Startup(StartupError),
    #[error("cannot use the datastore configuration")]
    Open(#[source] OpenError),
    #[error("cannot tell this host's name")]
    Name(#[source] NameError),
    #[error(
        "groups are not written to etcd's v2 API: `calicoctl profile add` of the calicoctl that \
         came with Calico 2.6 or older does it"
    )]
    Version2,
}

/// Makes a group.
pub fn add(args: &AddGroupArgs) -> u8 {
    let group = Name::from(args.group.as_str());
    asked(&args.place, async |store, _| {
        Ok(match create(&store, &group).await? {
            true => format!("created the group {group}\n"),
            false => format!("the group {group} exists already\n"),
        })
    })
}

/// Makes a pod a member of a group.
pub fn add_to(args: &AddToGroupArgs) -> u8 {
    let group = Name::from(args.group.as_str());
    let interface = args.interface.as_deref();
    asked(&args.place, async |store, node| {
        let Joined { endpoint, already } =
            join(&store, &node, &args.container, interface, &group).await?;
        Ok(match already {
            false => format!("added {endpoint} to the group {group}\n"),
            true => format!("{endpoint} is in the group {group} already\n"),
        })
    })
}

/// Lists the groups.
pub fn show(args: &ShowGroupsArgs) -> u8 {
    asked(&args.place, async |store, _| {
        Ok(names(&store).await?.iter().map(|name| format!("{name}\n")).collect())
    })
}

/// Opens the datastore, does it and prints the answer.
fn asked(
    place: &PlaceArgs,
    ask: impl AsyncFnOnce(AnyStore, Name) -> Result<String, GroupError>,
) -> u8 {
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let answer = runtime.block_on(async {
        let (store, node) = open(place).map_err(|error| telemetry::chain(&error))?;
        ask(store, node).await.map_err(|error| telemetry::chain(&error))
    });
    // A name that is being looked up would be waited for otherwise.
    runtime.shutdown_background();
    match answer {
        Ok(text) => {
            say(&text);
            exit::OK
        }
        Err(error) => {
            complain(&error);
            exit::FAILURE
        }
    }
}

fn open(place: &PlaceArgs) -> Result<(AnyStore, Name), StoreProblem> {
    let run = place.run();
    let env = terminal::environment(&run.paths());
    let Startup { paths, local, .. } = Startup::read(&run, env).map_err(StoreProblem::Startup)?;
    let location = local.datastore.clone().below(&paths.state_dir);
    if let Location::Etcd2(_) = location {
        return Err(StoreProblem::Version2);
    }
    let (node, _) = name::determine(&local.node, &paths.nodename()).map_err(StoreProblem::Name)?;
    Ok((location.open().map_err(StoreProblem::Open)?, node))
}
