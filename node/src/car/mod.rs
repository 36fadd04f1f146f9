//! CAR files: blocks in a row, in and out, as of the [CARv1] and [CARv2] specifications.
//!
//! Reading streams: memory is that of one block. Every block is hashed before it is given out, and
//! every length is bounded before it is believed.
//!
//! [CARv1]: https://ipld.io/specs/transport/car/carv1/
//! [CARv2]: https://ipld.io/specs/transport/car/carv2/

mod header;
mod reader;
mod writer;

pub use header::HeaderError;
pub use reader::{CarReader, import};
pub use writer::export;

use std::io;

use crate::block::{BlockError, Cid};
use crate::budget::BudgetError;
use crate::dag::DagError;

/// Why a CAR file cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CarError {
    /// The bytes do not begin as a CAR file does.
    #[error("this is no CAR file")]
    Header(#[from] HeaderError),
    /// The file ends inside a section.
    #[error("the CAR file is cut short after {offset} bytes")]
    Truncated {
        /// Bytes that were there.
        offset: u64,
    },
    /// A section has no valid CID or length.
    #[error("the section at byte {offset} of the CAR file is malformed")]
    InvalidSection {
        /// Where it starts.
        offset: u64,
    },
    /// A block does not match its CID, or cannot be checked or kept.
    #[error(transparent)]
    Block(#[from] BlockError),
    /// The DAG to be written cannot be walked.
    #[error(transparent)]
    Dag(#[from] DagError),
    /// The stream failed.
    #[error("cannot {action} the CAR file")]
    Io {
        /// What was tried, as a verb.
        action: &'static str,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// The file holds more than it may, or takes too long.
    #[error("cannot import the CAR file")]
    Budget(#[from] BudgetError),
    /// The reporter asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What an import of a CAR file brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CarImported {
    /// The roots that the file names.
    pub roots: Vec<Cid>,
    /// Sections read.
    pub blocks: u64,
    /// Bytes of their data.
    pub bytes: u64,
}
