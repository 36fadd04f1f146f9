//! Options with which a repository is opened.

use std::sync::Arc;

use super::permissions::Sharing;
use crate::progress::Interruption;

/// How a repository is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RepositoryOptions {
    /// Which other users may read the repository.
    pub sharing: Sharing,
    /// What ends the wait for another process; without it, the wait lasts until that process lets
    /// go.
    pub interruption: Option<Arc<dyn Interruption>>,
}
