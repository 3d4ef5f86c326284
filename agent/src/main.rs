//! `calico-agent`: reads the command line and runs what it asks for.

use std::process::ExitCode;

use calico_agent::api::{client, table};
use calico_agent::check;
use calico_agent::check::finding::{self, Level};
use calico_agent::cli::{
    CheckArgs, Cli, Command, DeniedArgs, ExplainArgs, GraphFormat, Output, PlanArgs, ResetArgs,
    RunArgs, StatusArgs, exit,
};
use calico_agent::config::Env;
use calico_agent::daemon::{self, Options};
use calico_agent::denied::Denied;
use calico_agent::explain::document::Outcome;
use calico_agent::explain::offline::{Changes, Read};
use calico_agent::explain::{self, Question};
use calico_agent::preview;
use calico_agent::reset;
use calico_agent::startup::Startup;
use calico_agent::status::document::Overall;
use calico_agent::telemetry;
use calico_agent::terminal::{self, complain, heard, say, small_runtime};
use calico_agent::verbs;
use clap::Parser;
use serde::Serialize;

fn main() -> ExitCode {
    let code = match Cli::try_parse() {
        Ok(Cli { command }) => match command {
            Command::Run(args) => run(&args),
            Command::Status(args) => status(&args),
            Command::Check(args) => check(&args),
            Command::Plan(args) => plan(&args),
            Command::Explain(args) => explain(&args),
            Command::Denied(args) => denied(&args),
            Command::Reset(args) => reset(&args),
            Command::Node(args) => verbs::node::main(&args),
            Command::AddGroup(args) => verbs::group::add(&args),
            Command::AddToGroup(args) => verbs::group::add_to(&args),
            Command::ShowGroups(args) => verbs::group::show(&args),
            Command::Master(args) => verbs::master::main(&args),
            Command::Diags(args) => verbs::diags::main(&args),
            Command::LogLevel(args) => verbs::log_level::main(&args),
            Command::Reload(args) => verbs::reload::main(&args),
            Command::Version(_) => {
                say(concat!("calico-agent ", env!("CARGO_PKG_VERSION"), "\n"));
                exit::OK
            }
        },
        Err(error) => {
            // Help and version are answers, and go to standard output.
            let _ = error.print();
            if error.use_stderr() { exit::USAGE } else { exit::OK }
        }
    };
    ExitCode::from(code)
}

fn run(args: &RunArgs) -> u8 {
    let prepared = (|| -> anyhow::Result<_> {
        let Startup { paths, flags, local, layers } = Startup::read(args, Env::of_process())?;
        let level = layers.resolve(None, None, None).settings.log_level;
        let logs = telemetry::init(&layers.env, &level)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("calico-agent")
            .enable_all()
            .build()?;
        Ok((runtime, Options { paths, flags, local, layers, logs }))
    })();
    match prepared {
        Ok((runtime, options)) => {
            let result = runtime.block_on(daemon::run(options));
            // A name that is being looked up would be waited for otherwise.
            runtime.shutdown_background();
            match result {
                Ok(()) => exit::OK,
                Err(error) => {
                    tracing::error!("{}", telemetry::chain(&error));
                    exit::FAILURE
                }
            }
        }
        Err(error) => {
            complain(&format!("{error:#}"));
            exit::FAILURE
        }
    }
}

fn status(args: &StatusArgs) -> u8 {
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let status = match runtime.block_on(client::status(&args.agent.socket())) {
        Ok(status) => status,
        Err(error) => {
            complain(&telemetry::chain(&error));
            return match error {
                client::ClientError::Connect { .. } => exit::NOT_RUNNING,
                _ => exit::FAILURE,
            };
        }
    };
    if !answer_with(args.output, &status, table::render) {
        return exit::FAILURE;
    }
    let uses = status.datastore.location.as_deref().unwrap_or_default();
    if let Some(etcd) =
        args.etcd.as_deref().filter(|etcd| etcd.split(',').all(|url| !uses.contains(url)))
    {
        complain(&format!("this agent does not use {etcd}, but: {uses}"));
    }
    match status.state {
        Overall::Ready => exit::OK,
        Overall::Starting | Overall::Degraded => exit::DEGRADED,
    }
}

fn check(args: &CheckArgs) -> u8 {
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let env = terminal::environment(&args.run.paths());
    let found = runtime.block_on(check::check(&args.run, env));
    // A trial that hangs would be waited for otherwise.
    runtime.shutdown_background();
    if !answer_with(args.output, &found, |found| finding::render(found)) {
        return exit::FAILURE;
    }
    match finding::worst(&found) {
        Level::Ok | Level::Warn => exit::OK,
        Level::Fail => exit::FAILURE,
    }
}

fn plan(args: &PlanArgs) -> u8 {
    let env = terminal::environment(&args.run.paths());
    let startup = match Startup::read(&args.run, env) {
        Ok(startup) => startup,
        Err(error) => {
            complain(&error.to_string());
            return exit::FAILURE;
        }
    };
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let made = runtime.block_on(preview::preview(startup));
    runtime.shutdown_background();
    let plan = match made {
        Ok(plan) => plan,
        Err(error) => {
            complain(&telemetry::chain(&error));
            return exit::FAILURE;
        }
    };
    if !answer_with(args.output, &plan, preview::render::render) {
        return exit::FAILURE;
    }
    if plan.is_empty() { exit::OK } else { exit::CHANGES }
}

fn denied(args: &DeniedArgs) -> u8 {
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let wanted = |denied: &Denied| {
        let Some(text) = &args.endpoint else { return true };
        let names = [&denied.endpoint, &denied.interface];
        names.into_iter().flatten().any(|name| name.contains(text))
    };
    let told = runtime.block_on(client::denied(&args.agent.socket(), args.follow, |denied| {
        if !wanted(&denied) {
            return true;
        }
        match args.output {
            Output::Table => heard(&format!("{} {denied}\n", denied.time)),
            Output::Json => serde_json::to_string(&denied).is_ok_and(|text| heard(&(text + "\n"))),
        }
    }));
    match told {
        Ok(false) if args.follow => {
            complain("the agent tells no more: `calico-agent denied` says why");
            exit::FAILURE
        }
        Ok(_) => exit::OK,
        Err(error) => {
            complain(&telemetry::chain(&error));
            match error {
                client::ClientError::Connect { .. } => exit::NOT_RUNNING,
                _ => exit::FAILURE,
            }
        }
    }
}

fn explain(args: &ExplainArgs) -> u8 {
    let question = args.question();
    let about = args.graph.is_none() || question.protocol.is_some() || question.port.is_some();
    if let (true, Err(error)) = (about, question.packet()) {
        complain(&error.to_string());
        return exit::USAGE;
    }
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let code = runtime.block_on(explained(args, &question));
    runtime.shutdown_background();
    code.unwrap_or_else(|code| code)
}

/// The exit code, of success or of failure.
async fn explained(args: &ExplainArgs, question: &Question) -> Result<u8, u8> {
    let socket = args.run().paths().api_socket();
    if let Some(format) = args.graph {
        let graph = if args.is_offline() {
            offline(args).await?.graph(question).await.map_err(|error| failed(&error))?
        } else {
            client::graph(&socket, question).await.map_err(|error| unanswered(&error))?
        };
        let text = match format {
            GraphFormat::Dot => explain::graph::dot::render,
            GraphFormat::Svg => explain::graph::svg::render,
            GraphFormat::Json => {
                let well = answer_with(Output::Json, &graph, |_| String::new());
                return if well { Ok(exit::OK) } else { Err(exit::FAILURE) };
            }
        };
        say(&text(&graph));
        return Ok(exit::OK);
    }
    let explanation = if args.is_offline() {
        offline(args).await?.explain(question).await.map_err(|error| failed(&error))?
    } else {
        client::explain(&socket, question).await.map_err(|error| unanswered(&error))?
    };
    let output = if args.json { Output::Json } else { args.output };
    if !answer_with(output, &explanation, explain::render::render) {
        return Err(exit::FAILURE);
    }
    Ok(match explanation.outcome() {
        Outcome::Allowed | Outcome::Unpoliced => exit::OK,
        Outcome::Denied => exit::DENIED,
        Outcome::Unknown => exit::UNKNOWN,
    })
}

/// Reads the datastore that the host is told to use.
async fn offline(args: &ExplainArgs) -> Result<Read, u8> {
    let run = args.run();
    let env = terminal::environment(&run.paths());
    let startup = Startup::read(&run, env).map_err(|error| failed(&error))?;
    let changes = Changes { with: args.with.clone(), without: args.without.clone() };
    explain::offline::read(startup, &changes).await.map_err(|error| failed(&error))
}

fn failed(error: &(dyn std::error::Error + 'static)) -> u8 {
    complain(&telemetry::chain(error));
    exit::FAILURE
}

fn unanswered(error: &client::ClientError) -> u8 {
    complain(&telemetry::chain(error));
    match error {
        client::ClientError::Connect { .. } => {
            complain("--offline answers from the datastore, without an agent");
            exit::NOT_RUNNING
        }
        _ => exit::FAILURE,
    }
}

fn reset(args: &ResetArgs) -> u8 {
    let Some(runtime) = small_runtime() else { return exit::FAILURE };
    let env = terminal::environment(&args.paths());
    let done = match runtime.block_on(reset::reset(args, env)) {
        Ok(done) => done,
        Err(error) => {
            complain(&telemetry::chain(&error));
            return if error.is_running() { exit::RUNNING } else { exit::FAILURE };
        }
    };
    say(&done.text(args.dry_run));
    for note in &done.notes {
        complain(note);
    }
    for problem in &done.left {
        complain(&format!("{}: {}", problem.subject, problem.message));
    }
    if done.left.is_empty() { exit::OK } else { exit::FAILURE }
}

/// Prints it as asked; false when that cannot be done.
fn answer_with<T: Serialize>(output: Output, value: &T, table: impl Fn(&T) -> String) -> bool {
    match output {
        Output::Table => say(&table(value)),
        Output::Json => match serde_json::to_string_pretty(value) {
            Ok(text) => say(&(text + "\n")),
            Err(error) => {
                complain(&error.to_string());
                return false;
            }
        },
    }
    true
}
