//! The part that a run is in, and the time that it may still take.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

use serde::Serialize;

use super::error::RunError;
use crate::limits::{Limit, Limits};

/// A part of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Part {
    /// The content of root file system and input is looked up or imported, before
    /// [`Run::execute`](super::Run::execute).
    Content,
    /// The root file system is fetched and unpacked.
    RootFileSystem,
    /// The input is looked for, or copied.
    Input,
    /// The program runs.
    Program,
    /// The output is imported.
    Output,
}

impl fmt::Display for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Part::Content => "it looked for its content",
            Part::RootFileSystem => "it prepared the root file system",
            Part::Input => "it prepared the input",
            Part::Program => "the program ran",
            Part::Output => "it imported the output",
        })
    }
}

/// The parts of a run, and the time that each may take.
#[derive(Debug)]
pub(super) struct Clock {
    timeout: Option<Duration>,
    total_timeout: Option<Duration>,
    total_deadline: Option<Instant>,
    part: Cell<Part>,
    /// End of the time of the program, which the import of its output shares. Known after the program's end.
    output_deadline: Cell<Option<Instant>>,
}

impl Clock {
    /// Starts with the root file system. The total time counts from the start that `limits` name.
    pub(super) fn start(limits: &Limits) -> Clock {
        Clock {
            timeout: limits.timeout,
            total_timeout: limits.total_timeout,
            total_deadline: limits.total_deadline(),
            part: Cell::new(Part::RootFileSystem),
            output_deadline: Cell::new(None),
        }
    }

    pub(super) fn enter(&self, part: Part) {
        self.part.set(part);
    }

    /// The program has ended after `wall_seconds`; the rest of its time is for the import of its output.
    pub(super) fn program_ended(&self, wall_seconds: f64) {
        let wall = Duration::from_secs_f64(wall_seconds);
        let left = self.timeout.map(|timeout| timeout.saturating_sub(wall));
        let deadline = left.and_then(|left| Instant::now().checked_add(left));
        self.output_deadline.set(deadline);
    }

    pub(super) fn total_deadline(&self) -> Option<Instant> {
        self.total_deadline
    }

    pub(super) fn output_deadline(&self) -> Option<Instant> {
        self.output_deadline.get()
    }

    pub(super) fn is_over(&self) -> bool {
        has_passed(self.total_deadline)
    }

    /// The error in place of `error`, if that one came because time is over: steps then fail in many ways.
    pub(super) fn out_of_time(&self, error: &RunError) -> Option<RunError> {
        let total = self.total_timeout.filter(|_| self.is_over());
        // The program may have hit another limit before.
        let (limit, allowed) = if let Some(allowed) = total.filter(|_| !error.is_program_limit()) {
            (Limit::TotalTimeout, allowed)
        } else {
            let is_late = has_passed(self.output_deadline.get()) && error.is_import_deadline();
            (Limit::Timeout, self.timeout.filter(|_| is_late)?)
        };
        Some(RunError::OutOfTime {
            limit,
            allowed,
            part: self.part.get(),
        })
    }
}

fn has_passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}
