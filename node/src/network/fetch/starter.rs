//! A node that starts when it is first needed.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::network::{Mdns, Network, NetworkError};

type Start = Box<dyn FnOnce() -> Result<Network, NetworkError> + Send>;

/// A node that starts when it is first needed, and lives as long as this.
pub struct LazyNetwork {
    state: Mutex<State>,
    has_persistent: bool,
    mdns: Mdns,
}

enum State {
    Unstarted(Option<Start>),
    Running(Arc<Network>),
    Failed(Arc<NetworkError>),
}

impl fmt::Debug for LazyNetwork {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LazyNetwork")
            .finish_non_exhaustive()
    }
}

impl LazyNetwork {
    /// `start` is called at most once. `has_persistent` tells whether it will dial peers, and `mdns`
    /// whether others may turn up by themselves.
    pub fn new(
        has_persistent: bool,
        mdns: Mdns,
        start: impl FnOnce() -> Result<Network, NetworkError> + Send + 'static,
    ) -> LazyNetwork {
        LazyNetwork {
            state: Mutex::new(State::Unstarted(Some(Box::new(start)))),
            has_persistent,
            mdns,
        }
    }

    /// The node.
    ///
    /// # Errors
    /// Where it cannot be started; the same each time.
    pub fn get(&self) -> Result<Arc<Network>, Arc<NetworkError>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let State::Unstarted(start) = &mut *state {
            let start = start.take().expect("a state is left as soon as it is used");
            *state = match start() {
                Ok(network) => State::Running(Arc::new(network)),
                Err(error) => State::Failed(Arc::new(error)),
            };
        }
        match &*state {
            State::Running(network) => Ok(Arc::clone(network)),
            State::Failed(error) => Err(Arc::clone(error)),
            State::Unstarted(_) => unreachable!("it was started above"),
        }
    }

    pub(in crate::network) fn has_persistent(&self) -> bool {
        self.has_persistent
    }

    pub(in crate::network) fn mdns(&self) -> Mdns {
        self.mdns
    }
}
