//! Worker threads for jobs that must not run in the swarm's task: hashing, and reading from disk.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crossbeam_channel::{Receiver, Sender, unbounded};

type Job = Box<dyn FnOnce() + Send>;

/// A few threads, started when the first job comes and ended when the last handle is dropped.
///
/// The queue has no bound of its own: who submits holds a share of a budget for each job.
#[derive(Clone)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    count: usize,
    queue: Mutex<Option<Sender<Job>>>,
}

impl Workers {
    pub(crate) fn new(name: &'static str, count: usize) -> Workers {
        Workers {
            shared: Arc::new(Shared {
                name,
                count,
                queue: Mutex::new(None),
            }),
        }
    }

    /// Runs `job` on one of the threads. Where none can be started, the caller runs it: slower,
    /// but nothing is lost.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        let queue = self.queue();
        let refused = match queue {
            Some(queue) => queue.send(Box::new(job)).err().map(|refused| refused.0),
            None => Some(Box::new(job) as Job),
        };
        if let Some(job) = refused {
            job();
        }
    }

    fn queue(&self) -> Option<Sender<Job>> {
        let mut queue = self
            .shared
            .queue
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if queue.is_none() {
            *queue = self.start();
        }
        queue.clone()
    }

    fn start(&self) -> Option<Sender<Job>> {
        let (sender, receiver) = unbounded();
        let started = (0..self.shared.count)
            .filter(|_| start_one(self.shared.name, receiver.clone()))
            .count();
        (started > 0).then_some(sender)
    }
}

fn start_one(name: &str, jobs: Receiver<Job>) -> bool {
    let work = move || {
        for job in jobs {
            job();
        }
    };
    match thread::Builder::new().name(name.to_owned()).spawn(work) {
        Ok(_) => true,
        Err(error) => {
            tracing::debug!(%error, name, "cannot start a worker thread");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_elsewhere_and_threads_end() {
        let workers = Workers::new("test", 2);
        let (sender, receiver) = unbounded();
        for _ in 0..10 {
            let sender = sender.clone();
            workers.run(move || sender.send(thread::current().id()).unwrap());
        }
        drop((sender, workers));
        let threads: Vec<_> = receiver.iter().collect();
        assert_eq!(threads.len(), 10);
        assert!(!threads.contains(&thread::current().id()));
    }
}
