//! Options with which a repository is opened.

use super::permissions::Sharing;
use crate::cancel::Cancel;

/// How a repository is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct RepositoryOptions {
    /// Which other users may read the repository.
    pub sharing: Sharing,
    /// What ends the wait for another process.
    pub cancel: Cancel,
}
