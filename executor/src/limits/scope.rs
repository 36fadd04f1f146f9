//! A part of the control groups for an ordinary user, requested from the service manager.
//!
//! A login gives each session a group that the user may not divide. The user's own systemd has a group that
//! it may divide. It delegates a part of that group: it puts this process into a transient scope with
//! delegation, as `systemd-run --user --scope` does. The scope ends with its last process.
//! <https://systemd.io/CGROUP_DELEGATION/>

use std::thread;
use std::time::Duration;

use zbus::export::ordered_stream::OrderedStreamExt;
use zbus::message::Type;
use zbus::{Connection, MatchRule, MessageStream, OwnedObjectPath, Variant};

const SERVICE: &str = "org.freedesktop.systemd1";
const OBJECT: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";

/// How long the service manager may take. It needs milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why there is no scope.
#[derive(Debug, thiserror::Error)]
pub(super) enum ScopeError {
    #[error("the service manager cannot be asked")]
    Bus(#[from] zbus::Error),
    #[error("the service manager does not answer within {} s", PATIENCE.as_secs())]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("the service manager did not start the scope: {0}")]
    Refused(String),
    #[error("cannot wait for the service manager")]
    Runtime(#[from] std::io::Error),
}

/// Moves this process into a scope of its own, and waits until it is there.
pub(super) fn enter() -> Result<(), ScopeError> {
    let thread = thread::Builder::new().name("service-manager".into());
    let asking = thread.spawn(|| {
        // The caller may be in a runtime of its own, which nobody may block.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async { tokio::time::timeout(PATIENCE, ask()).await? })
    })?;
    asking.join().expect("asking does not panic")
}

async fn ask() -> Result<(), ScopeError> {
    let connection = Connection::session().await?;
    let ends = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender(SERVICE)
        .interface(MANAGER)
        .member("JobRemoved")
        .build()?;
    // Before the job, which may be done at once.
    let mut ends = MessageStream::for_match_rule(ends, &connection, None).await?;
    let process = std::process::id();
    let properties: Vec<(&str, Variant<'_>)> = vec![
        ("Description", "A program that ipfs-exec runs".into()),
        ("PIDs", vec![process].into()),
        ("Delegate", true.into()),
        // The limits are those of the run.
        ("TasksMax", u64::MAX.into()),
        ("CollectMode", "inactive-or-failed".into()),
    ];
    let others: Vec<(&str, Vec<(&str, Variant<'_>)>)> = Vec::new();
    let name = format!("ipfs-exec-{process}.scope");
    let body = (name, "fail", properties, others);
    let (service, manager) = (Some(SERVICE), Some(MANAGER));
    let started = connection.call_method(service, OBJECT, manager, "StartTransientUnit", &body);
    let job: OwnedObjectPath = started.await?.body().deserialize()?;
    loop {
        let Some(message) = ends.next().await else {
            return Err(ScopeError::Refused("it hung up".into()));
        };
        let body = message?.body();
        let (_, ended, _, result): (u32, OwnedObjectPath, String, String) = body.deserialize()?;
        if ended == job {
            return match result.as_str() {
                "done" => Ok(()),
                _ => Err(ScopeError::Refused(result)),
            };
        }
    }
}
